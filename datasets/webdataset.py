"""Training sets to and from WebDataset shards: tar files of <key>.jpg and <key>.cls, the class in digits.

    python datasets/webdataset.py to --input datasets/faces_emore --output shards --shuffle
    python datasets/webdataset.py from --input shards --output datasets/mine
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run


def parse_args():
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    directions = parser.add_subparsers(dest="direction", required=True)
    to = directions.add_parser("to", help="training set to shards")
    to.add_argument("--input", required=True, help="folder of the training set")
    to.add_argument("--output", required=True, help="new folder to write <name>-000000.tar, ... to")
    to.add_argument("--name", default="train", help="what the names of shards begin with")
    to.add_argument("--images-per-shard", type=int, default=10000, help="images in a shard; fewer in the last one")
    to.add_argument("--shuffle", action="store_true", help="in a random order; without it, identity by identity")
    to.add_argument("--seed", type=int, default=0, help="seed of --shuffle")
    back = directions.add_parser("from", help="shards to training set")
    back.add_argument("--input", required=True, help="folder of the shards, *.tar, read in the order of their names")
    back.add_argument("--output", required=True, help="new folder to write")
    back.add_argument("--image-size", default="112,112", help="height,width that every image must have, in pixels")
    return parser.parse_args()


def main():
    """Run the command."""
    args = parse_args()
    from datasets.images import parse_image_size
    from datasets.tar_shards import read_shards, write_shards
    if args.direction == "to":
        count = write_shards(args.input, args.output, args.name, args.images_per_shard, args.shuffle, args.seed)
        print(f"{args.output}: {count} shards")
    else:
        made = read_shards(args.input, args.output, parse_image_size(args.image_size))
        print(f"{args.output}: {made.identities} identities, {made.images} images")


if __name__ == "__main__":
    run(main)
