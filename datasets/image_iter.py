"""Batches for training: `ImageIter` over a training set, `SyntheticIter` without one."""
from collections import deque, namedtuple
from concurrent.futures import wait
from functools import partial
from threading import get_ident

import numpy as np

from common.cores import cpu_count
from common.errors import DataError, UserError
from common.mxnet_setup import empty_on_host, mx
from datasets.augment import Augmentation
from datasets.bad_images import stand_ins
from datasets.image_set import LabelError
from datasets.images import decode_into
from datasets.threads import DaemonPool

_Batch = namedtuple("_Batch", "data label index tasks")
_NAMED = 8  # records that an error names at most
_TURN = 1  # seconds; a wait is cut into turns, so that time in which the process was stopped does not count


class ReaderStalled(UserError):
    """A batch does not come. The message names the records that are being read."""


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
    """Shuffled, changed batches of a training set, decoded by threads while the caller computes.

    training_set: a TrainingSet or ShardSet, read by `workers` threads (default: one for each core), `prefetch` batches
    ahead. Every epoch gives each image at most once: the last images of the epoch, fewer than a batch, are left out.
    shuffle: a new order each epoch. rand_mirror, color, cutoff: see `Augmentation`. Order and changes of a batch hang
    on (seed, epoch, position) alone. part_index, num_parts: of several processes, each with its own part: their batches
    at a position, one after the other, are the very batch that one process with num_parts times the batch_size reads.
    bad_images: a BadImages, which counts images that cannot be decoded or are not of the training set's size; others of
    the epoch stand in for them, drawn by the seed; None: they are an error. timeout: seconds in which a batch must
    come; 0: no end.

    Attributes: epoch (from 0) and position, the batches given of this epoch; num_batches in an epoch.
    A batch's `index` holds the record numbers of its images, (N,) int64.
    Raises UserError for fewer images than one batch and for changes that do not exist; `next` raises DataError for a
    damaged image and for a label that is no class, and ReaderStalled.
    """

    def __init__(self, training_set, batch_size, seed=0, shuffle=True, rand_mirror=True, color=0, cutoff=0,
                 workers=None, prefetch=3, part_index=0, num_parts=1, bad_images=None, timeout=300):
        super().__init__(batch_size, training_set.image_shape)
        self._set, self._seed, self._shuffle = training_set, seed, shuffle
        self._augmentation = Augmentation(rand_mirror, color, cutoff).check()
        self._workers, self._prefetch = workers or cpu_count(), max(1, prefetch)
        self._bad_images, self._timeout, self._reading = bad_images, timeout, {}
        self._part, self._whole = part_index * batch_size, num_parts * batch_size  # where a batch begins in the whole
        self.num_batches = len(training_set) // self._whole
        if self.num_batches == 0:
            found, parts = len(training_set), f" for each of {num_parts} processes" if num_parts > 1 else ""
            raise UserError(f"{training_set.folder}: {found} images are fewer than one batch of {batch_size}{parts}; "
                            f"the largest possible batch size is {found // num_parts}")
        self._pool = DaemonPool(self._workers, "image-iter")
        self._pending = deque()
        self.seek(0)

    def seek(self, epoch, position=0):
        """Go on with the batch at `position` (in batches) of `epoch`."""
        self._drop()
        self.epoch, self.position, self._submitted = epoch, position, position
        random = np.random.RandomState([self._seed, epoch])
        self._order = self._set.shuffled(random) if self._shuffle else np.arange(len(self._set))
        self._submit()

    def state(self):
        """Where the iterator is, as a dict that JSON can hold; `restore` goes on with the very next image."""
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def restore(self, state):
        """Go on where `state()` was taken, by this or another part. Raises UserError when that was of other data,
        another seed, or another size of the batch of all parts together."""
        check_identity(state, self._identity())
        self.seek(state["epoch"], state["position"])

    def _identity(self):
        return {"images": len(self._set), "batch_size": self._whole, "seed": self._seed, "shuffle": self._shuffle}

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
        self._wait(batch.tasks)
        for task in batch.tasks:
            for number, error in task.result():  # an error stays in front, so that no batch is skipped in silence
                self._bad_images.add(number, error)
        self._pending.popleft()
        self.position += 1
        self._submit()
        return self._batch(batch.data, batch.label, batch.index)

    def close(self):
        """Stop the threads. Batches cannot be read afterwards."""
        self._drop()
        self._pool.close()

    def _wait(self, tasks):
        waited, turn = 0, min(_TURN, self._timeout or _TURN)
        while wait(tasks, turn).not_done:
            waited += turn
            if self._timeout and waited >= self._timeout:
                records = ", ".join(map(self._set.where, sorted(list(self._reading.values()))[:_NAMED]))
                raise ReaderStalled(f"no batch came for {self._timeout:g} seconds; being read: {records or 'nothing'}; "
                                    "does the disk or the network still answer? a slow one may need a longer "
                                    "--reader-timeout")

    def _drop(self):
        for batch in self._pending:
            for task in batch.tasks:
                task.cancel()
        self._pending.clear()

    def _submit(self):
        while len(self._pending) < self._prefetch and self._submitted < self.num_batches:
            self._pending.append(self._start_batch(self._submitted))
            self._submitted += 1

    def _start_batch(self, position):
        start, mine = position * self._whole, slice(self._part, self._part + self.batch_size)
        images = self._order[start:start + self._whole][mine]
        changes = self._augmentation.draw([self._seed, self.epoch, start], self._whole, self._set.image_shape)[mine]
        (data, pixels), (label, classes) = (empty_on_host(one.shape, one.dtype)
                                            for one in self.provide_data + self.provide_label)
        index = self._set.numbers[images]
        others = partial(stand_ins, self._order, [self._seed, self.epoch]) if self._bad_images else None
        bounds = np.linspace(0, self.batch_size, self._workers + 1).astype(int)
        tasks = [self._pool.submit(_decode, self._set, images[a:b], changes[a:b], pixels[a:b], classes[a:b],
                                   index[a:b], others, self._reading)
                 for a, b in zip(bounds, bounds[1:]) if a < b]
        return _Batch(data, label, index, tasks)


def check_identity(state, identity):
    """Raise UserError where the state of a reader is not of this one. identity: what the two must have in common."""
    for key, here in identity.items():
        if state.get(key) != here:
            raise UserError(f"the reader cannot go on where it was: {key} was {state.get(key)!r} and is {here!r}")


def _decode(training_set, images, changes, pixels, classes, index, others, reading):
    """A thread's share of a batch; pixels (n, 3, H, W), classes (n,) and record numbers, index (n,), are written to.

    others: callable, position of a damaged image -> positions of images that may stand in for it; None: it is an error.
    reading: dict in which the thread keeps the position of the image that it is at.
    Returns (record number, error) of the damaged images in whose place others were read.
    """
    bad, thread = [], get_ident()

    def put(row, image):
        reading[thread] = image
        encoded, classes[row] = training_set.read(image)
        decode_into(pixels[row], encoded, training_set.where(image), changes[row])

    try:
        for row, image in enumerate(images):
            try:
                put(row, image)
            except DataError as error:
                if others is None or isinstance(error, LabelError):
                    raise
                found = {image: error}
                other = _stand_in(partial(put, row), others(image), found)
                index[row] = training_set.numbers[other]
                bad += [(int(training_set.numbers[image]), error) for image, error in found.items()]
    finally:
        del reading[thread]
    return bad


def _stand_in(put, others, found):
    """Put the first of `others` that is sound; returns it. found: position -> error of those that are not, added to.

    Raises the error of the first image where all are damaged, and LabelError.
    """
    for other in others:
        try:
            put(other)
            return other
        except LabelError:
            raise
        except DataError as error:
            found[other] = error
    raise next(iter(found.values()))


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
