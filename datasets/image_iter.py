"""Batches for training: `ImageIter` over a training set, `SyntheticIter` without one."""
from collections import deque, namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common.errors import UserError
from common.mxnet_setup import cpu_count, mx
from datasets.images import decode_into

_Batch = namedtuple("_Batch", "data label index tasks")


class _Iter(mx.io.DataIter):
    """What both iterators offer a Module: data (N, 3, H, W) uint8 RGB and softmax_label (N,) float32."""

    def __init__(self, batch_size, image_shape):
        super().__init__(batch_size)
        self.provide_data = [mx.io.DataDesc("data", (batch_size, 3, *image_shape), np.uint8, "NCHW")]
        self.provide_label = [mx.io.DataDesc("softmax_label", (batch_size,), np.float32, "N")]
        self.epoch = self.position = 0

    def _batch(self, data, label, index=None):
        return mx.io.DataBatch([data], [label], pad=0, index=index, provide_data=self.provide_data,
                               provide_label=self.provide_label)


class ImageIter(_Iter):
    """Shuffled, mirrored batches of a training set, decoded by threads while the caller computes.

    training_set: a TrainingSet, read by `workers` threads (default: one for each core), `prefetch` batches ahead.
    Every epoch gives each image at most once: the last images of the epoch, fewer than a batch, are left out.
    shuffle: a new order each epoch; rand_mirror: exchange left and right with probability 0.5. Order and mirroring
    of an epoch depend on (seed, epoch) alone. part_index, num_parts: of several processes, each with its own part,
    all parts share the order and have the same number of batches.

    Attributes: epoch (from 0) and position, the batches given of this epoch; num_batches in an epoch.
    A batch's `index` holds the record numbers of its images, (N,) int64.
    Raises UserError for fewer images than one batch; `next` raises DataError for an image that cannot be decoded or
    is not of the training set's size.
    """

    def __init__(self, training_set, batch_size, seed=0, shuffle=True, rand_mirror=True, workers=None, prefetch=3,
                 part_index=0, num_parts=1):
        super().__init__(batch_size, training_set.image_shape)
        self._set, self._seed, self._shuffle, self._rand_mirror = training_set, seed, shuffle, rand_mirror
        self._workers, self._prefetch = workers or cpu_count(), max(1, prefetch)
        self._part = slice(part_index, len(training_set) // num_parts * num_parts, num_parts)
        self.num_batches = len(training_set) // num_parts // batch_size
        if self.num_batches == 0:
            raise UserError(f"{training_set.folder}: {len(training_set) // num_parts} images are fewer than one batch "
                            f"of {batch_size}; the largest possible batch size is {len(training_set) // num_parts}")
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="image-iter")
        self._pending = deque()
        self.seek(0)

    def seek(self, epoch, position=0):
        """Go on with the batch at `position` (in batches) of `epoch`."""
        self._drop()
        self.epoch, self.position, self._submitted = epoch, position, position
        random = np.random.RandomState([self._seed, epoch])
        mirror = random.random_sample(len(self._set)) < (0.5 if self._rand_mirror else 0)
        order = random.permutation(len(self._set)) if self._shuffle else np.arange(len(self._set))
        self._order, self._mirror = order[self._part], mirror[self._part]
        self._submit()

    def reset(self):
        """Begin the next epoch; a fresh iterator, of which nothing was read yet, stays where it is."""
        if self.position:
            self.seek(self.epoch + 1)

    def next(self):
        """The next DataBatch; StopIteration at the end of the epoch."""
        if self.position == self.num_batches:
            raise StopIteration
        self._submit()
        batch = self._pending[0]
        for task in batch.tasks:
            task.result()  # an error stays in front, so that no batch is skipped in silence
        self._pending.popleft()
        self.position += 1
        self._submit()
        return self._batch(mx.nd.array(batch.data, dtype=np.uint8), mx.nd.array(batch.label), batch.index)

    def close(self):
        """Stop the threads. Batches cannot be read afterwards."""
        self._drop()
        self._pool.shutdown()

    def _drop(self):
        for batch in self._pending:
            for task in batch.tasks:
                task.cancel()
        self._pending.clear()

    def _submit(self):
        while len(self._pending) < self._prefetch and self._submitted < self.num_batches:
            start = self._submitted * self.batch_size
            self._pending.append(self._start_batch(slice(start, start + self.batch_size)))
            self._submitted += 1

    def _start_batch(self, rows):
        images, mirror = self._order[rows], self._mirror[rows]
        data, label = np.empty(self.provide_data[0].shape, np.uint8), np.empty(self.batch_size, np.float32)
        bounds = np.linspace(0, self.batch_size, self._workers + 1).astype(int)
        tasks = [self._pool.submit(_decode, self._set, images[a:b], mirror[a:b], data[a:b], label[a:b])
                 for a, b in zip(bounds, bounds[1:]) if a < b]
        return _Batch(data, label, self._set.numbers[images], tasks)


def _decode(training_set, images, mirror, data, label):
    """A thread's share of a batch; data (n, 3, H, W) and label (n,) are written to."""
    for row, image in enumerate(images):
        encoded, label[row] = training_set.read(image)
        decode_into(data[row], encoded, f"{training_set.path} record {training_set.numbers[image]}", mirror[row])


class SyntheticIter(_Iter):
    """One random batch, again and again: training without the cost of reading.

    image_shape: (height, width); labels are in [0, num_classes). length: batches in an epoch; None: no end.
    """

    def __init__(self, batch_size, image_shape, num_classes, seed=0, length=None):
        super().__init__(batch_size, image_shape)
        random = np.random.RandomState(seed)
        data = random.randint(0, 256, self.provide_data[0].shape).astype(np.uint8)
        label = random.randint(0, num_classes, batch_size)
        self._fixed = self._batch(mx.nd.array(data, dtype=np.uint8), mx.nd.array(label))
        self.num_batches = length

    def reset(self):
        """Begin the next epoch; a fresh iterator stays where it is."""
        if self.position:
            self.epoch, self.position = self.epoch + 1, 0

    def next(self):
        """The batch; StopIteration after `length` of them."""
        if self.position == self.num_batches:
            raise StopIteration
        self.position += 1
        return self._fixed

    def close(self):
        """Nothing to stop; here so that both iterators can be used alike."""
