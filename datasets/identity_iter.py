"""Batches that hold several images of each identity, for losses on pairs."""
from contextlib import closing

import numpy as np

from common.errors import UserError
from common.mxnet_setup import mx
from datasets.image_iter import ImageIter, check_identity


class Ordered:
    """Images of an ImageSet in an order (positions, (M,)), as ImageIter reads them."""

    def __init__(self, images, order):
        self._set, self._order, self.numbers = images, order, images.numbers[order]
        self.folder, self.image_shape = images.folder, images.image_shape

    def __len__(self):
        return len(self._order)

    def read(self, i):
        """Image i of the order; see ImageSet."""
        return self._set.read(self._order[i])

    def where(self, i):
        """What messages call it."""
        return self._set.where(self._order[i])


class IdentityIter(mx.io.DataIter):
    """Batches that hold several images of each identity, decoded by threads while the caller computes.

    training_set: a TrainingSet; batch_size: of all devices together; images_per_identity: at most so many of each,
    drawn anew in every epoch, which gives the identities one after the other in a new order. One may be cut by the end
    of a batch. All this hangs on (seed, epoch). part_index, num_parts: of several processes, see ImageIter; reading:
    rand_mirror, color, cutoff, bad_images, timeout, see there too.
    Attributes: epoch (from 0) and position, the batches given of this epoch; num_batches in an epoch.
    A batch's `index` holds the record numbers of its images.
    Raises UserError where the set has no two images of one identity, or no two identities, or too few for a batch.
    """

    def __init__(self, training_set, batch_size, images_per_identity=5, seed=0, part_index=0, num_parts=1,
                 **reading):
        super().__init__(batch_size)
        self._parts, self._whole = dict(part_index=part_index, num_parts=num_parts), batch_size * num_parts
        self.provide_data = [mx.io.DataDesc("data", (batch_size, 3, *training_set.image_shape), np.uint8, "NCHW")]
        self.provide_label = [mx.io.DataDesc("softmax_label", (batch_size,), np.float32, "N")]
        self._set, self._most, self._seed, self._reading = training_set, images_per_identity, seed, reading
        self._identities = training_set.identities()
        sizes = np.bincount(self._identities)
        if len(sizes) < 2 or sizes.max() < 2:
            raise UserError(f"{training_set.folder}: {len(sizes)} identities with {sizes.max()} images at most; a loss "
                            "on pairs needs two identities, and two images of one")
        self.num_batches = self._count_batches(np.minimum(sizes, images_per_identity).sum())
        self.epoch = self.position = 0
        self._stream = None

    def reset(self):
        """Begin the next epoch; a fresh iterator, of which nothing was read yet, stays where it is."""
        if self._stream:
            self.close()
            self.epoch, self.position, self._stream = self.epoch + 1, 0, None

    def state(self):
        """Where the iterator is, as a dict that JSON can hold; `restore` goes on with the very next image."""
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def restore(self, state):
        """Go on where `state()` was taken. Raises UserError when that was of other data, another batch size or seed."""
        check_identity(state, self._identity())
        self.close()
        self.epoch, self.position, self._stream = state["epoch"], state["position"], None

    def _identity(self):
        return {"images": len(self._identities), "batch_size": self._whole, "seed": self._seed,
                "images_per_identity": self._most}

    def next(self):
        """The next DataBatch; StopIteration at the end of the epoch."""
        self._stream = self._stream or self._batches()
        batch = next(self._stream)
        self.position += 1
        return batch

    def close(self):
        """Stop the threads; the epoch is at its end then."""
        if self._stream:
            self._stream.close()

    def _count_batches(self, images):
        if images < self._whole:
            raise UserError(f"{self._set.folder}: {images} images, at most {self._most} of an identity, are fewer than "
                            f"one batch of {self._whole}")
        return int(images // self._whole)

    def _batches(self):
        """Yield the batches of the epoch from `position` on."""
        random = np.random.RandomState([self._seed, self.epoch])
        yield from self._read(self._arranged(random), random.randint(1 << 31), self.position)

    def _arranged(self, random):
        """Positions of the epoch's images, one identity after the other."""
        order = random.permutation(len(self._identities))
        places = random.permutation(self._identities.max() + 1)[self._identities[order]]
        by_place = np.argsort(places, kind="stable")
        order, places = order[by_place], places[by_place]
        rank = np.arange(len(order)) - np.searchsorted(places, places)  # of an image among those of its identity
        return order[rank < self._most]

    def _read(self, order, seed, position):
        """Yield the batches of images in an order, from `position` on. seed: of their changes."""
        with closing(ImageIter(Ordered(self._set, order), self.batch_size, seed, False, **self._parts,
                               **self._reading)) as reader:
            if position:
                reader.seek(0, position)
            yield from reader
