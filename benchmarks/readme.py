"""Put the tables of results/ into the pages: each between `<!-- results/NAME.csv -->` and `<!-- end -->`.
NAME.md goes in as it is.

    python benchmarks/readme.py
"""
import csv
import re
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import run
from common.errors import UserError
from common.files import write_text

ROOT = Path(__file__).resolve().parents[1]
_PLACE = re.compile(r"(<!-- (results/[\w-]+\.(?:csv|md)) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(path):
    """A CSV file as a Markdown table; below it stands the machine, of what was measured on one. A page as it is."""
    if not path.is_file():
        raise UserError(f"{path}: no such table; run its benchmark first")
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    keys = [key for key in rows[0] if key != "machine"]
    lines = [keys, ["---"] * len(keys), *([row[key] for key in keys] for row in rows)]
    machines = sorted({row["machine"] for row in rows if "machine" in row})
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + (f"\nMeasured on: {'; '.join(machines)}.\n"
                                                                     if machines else "")


def fill(text, root=ROOT):
    """A page's text with every table as results/ has it now."""
    return _PLACE.sub(lambda found: found[1] + table(root / found[2]) + found[3], text)


def pages():
    """README.md and those of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main():
    for path in pages():
        write_text(path, fill(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    run(main)
