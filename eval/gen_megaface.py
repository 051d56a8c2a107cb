"""Write the MegaFace and FaceScrub feature files of a model, or of several joined.

    python eval/gen_megaface.py --model ./models/r100,1 --facescrub-lst data/facescrub_lst \\
        --facescrub-root data/facescrub_images --megaface-lst data/megaface_lst --megaface-root data/megaface_images

Run it again to go on where it stopped. What `eval.features` does, for both sets.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.errors import UserError
from common.flags import add_device_flags, device_names, positive
from datasets.images import parse_image_size
from eval.features import claim, dump_features, read_list, unreadable_path


def parse_args(args=None):
    parser = ArgumentParser(description="Write MegaFace and FaceScrub feature files; complete ones are kept.")
    parser.add_argument("--model", required=True, help="PREFIX,EPOCH of a checkpoint; several with | between: their "
                        "features are joined")
    parser.add_argument("--facescrub-lst", default="./data/facescrub_lst", help="list of person/image; '' to leave out")
    parser.add_argument("--megaface-lst", default="./data/megaface_lst", help="list of a1/a2/image; '' to leave out")
    parser.add_argument("--facescrub-root", default="./data/facescrub_images", help="folder of the FaceScrub images")
    parser.add_argument("--megaface-root", default="./data/megaface_images", help="folder of the MegaFace images")
    parser.add_argument("--output", default="./feature_out", help="folder for the feature files")
    parser.add_argument("--algo", default="insightface", help="name in the feature files: <image>_<algo>.bin")
    parser.add_argument("--batch_size", "--batch-size", type=positive, default=8,
                        help="images that a device takes at once")
    parser.add_argument("--image_size", "--image-size", default="3,112,112",
                        help="channels, height and width of the images in pixels")
    add_device_flags(parser)
    return parser.parse_args(args)


def generate(models, sets, output, algo="insightface", batch_size=8, image_shape=(112, 112), devices=None):
    """Write the features of `sets` with the checkpoints `models`; yields (kind, Dump) of each set.

    models: list of 'prefix,epoch' or ONNX files. sets: dict kind -> (list file, root folder), kind 'facescrub' or
    'megaface'. devices: list of mx.Context. The rest as in `eval.features.dump_features`. Raises UserError before
    anything is computed for a bad model, list or name, and where other models have written to `output`.
    """
    from common.checkpoint import weights_path
    from common.embedder import Embedder

    if not algo or "/" in algo:
        raise UserError(f"--algo {algo!r}: expected a name without '/'")
    for kind, (list_path, _) in sets.items():
        read_list(list_path, kind)
    embeds = [Embedder(model, devices, batch_size, image_shape) for model in models]
    claim(output, algo, {model: weights_path(model) for model in models})
    for kind, (list_path, root) in sets.items():
        size = batch_size * len(devices or [None])
        yield kind, dump_features(kind, list_path, root, output, embeds, algo, size)


def main():
    args = parse_args()
    sets = {"facescrub": (args.facescrub_lst, args.facescrub_root), "megaface": (args.megaface_lst, args.megaface_root)}
    sets = {kind: place for kind, place in sets.items() if place[0]}
    if not sets:
        raise UserError("--facescrub-lst and --megaface-lst are both empty: nothing to do")
    channels, _, size = args.image_size.partition(",")
    if channels.strip() != "3":
        raise UserError(f"--image_size {args.image_size}: expected 3,height,width in pixels, such as 3,112,112")
    image_shape = parse_image_size(size)
    from common.checkpoint import on_backend
    from common.devices import get_devices

    devices = get_devices(device_names(args))
    models = [on_backend(model, args.backend) for model in args.model.split("|")]
    for kind, dump in generate(models, sets, args.output, args.algo, args.batch_size, image_shape,
                               devices):
        for entry in dump.unreadable:
            print(f"unreadable: {Path(sets[kind][1], entry)}", file=sys.stderr)
        print(f"{kind}: {dump.written} features written, {dump.kept} kept, unreadable images: {len(dump.unreadable)}"
              + (f" (see {unreadable_path(args.output, kind, args.algo)})" if dump.unreadable else ""))


if __name__ == "__main__":
    run(main)
