"""Align the faces of a tree of photographs: the same tree of images of one size, landmarks at ArcFace's places."""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.errors import UserError


def parse_args():
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="folder of photographs, such as <identity>/*.jpg, of any depth")
    parser.add_argument("--output", required=True, help="folder to write; a run that was stopped goes on in it")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--landmarks", metavar="FILE.csv", help="where the faces are; columns: image,x1,y1,x2,y2, then "
                       "x and y of left_eye, right_eye, nose, left_mouth, right_mouth")
    where.add_argument("--detector", metavar="FOLDER", help="find them with MTCNN: det1, det2, det3 and, where there, "
                       "det4, each -symbol.json and -0001.params")
    parser.add_argument("--image-size", default="112,112", help="height,width of an aligned face: 112,112 or 112,96, "
                        "or a multiple")
    parser.add_argument("--min-size", type=int, default=40, help="smallest face, in pixels")
    parser.add_argument("--thresholds", default="0.6,0.7,0.7", help="probabilities that MTCNN's three networks "
                        "must see")
    parser.add_argument("--format", default="jpg", choices=["jpg", "png"], help="of the aligned faces")
    parser.add_argument("--quality", type=int, default=95, help="of JPEGs, 1 to 100")
    parser.add_argument("--centre-crop", action="store_true", help="take the middle of a photograph without a face "
                        "instead of dropping it")
    parser.add_argument("--overwrite", action="store_true", help="begin anew where --output holds aligned faces")
    parser.add_argument("--workers", type=int, help="processes (default: one for each core)")
    return parser.parse_args()


def parse_thresholds(text):
    """'0.6,0.7,0.7' as numbers. Raises UserError for what are none."""
    try:
        return tuple(float(field) for field in text.split(","))
    except ValueError as error:
        raise UserError(f"thresholds {text!r}; expected three numbers, such as 0.6,0.7,0.7") from error


def main():
    """Run the command."""
    args = parse_args()
    from datasets.alignment import DROPPED, align_folder
    from datasets.images import parse_image_size
    made = align_folder(args.input, args.output, args.landmarks, args.detector, parse_image_size(args.image_size),
                        args.format, args.quality, args.centre_crop, args.min_size, parse_thresholds(args.thresholds),
                        args.overwrite, args.workers)
    for message in made.unreadable:
        print(f"unreadable {message}")
    for reason, count in made.dropped.most_common():
        print(f"{count} photographs: {reason}")
    print(f"{args.output}: aligned {made.aligned}, there already {made.skipped}, in {DROPPED} "
          f"{sum(made.dropped.values())}")


if __name__ == "__main__":
    run(main)
