"""What a run says: lines on the terminal and in `train.log`, numbers as JSON lines in `train.jsonl`."""
import fcntl
import json
import time
from pathlib import Path

from common.errors import UserError
from common.files import read_bytes, write_bytes

_TEXT, _RECORDS = "train.log", "train.jsonl"
_REPEATED = ("verification", "checkpoint")  # what a run does again that was killed between its record and its state


class RunLog:
    """The log of one run. folder: where the two files are appended to; None: the terminal alone. quiet: not there.

    resumed_at: the step from which a training goes on; records of later steps, which it will do again, are dropped,
    and what it did after that very step is not recorded twice.
    When the files can no longer be written, a line on the terminal says so and the run goes on; a folder that was
    removed is made again. Raises UserError where they cannot be written to begin with, or another run does so.
    """

    def __init__(self, folder=None, resumed_at=None, quiet=False):
        self._folder, self._files, self._failing, self._quiet = folder and Path(folder), {}, False, quiet
        self._told = set()
        if folder is not None:
            try:
                self._open()
                kept = _mend(self._folder / _RECORDS, resumed_at)
                self._told = {key for key in map(_repeated, kept) if key and key[1] == resumed_at}
                self._open()
            except OSError as error:
                raise UserError(f"{error.filename}: cannot be written: {error.strerror}") from error

    def _open(self):
        self._close_files()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files = {name: open(self._folder / name, "a", encoding="utf-8", buffering=1)  # line by line
                       for name in (_TEXT, _RECORDS)}
        _lock(self._files[_TEXT])

    def _append(self, name, text):
        if self._folder is None:
            return
        try:
            if not self._files or not (self._folder / name).exists():
                self._open()
            self._files[name].write(text)
            self._failing = False
        except (OSError, UserError) as error:
            if not self._failing:
                _say(f"warning: {self._folder / name}: cannot be written: {getattr(error, 'strerror', error)}; the run "
                     "goes on, and what it says is on the terminal alone until it can")
            self._failing = True

    def line(self, text):
        """Say a line."""
        if not self._quiet:
            _say(text)
        self._append(_TEXT, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def record(self, event, **values):
        """Keep the numbers of an event."""
        record = dict(event=event, time=round(time.time(), 3), **values)
        if _repeated(record) not in self._told:
            self._append(_RECORDS, json.dumps(record) + "\n")

    def _close_files(self):
        for file in self._files.values():
            try:
                file.close()
            except OSError:  # a full disk, of which was told
                pass
        self._files = {}

    def close(self):
        """Close the files; what is said later is on the terminal alone."""
        self._close_files()
        self._folder = None


def check_unused(folder):
    """Raise UserError where a run writes its log into this folder now."""
    path = Path(folder, _TEXT)
    if path.exists():
        try:
            with open(path, "a", encoding="utf-8") as file:
                _lock(file)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def _lock(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
    except BlockingIOError:
        raise UserError(f"{Path(file.name).parent}: another run writes into this folder; wait for its end, or name "
                        "another one") from None
    except OSError:  # a file system without locks
        pass


def _say(text):
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError:  # a terminal that is gone, or a file on a full disk, is not worth a run
        pass


def _mend(path, resumed_at):
    """Drop a last record that was cut short, and those of steps after `resumed_at`, unless that is None.

    Returns the others, a list of dicts; what is no record is an empty one, and whoever reads the log says so.
    """
    content = read_bytes(path)
    lines = content.splitlines(keepends=True)
    last = float("inf") if resumed_at is None else resumed_at
    found = [(line, _parse(line)) for line in lines if line.endswith(b"\n")]
    kept = [(line, record) for line, record in found if record.get("step", 0) <= last]
    if len(kept) != len(lines):
        write_bytes(path, b"".join(line for line, _ in kept))
    return [record for _, record in kept]


def _parse(line):
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _repeated(record):
    """What tells apart records that a training which goes on may make again; None for others."""
    event = record.get("event")
    return (event, record.get("step"), record.get("target"), record.get("path")) if event in _REPEATED else None
