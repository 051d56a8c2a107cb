"""What happens every N steps: progress, verification, checkpoints."""
import time

from common import checkpoint
from common.embedder import Embedder
from common.errors import UserError
from eval import verification
from recognition.trainer import Callback, NotFinite


class Progress(Callback):
    """Every `frequent` steps: speed, loss, accuracy, learning rate, and how long it will take yet.

    total: steps of the whole run, 0 where there is no end. Attribute: line, (step, loss, accuracy) of the last one.
    """

    line = (0, None, None)

    def __init__(self, log, frequent, total=0):
        self._log, self._frequent, self._total = log, frequent, total
        self._started = self._since = time.time()
        self._last = 0

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
        speed = steps * trainer.batch_size / (now - self._since)
        text = (f"Epoch[{trainer.epoch}] Batch [{trainer.steps}{f'/{self._total}' if self._total else ''}]\t"
                f"Speed: {speed:.2f} samples/sec\tloss={loss:.4f}\tacc={accuracy:.4f}\tlr={trainer.lr:g}")
        if self._total:
            left = (self._total - trainer.steps) * (now - self._started) / trainer.steps
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


class Verification(Callback):
    """Every `verbose` steps, and at the end: accuracy on every verification pack.

    packs: list of datasets.packs.Pack. Attributes: `checked`, the step of the last verification; `is_best`, whether
    it beat all before it: in accuracy on the last pack, and where that is equal, in the sum over all packs.
    """

    def __init__(self, log, packs, verbose, progress=None, nfolds=10):
        self._log, self._packs, self._verbose, self._progress, self._nfolds = log, packs, verbose, progress, nfolds
        self._highest = (-1.0, -1.0)
        self.checked, self.is_best = 0, False

    def step(self, trainer):
        if trainer.steps % self._verbose == 0:
            self._verify(trainer)

    def finish(self, trainer):
        if trainer.steps > self.checked:
            self._verify(trainer)

    def _verify(self, trainer):
        self.checked, self.is_best = trainer.steps, not self._packs
        if not self._packs:
            return
        started = time.time()
        # Bound anew each time: a graph bound for inference would go on with its first weights.
        embed = Embedder.from_params(trainer.embedding, *trainer.params(), trainer.devices,
                                     image_shape=self._packs[0].image_shape)
        accuracies = [self._score(trainer, embed, pack) for pack in self._packs]
        score = (accuracies[-1], sum(accuracies))
        self.is_best = score > self._highest
        self._highest = max(score, self._highest)
        self._log.line(f"[{trainer.steps}]Accuracy-Highest: {self._highest[0]:1.5f}")
        if self._progress:
            self._progress.resume_clock(time.time() - started)

    def _score(self, trainer, embed, pack):
        try:
            found = verification.test(pack, embed, self._nfolds, batch_size=embed.batch_size * len(trainer.devices),
                                      progress=False)
        except UserError as error:  # the pack was found to be sound before the training began
            raise NotFinite(f"verification after step {trainer.steps}: {error}") from error
        for line in verification.report_lines(f"[{pack.name}][{trainer.steps}]", found):
            self._log.line(line)
        self._log.record("verification", step=trainer.steps, target=pack.name, accuracy=found.result.accuracy,
                         accuracy_std=found.result.accuracy_std, xnorm=found.xnorm, eer=found.result.eer,
                         **{f"tar@{point.asked:g}": point.tar for point in found.result.exact if point.enough})
        return found.result.accuracy


class Checkpoint(Callback):
    """After each verification, save the model as `--ckpt` asks.

    mode: 0 never; 1 when it is the best so far, each under a new number; 2 always, each under a new number; 3 when it
    is the best so far, always as number 1. The number counts the verifications, as the original's does. Without
    verification packs every model counts as the best.
    verification: the Verification callback, which must stand before this one in the list. save: callable
    (prefix, epoch, trainer), see `save_symbol`. Attribute: `path`, of the last model saved, or None.
    """

    def __init__(self, log, prefix, mode, verification, save):
        self._log, self._prefix, self._mode, self._verification, self._save = log, prefix, mode, verification, save
        self._checked = self._number = 0
        self.path = None

    def step(self, trainer):
        if self._verification.checked == trainer.steps:
            self._consider(trainer)

    def finish(self, trainer):
        if self._checked < self._verification.checked:
            self._consider(trainer)

    def _consider(self, trainer):
        self._checked, self._number = self._verification.checked, self._number + 1
        if self._mode == 2 or (self._mode in (1, 3) and self._verification.is_best):
            number = 1 if self._mode == 3 else self._number
            self._save(self._prefix, number, trainer)
            self.path = checkpoint.params_path(self._prefix, number)
            self._log.line(f"saved {self.path}")
            self._log.record("checkpoint", step=trainer.steps, path=str(self.path))


def save_symbol(symbol):
    """A `save` for Checkpoint that stores `symbol` with those of the parameters that it has."""
    def save(prefix, epoch, trainer):
        arg_params, aux_params = trainer.params()
        arguments = set(symbol.list_arguments())
        checkpoint.save(prefix, epoch, symbol, {k: v for k, v in arg_params.items() if k in arguments}, aux_params)
    return save
