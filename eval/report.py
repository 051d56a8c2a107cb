"""One HTML page of all that was trained and evaluated: curves, figures, tables, pictures, and how they came about.

    python eval/report.py models/r100-arcface-emore --output report.html
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.errors import UserError
from common.files import write_text
from eval.results import RESULTS, read_results
from eval.training_log import LOG, read_training


def write_report(folders, path, title=""):
    """Write the page of all trainings (`train.jsonl`) and evaluations (`results.json`) in some folders and below.

    folders: paths; path: of the page; title: empty for the folders' names. Returns the path.
    Raises UserError for a missing folder and where nothing is found, DataError for a damaged file.
    """
    from eval.report_page import make_page  # Matplotlib is slow to load

    folders = [Path(folder) for folder in folders]
    trainings = [read_training(found.parent) for found in _find(folders, LOG)]
    evaluations = [(found, entry) for found in _find(folders, RESULTS) for entry in read_results(found)]
    if not trainings and not evaluations:
        raise UserError(f"{', '.join(map(str, folders))}: neither a training ({LOG}) nor an evaluation ({RESULTS}) in "
                        "or below; name folders that recognition/train.py or the commands in eval/ have written")
    title = title or f"Report on {', '.join(folder.resolve().name for folder in folders)}"
    write_text(path, make_page(title, trainings, evaluations))
    return path


def _find(folders, name):
    """The files of a name in the folders and below, each once, in the order of their paths."""
    found = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        found.update({path.resolve(): path for path in sorted(folder.rglob(name))})
    return list(found.values())


def parse_args(args=None):
    parser = ArgumentParser(description="Write one HTML page of the trainings and evaluations in some folders.")
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="folder in or below which recognition/train.py or "
                        "the commands in eval/ have written")
    parser.add_argument("--output", default="report.html", help="the page to write")
    parser.add_argument("--title", default="", help="heading of the page; empty: the names of the folders")
    return parser.parse_args(args)


def main():
    args = parse_args()
    print(write_report(args.folders, args.output, args.title))


if __name__ == "__main__":
    run(main)
