"""What the benchmarks share: tables that are written whole."""
import csv
import importlib.util
import statistics
from pathlib import Path

from common.errors import unknown_name
from common.files import write_csv

RESULTS = Path(__file__).resolve().parents[1] / "results"


def write_table(name, rows):
    """Write rows, dicts of the same keys, to results/<name>.csv. Returns the path."""
    path = RESULTS / f"{name}.csv"
    write_csv(path, rows)
    return path


def read_table(name):
    """The rows of results/<name>.csv, none where it is not there yet."""
    path = RESULTS / f"{name}.csv"
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []


def spread(values):
    """Mean and sample deviation of a few values."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def chosen(what, names, known, between=","):
    """Names with commas between, as a list; '': all that are known. Raises UserError for one that is not, a `what`."""
    names = names.split(between) if names else list(known)
    for name in names:
        if name not in known:
            raise unknown_name(what, name, known)
    return names


def at_hand(peers):
    """Those of the peers, a list of names, that can run here: what begins with `torch` needs PyTorch."""
    return [peer for peer in peers if not peer.startswith("torch") or importlib.util.find_spec("torch")]
