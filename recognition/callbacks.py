"""What happens every N steps: progress, verification, checkpoints."""
import time
from pathlib import Path

from common import checkpoint
from common.embedder import Embedder
from common.errors import UserError
from eval import verification
from recognition.signals import Stopped
from recognition.trainer import Callback, NotFinite


class Progress(Callback):
    """Every `frequent` steps: speed, loss, accuracy, learning rate, and how long it will take yet.

    total: steps of the whole run, 0 where there is no end. Attribute: line, (step, loss, accuracy) of the last one.
    """

    line = (0, None, None)

    def __init__(self, log, frequent, total=0):
        self._log, self._frequent, self._total = log, frequent, total
        self._started = self._since = time.time()
        self._first = self._last = 0

    def start(self, trainer):
        self._started = self._since = time.time()
        self._first = self._last = trainer.steps

    def step(self, trainer):
        if trainer.steps % self._frequent == 0:
            self._say(trainer)

    def finish(self, trainer):
        if trainer.steps > self._last:
            self._say(trainer)

    def _say(self, trainer):
        loss, accuracy = trainer.take_metrics()
        self.line = trainer.steps, loss, accuracy
        now, steps = time.time(), trainer.steps - self._last
        speed = steps * trainer.batch_size * trainer.workers.size / (now - self._since)
        text = (f"Epoch[{trainer.epoch}] Batch [{trainer.steps}{f'/{self._total}' if self._total else ''}]\t"
                f"Speed: {speed:.2f} samples/sec\tloss={loss:.4f}\tacc={accuracy:.4f}\tlr={trainer.lr:g}")
        if self._total:
            left = (self._total - trainer.steps) * (now - self._started) / (trainer.steps - self._first)
            text += f"\t{_bar(trainer.steps / self._total)} {_clock(left)} left"
        self._log.line(text)
        self._log.record("progress", step=trainer.steps, epoch=trainer.epoch, samples_per_second=round(speed, 2),
                         loss=loss, accuracy=accuracy, lr=trainer.lr)
        self._since, self._last = now, trainer.steps

    def resume_clock(self, seconds):
        """Leave `seconds` spent on something else out of the speed."""
        self._since += seconds


def _bar(share, width=20):
    return f"[{'#' * int(share * width):-<{width}}] {share:4.0%}"


def _clock(seconds):
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class Gather(Callback):
    """Before the first worker verifies or saves, what the others have of their own: see `Trainer.gather`.

    Every worker has it. intervals: steps after each of which it is due, 0: none.
    """

    def __init__(self, *intervals):
        self._intervals = intervals

    def start(self, trainer):
        trainer.gather()

    def step(self, trainer):
        if any(every and trainer.steps % every == 0 for every in self._intervals):
            trainer.gather()

    def epoch(self, trainer):
        trainer.gather()

    def finish(self, trainer):
        trainer.gather()


class Verification(Callback):
    """Every `verbose` steps, and at the end: accuracy on every verification pack.

    packs: list of datasets.packs.Pack. stopped: callable, asked before each batch; where it is true, Stopped is raised
    and the verification is none.
    Attributes: `checked`, the step of the last verification; `accuracies`, what it found: pack's name -> accuracy;
    `score`, by which models are compared: accuracy on the last pack, and where that is equal, the sum over all packs;
    None without packs; `names` of the packs.
    """

    def __init__(self, log, packs, verbose, progress=None, nfolds=10, stopped=lambda: False):
        self._log, self._packs, self._verbose, self._progress, self._nfolds = log, packs, verbose, progress, nfolds
        self._stopped, self._highest = stopped, None
        self.checked, self.accuracies, self.score, self.names = 0, {}, None, [pack.name for pack in packs]

    def start(self, trainer):
        if trainer.steps > self.checked:  # it was stopped in the midst of it
            self.step(trainer)

    def step(self, trainer):
        if trainer.steps % self._verbose == 0:
            self._verify(trainer)

    def state(self):
        return dict(checked=self.checked, accuracies=self.accuracies, score=self.score, highest=self._highest,
                    packs=self.names)

    def restore(self, state):
        """Go on where `state()` was taken; with other packs, the best so far is counted anew."""
        self.checked = state["checked"]
        if state["packs"] == self.names:
            self.accuracies, self.score, self._highest = state["accuracies"], state["score"], state["highest"]

    def finish(self, trainer):
        if trainer.steps > self.checked:
            self._verify(trainer)

    def _verify(self, trainer):
        if self._packs:
            self._score_all(trainer)
        self.checked = trainer.steps

    def _score_all(self, trainer):
        started = time.time()
        # Bound anew each time: a graph bound for inference would go on with its first weights.
        embed = Embedder.from_params(trainer.embedding, *trainer.params(), trainer.devices,
                                     image_shape=self._packs[0].image_shape)
        found = [self._score(trainer, embed, pack) for pack in self._packs]
        for one in found:  # now that none is missing
            self._log.record("verification", step=trainer.steps, **one)
        self.accuracies = {one["target"]: one["accuracy"] for one in found}
        accuracies = list(self.accuracies.values())
        self.score = [accuracies[-1], sum(accuracies)]
        self._highest = max(self.score, self._highest or self.score)
        self._log.line(f"[{trainer.steps}]Accuracy-Highest: {self._highest[0]:1.5f}")
        if self._progress:
            self._progress.resume_clock(time.time() - started)

    def _score(self, trainer, embed, pack):
        """What a pack gives, as it goes into the log."""
        def watched(images):
            if self._stopped():
                raise Stopped
            return embed(images)

        try:
            found = verification.test(pack, watched, self._nfolds, batch_size=embed.batch_size * len(trainer.devices),
                                      progress=False)
        except UserError as error:  # the pack was found to be sound before the training began
            raise NotFinite(f"verification after step {trainer.steps}: {error}") from error
        for line in verification.report_lines(f"[{pack.name}][{trainer.steps}]", found):
            self._log.line(line)
        return dict(target=pack.name, accuracy=found.result.accuracy, accuracy_std=found.result.accuracy_std,
                    xnorm=found.xnorm, eer=found.result.eer,
                    **{f"tar@{point.asked:g}": point.tar for point in found.result.exact if point.enough})


class Checkpoint(Callback):
    """After each verification, save the model as `--ckpt` asks.

    mode: 0 never; 1 when it is the best so far, each under a new number; 2 always, each under a new number; 3 when it
    is the best so far, always as number 1. The number counts the verifications, as the original's does. Without
    verification packs every model counts as the best.
    verification: the Verification callback, which must stand before this one in the list. save: callable
    (prefix, epoch, trainer), see `save_symbol`. keep: numbered models kept, the latest; 0: all.
    best: also keep the best model of each pack, as <prefix>-best-<pack>,1; epochs: also keep that of the end of each
    epoch, as <prefix>-epoch,<number>.
    A model that cannot be written is told in a line, and the training goes on.
    Attributes: `path`, of the last model saved, or None; `failure`, the error of the last try, or None.
    """

    def __init__(self, log, prefix, mode, verification, save, keep=0, best=False, epochs=False):
        self._log, self._prefix, self._mode, self._verification, self._save = log, prefix, mode, verification, save
        self._keep, self._each, self._epochs = keep, best, epochs
        self._checked = self._number = 0
        self._best, self._best_of = None, {}  # of those that were saved
        self.path = self.failure = None

    def start(self, trainer):
        self.finish(trainer)

    def step(self, trainer):
        if self._verification.checked == trainer.steps:
            self._consider(trainer)

    def epoch(self, trainer):
        if self._epochs:
            self._try(trainer, f"{self._prefix}-epoch", trainer.epoch)

    def finish(self, trainer):
        if self._checked < self._verification.checked:
            self._consider(trainer)

    def state(self):
        return dict(checked=self._checked, number=self._number, best=self._best, best_of=self._best_of,
                    path=self.path and self.path.name, packs=self._verification.names)

    def restore(self, state):
        """Go on where `state()` was taken; with other packs, the best so far is counted anew."""
        self._checked, self._number = state["checked"], state["number"]
        self.path = state["path"] and Path(self._prefix).with_name(state["path"])
        if state["packs"] == self._verification.names:
            self._best, self._best_of = state["best"], state["best_of"]

    def _consider(self, trainer):
        found = self._verification
        self._checked, self._number = found.checked, self._number + 1
        is_best = self._best is None or found.score is None or found.score > self._best
        if self._mode == 2 or (self._mode in (1, 3) and is_best):
            if self._try(trainer, self._prefix, 1 if self._mode == 3 else self._number) and is_best:
                self._best = found.score
        for name, accuracy in found.accuracies.items() if self._each else ():
            if accuracy > self._best_of.get(name, -1) and self._try(trainer, f"{self._prefix}-best-{name}", 1):
                self._best_of[name] = accuracy

    def _try(self, trainer, prefix, number):
        """Save the model; returns whether it went well."""
        try:
            self._save(prefix, number, trainer)
            for old in checkpoint.find_epochs(prefix)[:-self._keep] if self._keep and prefix == self._prefix else ():
                checkpoint.remove(prefix, old)
        except NotFinite:
            raise
        except UserError as error:
            self._log.line(f"warning: the model is not saved: {error}; the training goes on")
            self.failure = error
            return False
        self.path, self.failure = checkpoint.params_path(prefix, number), None
        self._log.line(f"saved {self.path}")
        self._log.record("checkpoint", step=trainer.steps, path=str(self.path))
        return True


def save_symbol(symbol):
    """A `save` for Checkpoint that stores `symbol` with those of the parameters that it has."""
    def save(prefix, epoch, trainer):
        arg_params, aux_params = trainer.params()
        arguments = set(symbol.list_arguments())
        checkpoint.save(prefix, epoch, symbol, {k: v for k, v in arg_params.items() if k in arguments}, aux_params)
    return save
