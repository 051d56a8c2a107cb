"""What the benchmarks share: the machine's description, and tables that are written whole."""
import csv
import platform
import statistics
from pathlib import Path

import numpy as np

from common.cores import cpu_count
from common.files import write_csv
from common.mxnet_setup import mx

RESULTS = Path(__file__).resolve().parents[1] / "results"


def machine():
    """One line on where a figure was measured."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {cpu_count()} cores, Python {platform.python_version()}, MXNet {mx.__version__}, " \
           f"NumPy {np.__version__}"


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
