"""Copies among millions of images, told by their hashes alone: sorting, no comparison of all with all."""
from itertools import combinations

import numpy as np

DHASH_BITS = 5  # near duplicates differ in at most this many bits of the second hash
_KEY_BLOCKS = 3
_NEIGHBOURS = 16  # an image is compared to this many behind it that share its key: enough to link groups of copies


def exact_duplicates(content):
    """Images whose bytes were there before. content: (N,) uint64 hashes in file order.

    Returns (M, 2) int64: the first image of that content, and the later one.
    """
    order = np.argsort(content, kind="stable")
    ordered = content[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[:len(ordered)])
    first = np.repeat(order[starts], np.diff(starts, append=len(ordered)))
    again = first != order
    return _sorted_pairs(np.stack([first[again], order[again]], axis=1))


def near_duplicates(phash, dhash, bits):
    """Pairs of pictures that look alike.

    phash, dhash: (N,) uint64 of `measure`; bits: the phash may differ in this many, the dhash in DHASH_BITS.
    Returns (M, 2) int64, each pair once. Of a group of copies, not every pair is found, but each is linked to another.

    The hash is cut into bits + 3 blocks: where at most `bits` differ, three blocks at least are equal. For each choice
    of three the hashes are sorted by these blocks, and neighbours with equal ones compared. About 24 bytes an image.
    """
    bounds = np.linspace(0, 64, bits + _KEY_BLOCKS + 1).astype(int)
    masks = [np.uint64((1 << int(end)) - (1 << int(start))) for start, end in zip(bounds, bounds[1:])]
    found = [np.empty((0, 2), np.int64)]
    for chosen in combinations(masks, _KEY_BLOCKS):
        key = phash & np.bitwise_or.reduce(np.array(chosen))
        order = np.lexsort((phash, key))
        key = key[order]
        for step in range(1, min(_NEIGHBOURS + 1, len(order))):
            same = np.flatnonzero(key[step:] == key[:-step])
            if not len(same):
                break
            one, other = order[same], order[same + step]
            alike = (popcount(phash[one] ^ phash[other]) <= bits) & (popcount(dhash[one] ^ dhash[other]) <= DHASH_BITS)
            found.append(np.stack([one[alike], other[alike]], axis=1))
    return np.unique(_sorted_pairs(np.concatenate(found)), axis=0)


def _sorted_pairs(pairs):
    pairs = np.sort(pairs, axis=1)
    return pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]


def popcount(values):
    """Number of bits set in each of (N,) uint64."""
    values = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    values = (values & np.uint64(0x3333333333333333)) + ((values >> np.uint64(2)) & np.uint64(0x3333333333333333))
    values = (values + (values >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (values * np.uint64(0x0101010101010101)) >> np.uint64(56)
