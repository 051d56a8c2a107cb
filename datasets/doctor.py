"""Examine a whole training set (a folder with train.rec, train.idx, property) or a verification pack (.bin).

Exit code 0: no error; 1: errors were found; 2: it could not be examined."""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run


def parse_args():
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("path", help="folder with train.rec, or a verification pack .bin")
    parser.add_argument("--output", help="folder to write report.html and findings.csv (all findings) to")
    parser.add_argument("--fix", help="write a repaired copy: to a new folder, or to a new .bin for a pack")
    parser.add_argument("--seal", action="store_true", help="write checksums beside the set, if no error is found; "
                        "later examinations hold it against them")
    parser.add_argument("--near-bits", type=int, default=3, help="images count as near duplicates when at most so many "
                        "of the 64 bits of their hashes differ, 0 to 8")
    parser.add_argument("--folds", type=int, default=10, help="folds of the verification, for packs")
    parser.add_argument("--image-size", default="112,112", help="height,width that images of a pack must have, in "
                        "pixels; a training set says it in its property")
    return parser.parse_args()


def main():
    """Run the command."""
    args = parse_args()
    from datasets.examination import examine
    from datasets.images import parse_image_size
    found = examine(args.path, args.output, args.fix, args.seal, args.near_bits, args.folds,
                    parse_image_size(args.image_size))
    for line in found.lines:
        print(line)
    return 1 if found.errors else 0


if __name__ == "__main__":
    run(main)
