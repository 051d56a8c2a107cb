"""Shuffle a training set into shards, which are read in long runs: for data larger than memory.

    python datasets/rec2shufrec.py --input datasets/faces_emore --output datasets/emore_shards
    python recognition/train.py --dataset datasets/emore_shards

Verification packs (*.bin) are copied along with --copy-vers.
"""
import shutil
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run

_SHARD_BYTES = 1 << 30


def parse_args():
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="name of a data set, or a folder with train.rec")
    parser.add_argument("--output", required=True, help="folder for the shards, which must be new")
    parser.add_argument("--shards", type=int, default=0, help="number of shards; 0: one for each GiB")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order")
    parser.add_argument("--copy-vers", action="store_true", help="copy the verification packs")
    return parser.parse_args()


def main():
    """Run the command."""
    args = parse_args()
    from datasets import find_dataset
    from datasets.shards import open_images, write_shards

    folder = find_dataset(args.input).folder
    images = open_images(folder)
    size = sum(path.stat().st_size for path in folder.glob("train*.rec"))
    count = args.shards or -(-size // _SHARD_BYTES)
    write_shards(images, args.output, count, args.seed)
    for pack in folder.glob("*.bin") if args.copy_vers else ():
        shutil.copyfile(pack, Path(args.output, pack.name))
    print(f"{args.output}: {len(images)} images of {images.num_classes} identities in {count} shards")


if __name__ == "__main__":
    run(main)
