"""The state of a training on disk, `<prefix>-<step>.state`, from which `--resume` goes on.

A line of JSON (all numbers, and `version`), the arrays as `mx.nd.save` writes them, the SHA-256 of both (32 bytes).
Nothing in it is code, or can become code.
"""
import hashlib
import json
import re
from pathlib import Path
from typing import Dict, NamedTuple

from common import checkpoint
from common.errors import DataError, UserError
from common.files import read_bytes, remove, replacing
from common.sums import HashingFile

VERSION = 1
_HASH_SIZE = 32
_ALIGNED = 64  # bytes, of which the arrays begin at a multiple
_STEP = re.compile(r"-(\d{8,})\.state")


class TrainingState(NamedTuple):
    """numbers: dict that JSON can hold; arrays: dict name -> NumPy array; see `Trainer.state`."""

    numbers: Dict
    arrays: Dict


class NewerState(UserError):
    """A state that a later version of this project has written."""


def state_path(prefix, step):
    """The file of the state after a step."""
    return Path(f"{prefix}-{step:08d}.state")


def find_states(prefix):
    """The states of a training: (step, path) of each, in rising order."""
    prefix = Path(prefix)
    paths = prefix.parent.iterdir() if prefix.parent.is_dir() else ()
    found = ((_STEP.fullmatch(path.name[len(prefix.name):]), path) for path in paths
             if path.name.startswith(prefix.name))
    return sorted((int(match[1]), path) for match, path in found if match)


def write_state(path, numbers, arrays):
    """Write a state, whole or not at all. arrays: dict name -> NDArray. Raises UserError where it cannot be written."""
    head = json.dumps(dict(numbers, version=VERSION), sort_keys=True).encode()
    head += b" " * (-(len(head) + 1) % _ALIGNED) + b"\n"
    with replacing(path) as temporary, open(temporary, "wb") as file:
        hashing = HashingFile(file)
        hashing.write(head)
        checkpoint.write_arrays(hashing, arrays)
        file.write(hashing.digest())


def read_state(path):
    """Read a state. Raises DataError where it is damaged, NewerState where this version cannot know what it means."""
    data = memoryview(read_bytes(path))
    body = data[:-_HASH_SIZE]
    if hashlib.sha256(body).digest() != data[-_HASH_SIZE:]:
        raise DataError(f"{path}: damaged or cut short: its SHA-256 is not the one at its end")
    head = bytes(body[:_find_end(body)])
    try:
        numbers = json.loads(head)
        version = numbers["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the state of a training: {error}") from error
    if version > VERSION:
        raise NewerState(f"{path}: written by a newer version of this project (state version {version}, this one knows "
                         f"{VERSION}): update the clone")
    return TrainingState(numbers, checkpoint.parse_arrays(path, body[len(head) + 1:]))


def _find_end(body, block=1 << 16):
    """Where the first line ends."""
    for start in range(0, len(body), block):
        place = bytes(body[start:start + block]).find(b"\n")
        if place >= 0:
            return start + place
    return len(body)


def load_latest(prefix):
    """The latest whole state of a training.

    Returns (TrainingState or None where there is none, a line for each damaged one that was passed over). Raises
    UserError where all are damaged, so that no run begins anew in their place unasked, and for a NewerState.
    """
    lines, states = [], find_states(prefix)
    for _, path in reversed(states):
        try:
            return read_state(path), lines
        except DataError as error:
            lines.append(f"warning: {error}; the one before it is used")
    if states:
        raise UserError(f"--resume: none of the {len(states)} saved states in {Path(prefix).parent} is whole, the last "
                        f"is {states[-1][1].name}; remove them to begin anew, for instance with --pretrained")
    return None, lines


def remove_old(prefix, step, keep):
    """Keep the `keep` latest states up to this step. Later ones are of a time that a training has gone back before."""
    states = find_states(prefix)
    kept = [path for number, path in states if number <= step][-keep:]
    for _, path in states:
        if path not in kept:
            remove(path)
