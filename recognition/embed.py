"""Embed faces: images, folders of them, or a .rec file, to one .npy file.

    python recognition/embed.py people/ --model models/r100,1 --output faces.npy

faces.npy holds a row for each face, (N, D) float32, L2-normalised unless --raw; faces.csv tells which: row, image,
label, and for pictures without a row the reason. What recognition.recogniser.Recogniser.embed_all does; see
docs/usage.md.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from recognition.use_flags import add_model_flags, make_recogniser


def parse_args(args=None):
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("input", nargs="+", help="images and folders of them, of any depth, or one .rec file, whose "
                        ".idx lies beside it")
    parser.add_argument("--output", required=True, metavar="FILE.npy", help="file to write; FILE.csv beside it")
    parser.add_argument("--raw", action="store_true", help="do not normalise: the lengths are kept")
    add_model_flags(parser)
    return parser.parse_args(args)


def main():
    """Run the command."""
    args = parse_args()
    from recognition.embedding_files import write_embeddings
    from recognition.pictures import find_pictures

    written = write_embeddings(args.output, make_recogniser(args), find_pictures(args.input), args.raw)
    for problem in written.problems:
        print(f"left out: {problem}")
    print(f"{args.output}: {written.rows} embeddings of {written.dimensions} dimensions; left out: {written.left_out}; "
          f"{written.listed}: which image each row is of")


if __name__ == "__main__":
    run(main)
