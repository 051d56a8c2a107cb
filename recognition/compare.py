"""Compare the faces of two pictures: their similarity, the decision, and a picture with both.

    python recognition/compare.py a.jpg b.jpg --model models/r100,1 --thresholds verification/results.json --far 1e-3

What recognition.recogniser.Recogniser.compare does; see docs/usage.md.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from recognition.use_flags import add_model_flags, add_threshold_flags, make_recogniser


def parse_args(args=None):
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("first", metavar="A.jpg", help="an aligned face, or with --detector a photograph")
    parser.add_argument("second", metavar="B.jpg", help="another one")
    parser.add_argument("--output", default="comparison.png", help="picture of both faces; none: no picture")
    add_threshold_flags(parser)
    add_model_flags(parser)
    return parser.parse_args(args)


def main():
    """Run the command."""
    args = parse_args()
    from common.files import write_bytes
    from recognition.threshold import UNKNOWN

    found = make_recogniser(args).compare(args.first, args.second)
    print(f"similarity {found.similarity:.4f} (cosine)")
    print(UNKNOWN if found.same is None else f"{found.verdict()}: the threshold is {found.threshold}")
    if args.output != "none":
        write_bytes(args.output, found.picture())
        print(f"{args.output}: both faces")


if __name__ == "__main__":
    run(main)
