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
    pairs = np.stack([first[again], order[again]], axis=1)
    return pairs[np.argsort(pairs[:, 1])]


def near_duplicates(phash, dhash, labels, bits):
    """Pictures that look like an earlier one.

    phash, dhash: (N,) uint64 of `measure`; labels: (N,) int; bits: the phash may differ in this many, the dhash in
    DHASH_BITS. Returns two (M, 2) int64, an earlier image and one that looks like it: of the same label, of others.
    An image is named once in each at most, with the earliest it was compared to.

    The hash is cut into bits + 3 blocks: where at most `bits` differ, three blocks at least are equal. For each choice
    of three the hashes are sorted by these blocks, and neighbours with equal ones compared.
    """
    none = len(phash)
    same, other = np.full((2, none), none)
    bounds = np.linspace(0, 64, bits + _KEY_BLOCKS + 1).astype(int)
    masks = [np.uint64((1 << int(end)) - (1 << int(start))) for start, end in zip(bounds, bounds[1:])]
    for chosen in combinations(masks, _KEY_BLOCKS):
        for early, late in _candidates(phash, np.bitwise_or.reduce(np.array(chosen))):
            alike = popcount(phash[early] ^ phash[late]) <= bits
            alike &= popcount(dhash[early] ^ dhash[late]) <= DHASH_BITS
            is_same = labels[early] == labels[late]
            np.minimum.at(same, late[alike & is_same], early[alike & is_same])
            np.minimum.at(other, late[alike & ~is_same], early[alike & ~is_same])
    return [np.stack([first[first < none], np.flatnonzero(first < none)], axis=1) for first in (same, other)]


def _candidates(phash, mask):
    """Pairs with equal bits under the mask, as (earlier, later) arrays."""
    order = np.lexsort((phash, phash & mask))
    key = phash[order] & mask
    for step in range(1, min(_NEIGHBOURS + 1, len(order))):
        equal = np.flatnonzero(key[step:] == key[:-step])
        if not len(equal):
            return
        one, other = order[equal], order[equal + step]
        yield np.minimum(one, other), np.maximum(one, other)


def popcount(values):
    """Number of bits set in each of (N,) uint64."""
    values = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    values = (values & np.uint64(0x3333333333333333)) + ((values >> np.uint64(2)) & np.uint64(0x3333333333333333))
    values = (values + (values >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (values * np.uint64(0x0101010101010101)) >> np.uint64(56)
