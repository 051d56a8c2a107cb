"""Search faces in a gallery of known people; unknown faces are rejected at a threshold.

    python recognition/search.py enrol people/ --model models/r100,1 --gallery people.npz
    python recognition/search.py query a.jpg b.jpg --model models/r100,1 --gallery people.npz --threshold 0.3
    python recognition/search.py list --gallery people.npz
    python recognition/search.py remove "Ada Lovelace" --gallery people.npz

people/ has a sub-folder of pictures for each person, or a picture named for each. Enrolling again adds what is new.
See docs/usage.md.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.errors import DataError
from common.flags import positive
from recognition.use_flags import add_model_flags, add_threshold_flags, make_recogniser


def enrol(args):
    """Add the people of a folder."""
    from recognition.embedding_files import SHOWN

    done = make_recogniser(args).enrol(args.input, args.gallery)
    for problem in done.left_out[:SHOWN]:
        print(f"left out: {problem}")
    if not done.added + done.known:
        raise DataError(f"{args.input}: none of {len(done.left_out)} pictures can be used; {args.gallery} is as it was")
    print(f"{args.gallery}: {len(done.gallery.identities())} identities with {len(done.gallery)} pictures; added "
          f"{done.added}, there already {done.known}, left out {len(done.left_out)}")


def query(args):
    """Search the faces of pictures."""
    from tqdm import tqdm

    from common.files import check_writable, write_csv
    from recognition.matches import describe, table_rows
    from recognition.pictures import find_pictures
    from recognition.threshold import UNKNOWN

    recogniser, pictures = make_recogniser(args), find_pictures(args.input)
    gallery, threshold = recogniser.gallery(args.gallery), recogniser.threshold
    rows = []
    if args.output:
        check_writable(args.output)
    for found in recogniser.embed_all(pictures, args.faces, progress=len(pictures) > 1):
        matches = gallery.search(found.embeddings, threshold, args.most)
        tqdm.write("\n".join(describe(found, matches)))  # above the bar
        if args.output:
            rows += table_rows(found, matches)
    strangers = threshold and threshold.strangers(len(gallery.identities()))
    print(f"threshold {threshold}" if threshold else UNKNOWN)
    if strangers is not None:
        print(f"of strangers, about {strangers:.2%} are taken for one of {len(gallery.identities())} identities")
    if args.output:
        write_csv(args.output, rows)


def list_(args):
    """Tell who is in a gallery."""
    from recognition.gallery import load_gallery

    gallery = load_gallery(args.gallery)
    for name, pictures in gallery.identities().items():
        print(f"{pictures}\t{name}")
    print(f"{len(gallery.identities())} identities with {len(gallery)} pictures, model {gallery.model_name}, "
          f"--flip {gallery.flip}")


def remove(args):
    """Remove people."""
    from recognition.gallery import load_gallery

    gallery = load_gallery(args.gallery)
    for name in args.name:
        gallery.remove(name)
    gallery.save(args.gallery)
    print(f"{args.gallery}: {len(gallery.identities())} identities with {len(gallery)} pictures are left")


def parse_args(args=None):
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    part = _add(commands, "enrol", enrol)
    part.add_argument("input", metavar="FOLDER", help="a sub-folder of pictures for each person, named for them, or a "
                      "picture named for each")
    add_model_flags(part)
    part = _add(commands, "query", query)
    part.add_argument("input", nargs="+", help="pictures, and folders of them")
    part.add_argument("--most", type=positive, default=3, help="identities that are told of each face")
    part.add_argument("--faces", type=positive, default=1, help="faces that are searched of each photograph, the main "
                      "one first")
    part.add_argument("--output", default="", metavar="FILE.csv", help="write all matches as a table too")
    add_threshold_flags(part)
    add_model_flags(part)
    _add(commands, "list", list_)
    _add(commands, "remove", remove).add_argument("name", nargs="+", help="identities to remove")
    return parser.parse_args(args)


def _add(commands, name, function):
    part = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
    part.set_defaults(function=function)
    part.add_argument("--gallery", required=True, metavar="FILE.npz", help="the gallery's file")
    return part


def main():
    """Run the command."""
    args = parse_args()
    args.function(args)


if __name__ == "__main__":
    run(main)
