"""What keeps a training from going on in vain: numbers that are not finite, labels of few classes, nothing learnt."""
import math
from functools import partial

import numpy as np

from common.errors import DataError
from datasets.bad_images import BadImages
from datasets.image_set import LabelError
from recognition.heads import LOSSES
from recognition.trainer import Callback

_SAMPLE = 1000  # records whose labels are looked at before the training begins
_FEW = 0.25  # of the classes that evenly spread labels would name: fewer is worth a warning
_STEPS, _MOST_STEPS, _VISITS = 500, 5000, 10  # how long accuracy may stay flat: visits of each class, within bounds
_FALL = 0.01  # by which share the loss must have fallen in that time


def warn(log, step, kind, text):
    """Say a warning and keep it for the report. kind: a word by which a run's warnings are told apart."""
    log.line(f"warning: {text}")
    log.record("warning", step=step, target=kind, text=text)


def finite_advice(settings):
    """What to change where a training came to numbers that are not finite."""
    other = [f"another model than --pretrained {settings.pretrained}"] if settings.pretrained else []
    return "try " + ", or ".join([f"a lower --lr than {settings.lr:g}", f"a longer --lr-warmup than "
                                  f"{settings.lr_warmup}", *_margin_advice(settings), *other])


def start_advice(settings):
    """What to change where a training learns nothing; docs/losses.md measures it."""
    scale = [f"a smaller --loss-s than {settings.loss_s:g}"] if settings.get("loss_s") else []
    return "try " + ", or ".join([*_margin_advice(settings), *scale, f"another --lr than {settings.lr:g}"])


def _margin_advice(settings):
    tries = []
    if "margin_warmup" in settings and settings.loss != "nsoftmax":
        tries.append(f"a longer --margin-warmup than {settings.margin_warmup}")
    if not settings.pretrained and settings.loss != "softmax":
        tries.append("--pretrained with a model that --loss softmax has trained")
    return tries


def sample_labels(images, skip_damaged=False):
    """The labels of up to 1000 records, evenly spread over a training set, the first and the last among them.

    Raises LabelError, with the record number, for a label that is no class, and DataError for a damaged record unless
    those are to be skipped.
    """
    labels = []
    for position in np.unique(np.linspace(0, len(images) - 1, _SAMPLE).astype(np.int64)):
        try:
            labels.append(images.label(position))
        except LabelError:
            raise
        except DataError:
            if not skip_damaged:
                raise
    return np.array(labels, np.int64)


def few_classes(seen, images, classes):
    """A warning where images name far fewer classes than there are, else None.

    seen: classes that they named; images: how many there were; classes: how many there are. Images of evenly spread
    classes would name C·(1 − (1 − 1/C)^n) of them.
    """
    expected = -classes * math.expm1(images * math.log1p(-1 / classes)) if classes > 1 else 1
    if seen >= _FEW * expected:
        return None
    return (f"{images:,} images named {seen:,} of {classes:,} classes, where evenly spread ones would have named about "
            f"{expected:,.0f}: are the labels right, and is the number of classes in `property`? "
            "(python datasets/doctor.py tells)")


class FiniteGuard(Callback):
    """Every `frequent` steps: raise NotFinite where a parameter is not finite, though the loss still is.

    It stands before Progress in the list.
    """

    def __init__(self, frequent):
        self._frequent = frequent

    def step(self, trainer):
        if trainer.steps % self._frequent == 0:
            trainer.check_params()

    def finish(self, trainer):
        trainer.check_params()


class ImageGuard(Callback):
    """Names each damaged image that is left out once, also in a training that goes on."""

    def __init__(self, log, bad_images):
        self._log, self._bad_images = log, bad_images

    def start(self, trainer):
        self._bad_images.tell = partial(self._tell, trainer)

    def _tell(self, trainer, number, why):
        _say(self._log, trainer, f"warning: {why}; another image stands in for it")
        self._log.record("bad_image", step=trainer.steps, target=str(number), record=number, reason=why)

    def state(self):
        return dict(reasons=list(self._bad_images.reasons.items()), replaced=self._bad_images.replaced)

    def restore(self, state):
        self._bad_images.reasons.update(state.get("reasons", []))
        self._bad_images.replaced = state.get("replaced", 0)


class ClassGuard(Callback):
    """After each epoch and at the end: warn once where its images were of far fewer classes than there are.

    num_classes: of the head; expected: how many of them should have images.
    """

    def __init__(self, log, num_classes, expected):
        self._log, self._expected = log, expected
        self._seen, self._images, self._warned = np.zeros(num_classes, bool), 0, False

    def step(self, trainer):
        labels = trainer.labels.asnumpy().astype(np.int64)
        self._seen[labels] = True
        self._images += len(labels)

    def epoch(self, trainer):
        self._look(trainer, trainer.epoch - 1)
        self._seen[:], self._images = False, 0

    def finish(self, trainer):
        self._look(trainer, trainer.epoch)

    def _look(self, trainer, epoch):
        text = few_classes(np.count_nonzero(self._seen), self._images, self._expected)
        if text and not self._warned:
            self._warned = True
            warn(self._log, trainer.steps, "classes", f"in epoch {epoch} {text}")


class AccuracyGuard(Callback):
    """Warn once where accuracy stays at what guessing gives and the loss does not fall towards it either.

    progress: the Progress callback, which must stand before this one. patience: steps in which accuracy may stay flat,
    see `patience`; first: the step at which warm-ups are over. tries: what to try, in words.
    An accuracy of 0 after the margin is usual for thousands of steps, while the loss falls. So three things must come
    together: no accuracy beyond a guess's 1/C; a loss above a guess's, ln C; and in the last quarter of the time a loss
    hardly lower than in the first.
    """

    def __init__(self, log, progress, num_classes, patience, first, tries):
        self._log, self._progress, self._classes, self._patience = log, progress, num_classes, patience
        self._first, self._tries = first, tries
        self._lines, self._warned = [], False  # lines of progress: (step, loss, accuracy)

    def step(self, trainer):
        if self._warned or trainer.steps <= self._first or self._progress.line[0] != trainer.steps:
            return
        self._lines.append(self._progress.line)
        if trainer.steps - self._lines[0][0] >= self._patience:
            self._judge(trainer, *np.transpose(self._lines))
            self._lines = [line for line in self._lines if line[0] > trainer.steps - self._patience]

    def _judge(self, trainer, steps, losses, accuracies):
        quarter, guess = self._patience / 4, math.log(self._classes)
        early, late = losses[steps <= steps[0] + quarter].mean(), losses[steps >= steps[-1] - quarter].mean()
        if accuracies.mean() > 1.5 / self._classes or late < max(guess, (1 - _FALL) * early):
            return
        self._warned = True
        warn(self._log, trainer.steps, "accuracy",
             f"accuracy {accuracies.mean():.4f} in the last {self._patience} steps, and the loss does not fall: from "
             f"{early:.2f} to {late:.2f}, where a guess without a margin has {guess:.2f}, ln {self._classes}. With a "
             "margin an accuracy of 0 is usual for some thousand steps, but the loss falls meanwhile; "
             f"{self._tries}, or look at the data with python datasets/doctor.py; more in docs/losses.md")


def patience(num_classes, batch_size, frequent):
    """Steps in which accuracy may stay flat: ten images of each class, but 500 to 5000, and eight lines of progress."""
    return max(min(max(_STEPS, _VISITS * num_classes // batch_size), _MOST_STEPS), 8 * frequent)


class Guards:
    """What watches over one training. settings: see `presets.resolve`; images: the ImageSet that it reads.

    Attribute: bad_images, a BadImages, or None where a damaged image is an error.
    Looks at some labels at once; raises as `sample_labels` does.
    """

    def __init__(self, settings, images):
        self._settings, self._images = settings, images
        self.bad_images = BadImages(len(images)) if settings.bad_images == "skip" else None
        self._labels = sample_labels(images, skip_damaged=self.bad_images is not None)

    def callbacks(self, log, progress, trainer):
        """The callbacks to stand before and behind `progress` for this trainer, two lists; they tell the log."""
        images = [ImageGuard(log, self.bad_images)] if self.bad_images else []
        return [FiniteGuard(self._settings.frequent)], images + self._of_classes(log, progress, trainer)

    def _of_classes(self, log, progress, trainer):
        settings, classes = self._settings, self._images.num_classes
        if settings.loss not in LOSSES:
            return []
        expected = len(np.unique(self._images.identities())) if settings.data_images_filter > 1 else classes
        text = few_classes(len(np.unique(self._labels)), len(self._labels), expected)
        if text and not trainer.steps:  # a training that goes on has said it
            warn(log, 0, "labels", f"spread over the training set, {text}")
        warm_up = max(settings.lr_warmup, settings.get("margin_start", 0) + settings.get("margin_warmup", 0))
        steps = patience(classes, trainer.batch_size * trainer.workers.size, settings.frequent)
        return [ClassGuard(log, classes, expected),
                AccuracyGuard(log, progress, classes, steps, warm_up, start_advice(settings))]

    def finish(self, log, trainer):
        """Say how many images were damaged."""
        if self.bad_images:
            images, replaced = len(self.bad_images.reasons), self.bad_images.replaced
            whose = " of this worker" if trainer.workers.size > 1 else ""
            _say(log, trainer, f"damaged images{whose}: {images:,}, in whose place others were read {replaced:,} times")
            log.record("bad_images", step=trainer.steps, images=images, replaced=replaced)


def _say(log, trainer, text):
    """Say what each worker has to say of its own; the log of all but the first is silent."""
    if trainer.workers.rank:
        print(text, flush=True)
    log.line(text)
