"""Batches of triplets, mined from the training set with the network as it is."""
import time
from contextlib import closing

import numpy as np
from tqdm import tqdm

from common.embeddings import normalise
from common.errors import UserError
from datasets.identity_iter import IdentityIter, Ordered
from datasets.image_iter import ImageIter
from recognition.pair_losses import check_batch_size

_EMBEDDED = 512  # images of a bag that are embedded at once, shared by the devices
_COMPARED = 256  # genuine pairs that are held against all images of a bag at once


def mine_triplets(embeddings, identities, random, alpha=0.3, max_ap=0, angular=False):
    """Semi-hard triplets (Schroff et al., 2015, equation 4), as the original mines them.

    Every genuine pair once, its first image being the anchor, with one negative drawn from those that are farther from
    the anchor than the positive is, but by less than alpha. Pairs without such a negative are left out.
    embeddings: (B, D), L2-normalised; identities: (B,); random: RandomState. max_ap: leave out pairs that are farther
    apart than this; 0: none. angular: distances are angles in radians, else squared distances: as the loss has them.
    Returns (T, 3) int64, rows of anchor, positive and negative, in random order.
    """
    pairs, triplets = _genuine_pairs(identities), [np.empty((0, 3), np.int64)]
    for start in range(0, len(pairs), _COMPARED):
        anchor, positive = pairs[start:start + _COMPARED].T
        cosines = embeddings[anchor] @ embeddings.T
        distances = np.arccos(np.clip(cosines, -1, 1)) if angular else 2 - 2 * cosines
        near = distances[np.arange(len(anchor)), positive][:, np.newaxis]
        semi_hard = (distances > near) & (distances < near + alpha) & (identities[anchor][:, np.newaxis] != identities)
        if max_ap > 0:
            semi_hard &= near <= max_ap
        count = semi_hard.sum(axis=1)
        drawn = np.cumsum(count) - count + (random.random_sample(len(count)) * count).astype(np.int64)
        has, negatives = count > 0, np.nonzero(semi_hard)[1]  # pair by pair
        triplets.append(np.stack([anchor[has], positive[has], negatives[drawn[has]]], axis=1))
    return random.permutation(np.concatenate(triplets))


def _genuine_pairs(identities):
    """Every pair of places that hold the same identity, the first before the second: (P, 2)."""
    order = np.argsort(identities, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(identities[order])) + 1)
    return np.concatenate([np.stack([group[rows] for rows in np.triu_indices(len(group), 1)], axis=1)
                           for group in groups])


class TripletIter(IdentityIter):
    """Batches of triplets, mined from one bag of images after the other with the embeddings of the moment.

    batch_size: of all devices together; each of num_devices gets a part of it that is a third anchors, a third
    positives, a third negatives, in this order. bag_size: images in a bag at most; alpha, max_ap, angular: see
    `mine_triplets`; the others: see IdentityIter. Call `connect` before the first batch is asked for.
    An epoch is one pass over the identities; how many batches that gives is not known (num_batches is None). Triplets
    that do not fill a batch go on into the next bag's. Only a bag's embeddings are held in memory, not its images.
    With bad_images, a BadImages, no triplet is made of damaged images; without, they are an error.
    Raises UserError for a batch without such thirds; `next` raises it where a whole epoch gave no triplet.
    """

    def __init__(self, training_set, batch_size, num_devices=1, images_per_identity=5, bag_size=7200, alpha=0.3,
                 max_ap=0, angular=False, seed=0, bad_images=None, timeout=300, **reading):
        check_batch_size("triplet", batch_size / num_devices)
        super().__init__(training_set, batch_size, images_per_identity, seed, timeout=timeout, **reading)
        self._bag_reading = dict(bad_images=bad_images, timeout=timeout)
        self._num_devices, self._bag_size = num_devices, bag_size
        self._rule = dict(alpha=alpha, max_ap=max_ap, angular=angular)
        self._waiting = np.empty((0, 3), np.int64)  # triplets, as positions in the training set
        self._begin()

    def _begin(self):
        """Of this epoch: bags and triplets mined; triplets of the last bag's whole batches, and batches read of it."""
        self._bags = self._found = self._read_of_bag = 0
        self._ready = np.empty((0, 3), np.int64)

    def reset(self):
        """Begin the next epoch; a fresh iterator, of which nothing was read yet, stays where it is."""
        if self._stream:
            self._begin()
        super().reset()

    def state(self):
        """As IdentityIter's; a bag's triplets are in it, for the network that they were mined with is not the same."""
        return {**super().state(), "bags": self._bags, "found": self._found, "read_of_bag": self._read_of_bag,
                "ready": self._ready.tolist(), "waiting": self._waiting.tolist()}

    def restore(self, state):
        """As IdentityIter's; the next bag is mined with the network as it then is."""
        super().restore(state)
        self._bags, self._found, self._read_of_bag = (state[key] for key in ("bags", "found", "read_of_bag"))
        self._ready, self._waiting = (np.array(state[key], np.int64).reshape(-1, 3) for key in ("ready", "waiting"))

    def _identity(self):
        return {**super()._identity(), "bag_size": self._bag_size}

    def connect(self, embedder, say=lambda line: None):
        """Tell how to embed, and where to report.

        embedder: callable without arguments, called once for each bag -> callable, images (N, 3, H, W) uint8 RGB ->
        (N, D) by the parameters as they then are; say: callable that is given a line for each bag.
        """
        self._embedder, self._say = embedder, say

    def _count_batches(self, images):
        return None

    def _batches(self):
        order = self._arranged(np.random.RandomState([self._seed, self.epoch]))
        bags = np.array_split(order, -(-len(order) // self._bag_size))
        yield from self._read_bag()  # of a state, what was left of it
        while self._bags < len(bags):
            self._mine(bags[self._bags], len(bags))
            yield from self._read_bag()
        if not self._found:
            raise UserError(f"no triplet in the {len(bags)} bags of epoch {self.epoch}, each of up to {len(bags[0])} "
                            f"images: no impostor is farther from an anchor than a positive by less than "
                            f"{self._rule['alpha']:g}; the model may tell these identities apart already; try a larger "
                            "--loss-alpha or --triplet-bag-size")

    def _embed(self, bag):
        """The images at these positions that are sound, (M,), and their normalised embeddings, (M, D).

        They are read in even batches, the last one filled up.
        """
        count = -(-len(bag) // _EMBEDDED)
        size = -(-len(bag) // count)
        embed, images = self._embedder(), Ordered(self._set, np.resize(bag, count * size))
        with closing(ImageIter(images, size, shuffle=False, rand_mirror=False, **self._bag_reading)) as reader:
            bar = tqdm(reader, "bag", count, leave=False, disable=None, unit="batch")
            found = [(batch.index, embed(batch.data[0].asnumpy())) for batch in bar]
        numbers, embeddings = (np.concatenate(column)[:len(bag)] for column in zip(*found))
        sound = numbers == self._set.numbers[bag]  # another number: an image that stands in for a damaged one
        return bag[sound], normalise(embeddings[sound], "the images to mine triplets from")

    def _random(self, purpose):
        return np.random.RandomState([self._seed, self.epoch, self._bags, purpose])

    def _mine(self, bag, count):
        """Mine the epoch's next bag, of so many: its triplets are ready, but for the last ones that fill no batch."""
        started = time.time()
        self._bags += 1
        bag, embeddings = self._embed(bag)
        identities = self._identities[bag]
        triplets = bag[mine_triplets(embeddings, identities, self._random(0), **self._rule)]
        self._say(f"Bag[{self.epoch}] [{self._bags}/{count}]\t{len(bag)} images of {len(np.unique(identities))} "
                  f"identities\t{len(triplets)} triplets\t{time.time() - started:.1f} s")
        self._found += len(triplets)
        waiting = np.concatenate([self._waiting, triplets])
        whole = len(waiting) * 3 // self.batch_size * self.batch_size // 3
        self._ready, self._waiting, self._read_of_bag = waiting[:whole], waiting[whole:], 0

    def _read_bag(self):
        """Yield the batches of the ready triplets that were not given yet."""
        if self._read_of_bag * self.batch_size < self._ready.size:
            of_device = self.batch_size // 3 // self._num_devices
            order = self._ready.reshape(-1, of_device, 3).transpose(0, 2, 1).ravel()
            for batch in self._read(order, self._random(1).randint(1 << 31), self._read_of_bag):
                self._read_of_bag += 1
                yield batch
