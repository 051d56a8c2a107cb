"""What every protocol leaves behind: an entry of `results.json` for the report, and a row in a table of evaluations.

An entry is a dict that JSON can hold:
  protocol  such as 'verification'; target: what was evaluated on; title: for people
  figures   name -> number or None: the summary, which the row repeats
  tables    list of dict(title, columns, rows, note): columns list of str; rows list of lists
  pictures  list of dict(file, caption): files beside results.json
  trace     how it came about: date, commit, command, machine, versions, model and its hash, network, loss, data set of
            the training, files of the evaluation and their hashes
and whatever else the protocol has to say.
"""
import csv
import fcntl
import io
import json
import re
import shlex
import sys
import time
from pathlib import Path

from common.checkpoint import parse_model, weights_path
from common.errors import DataError, UserError
from common.files import hash_file, open_plain, read_csv, read_json, write_text
from common.machine import commit, machine, versions

RESULTS = "results.json"
_LONGEST_HEAD = 1 << 20  # bytes
_COLUMNS = ("date", "protocol", "target", "figures", "network", "loss", "training_data", "model", "model_sha256",
            "data_sha256", "commit", "command", "machine")


def make_entry(protocol, target, title, figures, tables=(), pictures=(), trace=None, **more):
    """An entry, see above. Numbers that are not finite become None."""
    entry = dict(protocol=protocol, target=target, title=title, figures=figures, tables=list(tables),
                 pictures=list(pictures), trace=trace or {}, **more)
    return json.loads(json.dumps(entry), parse_constant=lambda name: None)


def table(title, columns, rows, note=""):
    """A table of an entry."""
    return dict(title=title, columns=list(columns), rows=[list(row) for row in rows], note=note)


def picture(file, caption):
    """A picture of an entry. file: its name beside results.json."""
    return dict(file=str(file), caption=caption)


def make_trace(model="", files=()):
    """How an evaluation comes about.

    model: 'prefix,epoch' or an ONNX file, or '' where none is known; one that is not on disk is only named. files:
    paths of its data.
    """
    found = dict(date=time.strftime("%Y-%m-%d %H:%M:%S"), commit=commit(), command=_command(), machine=machine(),
                 versions=versions(), model=model, model_sha256="", network="", loss="", training_data="",
                 files={str(path): hash_file(path) for path in files})
    if model:
        path = weights_path(model)
        if path.is_file():
            found["model_sha256"] = hash_file(path)
        found.update(_training(Path(parse_model(model)[0]).parent))
    return found


def _command():
    return shlex.join(["python", *sys.argv]) if sys.argv[0].endswith(".py") else ""


def _training(folder):
    """Network, loss and data set, of the settings that the training left beside its model."""
    try:
        settings = read_json(Path(folder, "settings.json"), dict)
        return dict(network=settings["network"], loss=settings["loss"], training_data=settings["dataset"])
    except (DataError, KeyError):  # a model from elsewhere
        return {}


def write_results(output, entries):
    """Write the entries to <output>/results.json."""
    write_text(Path(output, RESULTS), json.dumps(entries, indent=1) + "\n")


def read_results(path):
    """The entries of a results.json. Raises DataError, naming the line or the entry, for anything else."""
    entries = read_json(path, list)
    for number, entry in enumerate(entries, 1):
        if not _is_entry(entry):
            raise DataError(f"{path}: entry {number} is no result of an evaluation as eval/ writes it now; evaluate "
                            "again, or remove the file")
    return entries


def _is_entry(entry):
    try:
        return (all(isinstance(entry[name], str) for name in ("protocol", "target", "title"))
                and all(isinstance(entry[name], dict) for name in ("figures", "trace"))
                and isinstance(entry["trace"].get("files", {}), dict)
                and all(isinstance(found["columns"], list) and all(isinstance(row, list) for row in found["rows"])
                        and isinstance(found["title"], str) for found in entry["tables"])
                and all(isinstance(found[name], str) for found in entry["pictures"] for name in ("file", "caption"))
                and not any({"..", "/"} & {*Path(found["file"]).parts} for found in entry["pictures"]))
    except (KeyError, TypeError):
        return False


def add_record_flag(parser):
    """Add --record."""
    parser.add_argument("--record", default="", help="CSV that gets a row for every evaluation (figures, model, data, "
                        "commit, command, machine); empty: evaluations.csv beside the results")


def record_path(record, output):
    """The CSV that --record names, else that beside the results."""
    return Path(record or Path(output, "evaluations.csv"))


def append_record(path, entry):
    """Append an entry's row to a CSV, which is begun where it is missing. Several processes may append to one file.

    Raises UserError where it cannot be written or is another table.
    """
    trace, path = entry["trace"], Path(path)
    values = dict(trace, protocol=entry["protocol"], target=entry["target"],
                  figures=" ".join(f"{name}={_short(value)}" for name, value in entry["figures"].items()),
                  data_sha256=" ".join(trace.get("files", {}).values()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            open_plain(path).close()  # a device is not appended to
        with open(path, "a+", encoding="utf-8", errors="replace", newline="") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            head = file.readline(_LONGEST_HEAD)
            if head and head.rstrip("\n").split(",") != list(_COLUMNS):
                raise UserError(f"{path}: not a table of evaluations; its first line should be {','.join(_COLUMNS)}")
            file.write("" if head else _row(_COLUMNS))
            file.write(_row(values.get(name, "") for name in _COLUMNS))
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def read_records(path):
    """The rows of such a CSV, dicts, with `figures` as a dict name -> number or None. Raises DataError for any other
    file."""
    try:
        rows = [row for _, row in read_csv(path)[1]]
        for row in rows:
            row["figures"] = {name: float(value) if value else None
                              for name, value in re.findall(r"([^= ][^=]*)=(\S*)", row["figures"])}
        return rows
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a table of evaluations: {error}") from error


def _short(value):
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _row(values):
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()
