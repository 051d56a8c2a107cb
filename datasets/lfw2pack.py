"""Make a verification pack (lfw.bin) of LFW-style folders and pairs.txt."""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run


def parse_args():
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True,
                        help="folder with images/<Name>/<Name>_0001.jpg or <Name>/<Name>_0001.jpg (or .png)")
    parser.add_argument("--output", required=True, help="pack to write, such as datasets/faces_emore/lfw.bin")
    parser.add_argument("--pairs", help="list of pairs in LFW's format; not given: pairs.txt in --data-dir")
    parser.add_argument("--image-size", default="112,112", help="height,width that every image must have, in pixels")
    return parser.parse_args()


def main():
    """Run the command."""
    args = parse_args()
    from datasets.images import parse_image_size
    from datasets.pairs import describe_pairs, pack_pairs, read_lfw_pairs
    pairs = read_lfw_pairs(args.pairs or Path(args.data_dir, "pairs.txt"), args.data_dir)
    pack_pairs(pairs, args.output, parse_image_size(args.image_size))
    print(f"{args.output}: {describe_pairs(pairs)}")


if __name__ == "__main__":
    run(main)
