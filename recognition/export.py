"""Export a trained network: ONNX, a symbol for Gluon's SymbolBlock, an MXNet checkpoint without its head or for INT8.

    python recognition/export.py --model ./models/r100-arcface-emore/model,1 --format onnx
    python recognition/export.py --model ./models/r100-arcface-emore/model,1 --format int8 \\
        --calibration datasets/faces_emore --check-pairs datasets/faces_emore/lfw.bin

The result is compared with MXNet on faces and refused where it differs. A model card and a data sheet are written
beside it. See docs/export.md.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.errors import UserError
from common.files import write_text
from common.flags import positive


def parse_args(args=None):
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="PREFIX,EPOCH of a checkpoint")
    parser.add_argument("--format", default="onnx", help="onnx: for onnxruntime and others; gluon: for SymbolBlock, "
                        "batch norm folded; mxnet: a checkpoint without the head; int8: one that a CPU runs in "
                        "8-bit integers")
    parser.add_argument("--output", default="", help="the .onnx file, or the prefix of the files of other formats; "
                        "empty: PREFIX-EPOCH.onnx, PREFIX-gluon, -slim or -int8")
    parser.add_argument("--normalise", action="store_true", help="let embeddings have length 1")
    parser.add_argument("--image-size", default="112,112", help="height,width of the images in pixels")
    parser.add_argument("--faces", default="", help="what the result is compared with MXNet on: a .bin pack, a folder "
                        "with train.rec or a folder of images; empty: rendered faces")
    parser.add_argument("--calibration", default="", help="for int8: folder with train.rec, on images of which ranges "
                        "are measured")
    parser.add_argument("--calibration-images", type=positive, default=500, help="how many images of it are drawn; a "
                        "fifth of them are held out, to compare INT8 with float32 on")
    parser.add_argument("--check-pairs", default="", help="for int8: a verification pack, to compare accuracies on")
    parser.add_argument("--most-lost", type=float, default=0.2, help="points (hundredths) of accuracy on these pairs "
                        "that INT8 may lose; above, nothing is written")
    parser.add_argument("--evaluations", nargs="+", default=[], metavar="FOLDER", help="folders in or below which "
                        "eval/ has written, for the model card; the model's own is looked into anyway")
    parser.add_argument("--no-card", dest="card", action="store_false", help="write no model card and no data sheet")
    return parser.parse_args(args)


def write_cards(exported, folders=()):
    """Write the model card and the data sheet beside an exported model; one that is there already is kept.

    exported: a `recognition.exporting.Exported`; folders: of evaluations. Returns lines that say so.
    """
    from recognition.model_card import card, data_sheet, gather

    evidence, lines = gather(exported, folders), []
    for name, make in ("card", card), ("data-sheet", data_sheet):
        path = exported.files[0].with_name(f"{exported.files[0].stem}-{name}.md")
        kept = path.exists()
        if not kept:
            write_text(path, make(exported, evidence))
        lines.append(f"{name}: {path}" + " is kept as it is; delete it to have it written anew" * kept)
    return lines


def summary(exported):
    """What was written, as lines of text."""
    height, width = exported.network.image_shape
    lines = [f"{path}: {path.stat().st_size / 1e6:.1f} MB" for path in exported.files]
    lines.append(f"data (N, 3, {height}, {width}) RGB 0..255 -> embedding (N, {exported.network.emb_size()}), "
                 f"{'' if exported.normalised else 'not '}L2-normalised")
    lines.append(f"largest difference to MXNet on {exported.faces} faces: {exported.difference:.1e} of an embedding's "
                 "length")
    lines += exported.measured
    if exported.shares_batch:
        lines.append("note: an image's embedding depends a little on the other images of its batch (GNAP)")
    return lines


def main():
    """Run the command."""
    args = parse_args()
    from datasets.images import parse_image_size
    from recognition.exporting import export
    from recognition.int8_export import Calibration
    from recognition.model_card import check_folders

    check_folders(args.evaluations)
    if args.check_pairs and not args.calibration:
        raise UserError("--check-pairs: goes with --format int8 and --calibration")
    calibration = args.calibration and Calibration(args.calibration, args.calibration_images, args.check_pairs,
                                                   args.most_lost)
    exported = export(args.model, args.format, args.output, args.normalise, parse_image_size(args.image_size),
                      args.faces, calibration or None)
    print("\n".join(summary(exported)))
    if args.card:
        print("\n".join(write_cards(exported, args.evaluations)))


if __name__ == "__main__":
    run(main)
