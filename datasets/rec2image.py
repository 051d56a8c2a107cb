"""Unpack training sets to image files: <output>/<identity>/<record number>.jpg, byte by byte.

    python datasets/rec2image.py --input datasets/faces_emore --output faces
    python datasets/rec2image.py --include datasets/one,datasets/two --output faces

With --input an identity is called by its class, with --include by the set's place in the list and its class: 0_17.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run


def parse_args():
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    sets = parser.add_mutually_exclusive_group(required=True)
    sets.add_argument("--input", help="folder of one training set")
    sets.add_argument("--include", help="folders of training sets, commas between")
    parser.add_argument("--output", required=True, help="new folder to write")
    return parser.parse_args()


def main():
    """Run the command."""
    args = parse_args()
    from datasets.set_tools import unpack
    made = unpack(args.input or args.include.split(","), args.output)
    print(f"{args.output}: {made.identities} identities, {made.images} images")


if __name__ == "__main__":
    run(main)
