"""Going on with a training (`--resume`): from which state, under which settings; and the saving of its states."""
import json
import os
import time
from itertools import count
from pathlib import Path

from common.errors import UserError
from common.log import check_unused
from common.machine import machine
from common.mxnet_setup import mx
from recognition import presets, training_state
from recognition.trainer import Callback

# What may be another when a training goes on; what changes its rounding alone; what is looked at in another way
_FREE = ("recipe", "models_root", "pretrained", "pretrained_epoch", "ckpt", "ckpt_embedding", "ckpt_keep", "ckpt_best",
         "ckpt_epochs", "state_every", "state_keep", "verbose", "frequent", "report", "max_steps", "epochs", "targets",
         "dataset", "bad_images", "reader_timeout")
_ROUNDING = ("kvstore", "class_parallel", "memonger")
_CHECKED_APART = ("devices", "per_batch_size")


def about(settings, devices, folder, hashes):
    """What a state says of its training, a dict that JSON can hold: all that the training hangs on.

    devices: list of mx.Context; folder: of the data set; hashes: path -> hash, of its files and others.
    """
    kept = {key: value for key, value in settings.items() if key not in _FREE}
    return dict(settings=_as_json(kept),
                surroundings=dict(devices=[device.device_type for device in devices],
                                  threads=os.environ["OMP_NUM_THREADS"], machine=machine()),
                data={Path(path).name: digest for path, digest in hashes.items() if Path(path).parent == folder})


def _as_json(settings):
    return json.loads(json.dumps(settings))


def find_state(prefix, here):
    """The state to go on from.

    here: what `about` says of the training that is to go on. Returns (TrainingState, or None where there is none, and
    the training begins anew; lines to say). Raises UserError where the state is of another training, see `check`, and
    as `load_latest` does.
    """
    state, lines = training_state.load_latest(prefix)
    if state is None:
        return None, [f"--resume: no saved state in {Path(prefix).parent}, so the training begins anew"]
    lines.append(f"goes on after step {state.numbers['step']:,} of the training in {Path(prefix).parent}")
    return state, lines + check(state, here, Path(prefix).parent)


def check(state, here, folder):
    """Whether a state may be gone on from here.

    here: see `about`; folder: of the model, for messages. Returns lines: what is no longer exact. Raises UserError for
    whatever would make it another training.
    """
    before, now = state.numbers["settings"], here["settings"]
    defaults = _as_json(presets.resolve(presets.own_settings(now["network"], now["loss"]), {}, {}))
    batch = {"images in a batch of all devices": (before["per_batch_size"] * state.numbers["devices"],
                                                  now["per_batch_size"] * len(here["surroundings"]["devices"]))}
    files = {f"SHA-256 of the data set's {name}": (digest[:12], here["data"][name][:12])
             for name, digest in state.numbers["data"].items() if name in here["data"]}
    found = {**{f"--{key.replace('_', '-')}": (before.get(key, defaults[key]), value) for key, value in now.items()
                if key not in _ROUNDING + _CHECKED_APART}, **batch, **files}
    wrong = [f"{name} is {new!r} and was {old!r}" for name, (old, new) in found.items() if old != new]
    if wrong:
        raise UserError(f"--resume: this would not be the training in {folder}: {'; '.join(wrong)}; expected the same, "
                        "or name another --models-root for a new one")
    return _inexact(state, {key: (before.get(key), now[key]) for key in _ROUNDING}, here["surroundings"])


def _inexact(state, settings, here):
    """A line that says why the training will not be bit for bit what it would have been, or none."""
    found = {**{f"--{key.replace('_', '-')}": pair for key, pair in settings.items()},
             **{key: (state.numbers["surroundings"].get(key), value) for key, value in here.items()}}
    changed = [f"{name} {new} in place of {old}" for name, (old, new) in found.items() if old != new]
    if not changed:
        return []
    what = "sums are rounded in another order"
    if len(here["devices"]) != state.numbers["devices"]:
        what += (", BatchNorm's statistics (now the mean of those of the devices before) and dropout's masks are of "
                 "each device's own images")
    return [f"warning: goes on, but not bit for bit as without the stop ({'; '.join(changed)}): {what}"]


def set_aside(prefix):
    """Move what an earlier training has left, models and logs, to <folder>.earlier-<n>. Returns lines that say so.

    Raises UserError where that training is still running, and where the system refuses.
    """
    folder = Path(prefix).parent
    check_unused(folder)
    if not training_state.find_states(prefix) and not any(folder.glob(f"{Path(prefix).name}*.params")):
        return []
    target = next(path for path in (folder.with_name(f"{folder.name}.earlier-{n}") for n in count(1))
                  if not path.exists())
    try:
        os.replace(folder, target)
    except OSError as error:
        raise UserError(f"{folder}: holds an earlier training and cannot be moved to {target}: {error.strerror}; name "
                        "another --models-root, or go on with it by --resume") from error
    return [f"the earlier training in {folder} is kept in {target}"]


def share_state(state, workers):
    """Give every worker the state that the first has found, None where it has found none; returns it.

    So the files need not be on their machines.
    """
    if workers.size == 1:
        return state
    told = state and [state.numbers, {name: [array.shape, array.dtype.name] for name, array in state.arrays.items()}]
    told = json.loads(workers.tell(json.dumps(told)))
    if told is None:
        return None
    arrays = {name: mx.nd.array(state.arrays[name], dtype=kind) if state else mx.nd.zeros(shape, dtype=kind)
              for name, (shape, kind) in told[1].items()}
    workers.share(arrays)
    return training_state.TrainingState(told[0], {name: array.asnumpy() for name, array in arrays.items()})


def remove_unfinished(folder):
    """Remove what writers that were killed have left. Nothing else may write into the folder."""
    for path in Path(folder).glob(".*.tmp"):
        path.unlink(missing_ok=True)


class StateSaver(Callback):
    """Saves the state of a training, so that `--resume` goes on from there.

    After every `every` steps (0: not for this reason), each verification, each epoch, and at the end. keep: how many,
    the latest. callbacks: those before it in the list, whose states are saved too: first Progress, whose clock does not
    count the time that saving takes, and Verification. about: see `about`.
    A state that cannot be written is told in a line, and the training goes on.
    """

    def __init__(self, log, prefix, every, keep, batches, callbacks, about):
        self._log, self._prefix, self._every, self._keep, self._batches = log, prefix, every, keep, batches
        self._callbacks, self._about = callbacks, about
        self._progress, self._verification = callbacks[:2]
        self._saved, self._failing = None, False

    def step(self, trainer):
        if (self._every and trainer.steps % self._every == 0) or self._verification.checked == trainer.steps:
            self._try(trainer)

    def epoch(self, trainer):
        self._try(trainer)

    def finish(self, trainer):
        self.save(trainer)

    def _try(self, trainer):
        started = time.time()
        numbers, arrays = self._state(trainer)
        try:
            self._write(numbers, arrays)
            self._failing = False
        except UserError as error:
            if not self._failing:
                self._log.line(f"warning: the state is not saved: {error}; the training goes on, and tries again")
            self._failing = True
        self._progress.resume_clock(time.time() - started)

    def save(self, trainer):
        """Save the state, if it is not the last one saved. Raises UserError where it cannot be written."""
        self._write(*self._state(trainer))

    def _state(self, trainer):
        numbers, arrays = trainer.state()
        numbers.update(reader=self._batches.state(), **self._about,
                       callbacks={type(callback).__name__: callback.state() for callback in self._callbacks})
        return numbers, arrays

    def _write(self, numbers, arrays):
        if numbers == self._saved:
            return
        started, path = time.time(), training_state.state_path(self._prefix, numbers["step"])
        training_state.write_state(path, numbers, arrays)
        training_state.remove_old(self._prefix, numbers["step"], self._keep)
        self._saved = numbers
        self._log.line(f"saved {path} ({path.stat().st_size / 1e6:.1f} MB in {time.time() - started:.2f} s)")


def restore(state, batches, callbacks):
    """Bring reader and callbacks to where they were. Raises UserError where the reader is of other data."""
    batches.restore(state.numbers["reader"])
    for callback in callbacks:
        stored = state.numbers["callbacks"].get(type(callback).__name__)
        if stored:
            callback.restore(stored)
