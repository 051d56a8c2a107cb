"""Flags of the commands that put a model to use, and what they make: a Recogniser."""
from common.errors import UserError
from common.flags import add_device_flags, device_names, positive


def add_model_flags(parser):
    """Add --model and what goes with it."""
    parser.add_argument("--model", required=True, help="PREFIX,EPOCH of a checkpoint, such as models/r100,1")
    parser.add_argument("--detector", default=None, metavar="FOLDER", help="find faces in photographs with MTCNN: "
                        "det1, det2, det3 and, where there, det4, each -symbol.json and -0001.params; without it "
                        "pictures have to be aligned faces")
    parser.add_argument("--min-size", type=positive, default=40, help="smallest face that is looked for, in pixels of "
                        "a photograph of at most 1600 on its longer side")
    parser.add_argument("--flip", choices=("sum", "concat", "none"), default="sum", help="the mirrored image's "
                        "embedding is added, set beside, or left out")
    parser.add_argument("--image-size", default="112,112", help="height,width of the model's images in pixels")
    parser.add_argument("--batch-size", type=positive, default=64, help="faces that a device embeds at once")
    add_device_flags(parser)


def add_threshold_flags(parser):
    """Add --threshold, and --thresholds with what goes with it."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--threshold", type=float, help="cosine similarity from which on faces count as one person")
    where.add_argument("--thresholds", metavar="RESULTS.json", help="take it from a verification of this model (what "
                       "eval/verification.py writes), at the FAR of --far")
    parser.add_argument("--far", type=float, help="share of pairs of different people that may be taken for one "
                        "person, such as 1e-3; for --thresholds")
    parser.add_argument("--target", help="pack of that verification, where there are several, such as lfw")


def make_recogniser(args, **settings):
    """The Recogniser that the flags ask for; settings: of it, over the flags."""
    from common.checkpoint import on_backend
    from common.devices import get_devices
    from datasets.images import parse_image_size
    from recognition.recogniser import Recogniser

    settings = dict(dict(batch_size=args.batch_size, threshold=_threshold(args)), **settings)
    model = on_backend(args.model, args.backend)
    return Recogniser(model, args.detector, flip=args.flip, devices=get_devices(device_names(args)),
                      image_shape=parse_image_size(args.image_size), min_size=args.min_size, **settings)


def _threshold(args):
    from recognition.threshold import read_threshold

    if getattr(args, "thresholds", None) is None:
        unused = [name for name in ("far", "target") if getattr(args, name, None) is not None]
        if unused:
            raise UserError(f"--{unused[0]}: for --thresholds, which is not given")
        return getattr(args, "threshold", None)
    if args.far is None:
        raise UserError("--thresholds: at which FAR? name one with --far, such as --far 1e-3")
    return read_threshold(args.thresholds, args.far, args.model, args.flip, args.target)
