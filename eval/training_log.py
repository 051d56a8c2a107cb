"""What a training has left in its model's folder: `train.jsonl` and `settings.json`, read for the report."""
import json
from pathlib import Path
from typing import Dict, List, NamedTuple

import numpy as np

from common.errors import DataError
from common.files import read_bytes, read_json

LOG = "train.jsonl"
_NUMBERS = {  # event: what it must hold as a number
    "start": ("time", "step"),
    "resume": ("time", "step"),
    "progress": ("time", "step", "epoch", "samples_per_second", "loss", "accuracy", "lr"),
    "verification": ("time", "step", "accuracy", "accuracy_std", "xnorm"),
    "checkpoint": ("step",),
    "warning": ("step",),
    "bad_image": ("step", "record"),
    "bad_images": ("step", "images", "replaced"),
}


class Training(NamedTuple):
    """The last run in a log. settings: dict, empty where there is no settings.json; start: what the run said at its
    start (command, versions, ...), empty in logs that do not tell; runs: how many the log holds; resumed: steps after
    which it was stopped and went on; progress: name -> (N,) values; verification: target -> name -> (M,) values;
    checkpoints: (step, path) of each; warnings: what the run said, a line each; bad_images: record numbers of damaged
    images that were left out."""

    folder: Path
    settings: Dict
    start: Dict
    runs: int
    resumed: List
    progress: Dict
    verification: Dict
    checkpoints: List
    warnings: List
    bad_images: List


def read_training(folder):
    """Read a model's folder. Returns a Training. Raises DataError, naming file and line, for damaged files."""
    folder = Path(folder)
    runs, events = _last_run(read_events(folder / LOG))
    starts = [event for event in events if event["event"] == "start"]
    targets = dict.fromkeys(event["target"] for event in events if event["event"] == "verification")
    return Training(
        folder, read_settings(folder / "settings.json"), starts[-1] if starts else {}, runs,
        [event["step"] for event in events if event["event"] == "resume"],
        _columns(events, "progress"), {name: _columns(events, "verification", name) for name in targets},
        [(event["step"], event.get("path", "")) for event in events if event["event"] == "checkpoint"],
        [f"step {event['step']:,}: {event.get('text', '')}" for event in events if event["event"] == "warning"],
        [event["record"] for event in events if event["event"] == "bad_image"])


def read_events(path):
    """The events of a log, a list of dict; those of other kinds are left out, as is a last line still being written."""
    *lines, unfinished = read_bytes(path).split(b"\n")
    if not b"{\"event\"".startswith(unfinished[:8]):
        lines.append(unfinished)
    events = []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line.decode())
            numbers = _NUMBERS.get(event["event"])
            if numbers is None:
                continue
            if (all(isinstance(event[name], (int, float)) for name in numbers)
                    and isinstance(event["target"] if event["event"] == "verification" else "", str)
                    and isinstance(event.get("trace", {}), dict)):
                events.append(event)
                continue
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise DataError(f"{path} line {number}: no event of a training; mend or remove that line")
    return events


def _last_run(events):
    """How many runs a log holds, and the events of the last.

    A run begins with "start", and goes on after the step named there with what was logged up to it; "resume" goes on
    in the same way with the same run. Logs from before there were such events begin a run where the steps go back.
    """
    runs, kept, steps = 0, [], {}
    for event in events:
        key = event["event"], event.get("target")
        if event["event"] == "resume":
            kept, steps = [known for known in kept if known["step"] <= event["step"]], {}
        elif event["event"] == "start" or event["step"] <= steps.get(key, -1) or not runs:
            came_to = event["step"] if event["event"] == "start" else -1
            runs, kept, steps = runs + 1, [known for known in kept if known["step"] <= came_to], {}
        steps[key] = event["step"]
        kept.append(event)
    return runs, kept


def _columns(events, kind, target=None):
    """What all events of a kind hold as numbers: name -> (N,) values."""
    rows = [event for event in events if event["event"] == kind and event.get("target") == target]
    names = [name for name in (rows[0] if rows else _NUMBERS[kind])
             if all(isinstance(row.get(name), (int, float)) for row in rows)]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in names}


def read_settings(path):
    """The settings that a training has left in a JSON file: a dict, empty where there is none. Raises DataError."""
    if not path.exists():
        return {}
    return read_json(path, dict)
