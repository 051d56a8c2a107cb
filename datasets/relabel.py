"""Give the classes of a training set other numbers, join them, or leave them out.

    python datasets/relabel.py --input datasets/mine --mapping mapping.csv --output datasets/relabelled
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
    parser.add_argument("--mapping", required=True, help="CSV file with columns original,identity: the class in "
                        "--input and the new one, -1 to leave it out; such as the identities.csv of other tools")
    parser.add_argument("--output", required=True, help="new folder to write")
    return parser.parse_args()


def main():
    """Run the command."""
    args = parse_args()
    from datasets.set_tools import relabel
    made = relabel(args.input, args.output, args.mapping)
    print(f"{args.output}: {made.identities} identities, {made.images} images")


if __name__ == "__main__":
    run(main)
