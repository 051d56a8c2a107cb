"""Make a training set of a part of another one; the identities that are kept are numbered anew.

    python datasets/subset.py --input datasets/faces_emore --output datasets/small --identities 1000 --min-images 10

The flags are applied in the order --classes, --min-images, --identities, --share, --max-images. identities.csv beside
the new set tells the new class of every old one.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run


def parse_args():
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="folder of the training set")
    parser.add_argument("--output", required=True, help="new folder to write")
    parser.add_argument("--classes", help="text file of the classes to keep, numbers parted by blanks or lines")
    parser.add_argument("--min-images", type=int, default=1, help="leave out identities with fewer images")
    parser.add_argument("--identities", type=int, help="number of identities to draw; not given: all")
    parser.add_argument("--share", type=float, default=1.0, help="share of the images to draw, such as 0.1")
    parser.add_argument("--max-images", type=int, help="images to draw of an identity with more; not given: all")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is drawn")
    return parser.parse_args()


def main():
    """Run the command."""
    args = parse_args()
    from datasets.set_tools import read_classes, subset
    made = subset(args.input, args.output, args.classes and read_classes(args.classes), args.min_images,
                  args.identities, args.max_images, args.share, args.seed)
    print(f"{args.output}: {made.identities} identities, {made.images} images")


if __name__ == "__main__":
    run(main)
