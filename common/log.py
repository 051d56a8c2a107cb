"""What a run says: lines on the terminal and in `train.log`, numbers as JSON lines in `train.jsonl`."""
import json
import time
from pathlib import Path

from common.errors import UserError


class RunLog:
    """The log of one run. folder: where the two files are appended to; None: the terminal alone. quiet: not there."""

    def __init__(self, folder=None, quiet=False):
        self._files, self._quiet = {}, quiet
        if folder is not None:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                self._files = {name: open(Path(folder, name), "a", encoding="utf-8", buffering=1)  # line by line
                               for name in ("train.log", "train.jsonl")}
            except OSError as error:
                raise UserError(f"{error.filename}: cannot be written: {error.strerror}") from error

    def line(self, text):
        """Say a line."""
        if not self._quiet:
            print(text, flush=True)
        if self._files:
            self._files["train.log"].write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def record(self, event, **values):
        """Keep the numbers of an event."""
        if self._files:
            self._files["train.jsonl"].write(json.dumps(dict(event=event, time=round(time.time(), 3), **values)) + "\n")

    def close(self):
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files = {}
