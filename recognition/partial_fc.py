"""PartialFC: in each step the classes of the batch and a random share of the others (An et al., 2022, "Killing Two
Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by Partial FC")."""
import math

import numpy as np

from common.mxnet_setup import mx
from recognition.class_parallel import PART, part_name
from recognition.split_trainer import SplitTrainer


def sample_sizes(counts, rate, batch_size):
    """How many classes of each part are used in a step: the share `rate`, but never fewer than a batch may name."""
    return [min(count, max(math.ceil(rate * count), batch_size)) for count in counts]


def sample_classes(count, size, positives, random):
    """`size` of the classes 0..count - 1, ascending: all `positives`, the others drawn evenly.

    random: RandomState; positives: at most `size` different classes. Returns (size,) int64.
    """
    priority = random.random_sample(count).astype(np.float32)
    priority[positives] = -1
    chosen = np.argpartition(priority, size - 1)[:size] if size < count else np.arange(count)
    return np.sort(chosen)


class PartialTrainer(SplitTrainer):
    """A SplitTrainer of which each step sees a sample of the classes.

    loss: the training graph of a head of `sizes` classes, see `SplitTrainer` and `sample_sizes`; it must have no bias
    and no state for each class. counts: all classes of each part. The samples hang on `seed` and on the step's
    number alone. Weights and momenta of rows that are not drawn stay as they are, without decay.
    """

    def __init__(self, embedding, loss, counts, sizes, devices, batches, *args, **kwargs):
        self._sizes = sizes
        super().__init__(embedding, loss, counts, devices, batches, *args, **kwargs)

    def _make_arrays(self):
        arrays = super()._make_arrays()
        self._centres = arrays[part_name("fc7_weight", 0)].shape[0] // self._sizes[0]
        for part, count in enumerate(self._counts):
            name = part_name("fc7_weight", part)
            arrays[name] = mx.nd.zeros((count * self._centres, arrays[name].shape[1]), self._device(part))
        return arrays

    def _prepare(self, label):
        """Draw the classes of this step and fetch their rows; returns the labels as numbers among those drawn."""
        label = label.asnumpy().astype(np.int64)
        random, found, self._rows = np.random.RandomState([self._seed, self.steps]), np.zeros(len(label)), []
        start = first = 0
        for part, (count, size) in enumerate(zip(self._counts, self._sizes)):
            mine = (label >= start) & (label < start + count)
            classes = sample_classes(count, size, label[mine] - start, random)
            found[mine] = first + np.searchsorted(classes, label[mine] - start)
            self._fetch(part, (classes[:, None] * self._centres + np.arange(self._centres)).ravel())
            start, first = start + count, first + size
        return mx.nd.array(found, self.devices[0])

    def _fetch(self, part, rows):
        name = part_name("fc7_weight", part)
        self._rows.append(mx.nd.array(rows, self._device(part), np.int64))
        mx.nd.take(self._arrays[name], self._rows[part], out=self._head.arg_dict[name])

    def _gradient(self, name):
        """The gradient of the drawn rows alone: SGD leaves the others and their momenta as they are."""
        part = int(name.rpartition(PART)[2])
        return mx.nd.sparse.row_sparse_array((self._head.grad_dict[name], self._rows[part]),
                                             shape=self._arrays[name].shape, ctx=self._device(part))
