"""Make a verification pack of any list of pairs: lines `path1 path2 0|1` (1: same identity)."""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run


def parse_args():
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", required=True, help="list of pairs, fields parted by tabs or blanks")
    parser.add_argument("--root", required=True, help="folder that the paths in the list are relative to")
    parser.add_argument("--output", required=True, help="pack to write, such as faces.bin")
    parser.add_argument("--image-size", default="112,112", help="height,width that every image must have, in pixels")
    return parser.parse_args()


def main():
    """Run the command."""
    args = parse_args()
    from datasets.images import parse_image_size
    from datasets.pairs import describe_pairs, pack_pairs, read_pairs
    pairs = read_pairs(args.pairs, args.root)
    pack_pairs(pairs, args.output, parse_image_size(args.image_size))
    print(f"{args.output}: {describe_pairs(pairs)}")


if __name__ == "__main__":
    run(main)
