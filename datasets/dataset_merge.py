"""Merge training sets: the identities of one behind those of the other.

    python datasets/dataset_merge.py --include datasets/one,datasets/two --output datasets/both

identities.csv beside the merged set tells the new class of every old one.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run


def parse_args():
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--include", required=True, help="folders of training sets, commas between")
    parser.add_argument("--output", required=True, help="new folder to write")
    parser.add_argument("--same", help="CSV file of identities that are one person, with columns "
                        "set,class,same_set,same_class; sets by their place in --include, from 0")
    return parser.parse_args()


def main():
    """Run the command."""
    args = parse_args()
    from datasets.set_tools import merge_sets
    made = merge_sets(args.include.split(","), args.output, args.same)
    print(f"{args.output}: {made.identities} identities, {made.images} images")


if __name__ == "__main__":
    run(main)
