"""The identity records of a training set, held against its images without trusting either."""
import numpy as np

from datasets.findings import told_runs
from datasets.recordio import EXACT

UNKNOWN = -1
HEAD = np.dtype([("number", "<i8"), ("offset", "<i8"), ("start", "<f4"), ("end", "<f4"), ("content", "<u8")])
_TOLD = 20  # so many missing records are told one by one


def classes_by_range(numbers, heads, findings):
    """The class of every image by the identity record whose range it lies in.

    numbers: (N,) int64, the record numbers of all images; heads: (K,) of HEAD, the records without an image.
    Returns (classes, count): (N,) int64, UNKNOWN where the ranges say nothing or contradict each other, and the number
    of identity records that record 0 announces (None where the set has no identity records that can be used).
    What is wrong goes to `findings`.
    """
    unknown = np.full(len(numbers), UNKNOWN)
    zero = heads[heads["number"] == 0]
    if not len(zero):
        if not np.any(numbers == 0):
            findings.add("header", 0, "there is no record 0")
            return unknown, None
        _report_strangers(heads, findings)
        return unknown, None
    first, last = zero["start"][0], zero["end"][0]
    if first >= EXACT and len(numbers) + len(heads) >= EXACT:  # the ranges of so large a set are rounded
        return unknown, None
    if not _is_range(zero)[0] or last - first > len(heads) + _TOLD:
        findings.add("header", 0, f"({first:.9g}, {last:.9g}); expected the range of the {len(heads) - 1} identity "
                     "records")
        return unknown, None
    first, last = int(first), int(last)
    return _by_identities(numbers, heads[heads["number"] != 0], first, last, findings), last - first


def _by_identities(numbers, heads, first, last, findings):
    heads = heads[np.argsort(heads["number"], kind="stable")]
    is_identity = (heads["number"] >= first) & (heads["number"] < last)
    _report_strangers(heads[~is_identity], findings)
    heads = heads[is_identity]
    for where in told_runs(np.setdiff1d(np.arange(first, last), heads["number"])):
        findings.add("header", where, "no identity record")
    good = _is_range(heads)
    for head in heads[~good]:
        findings.add("range", int(head["number"]), f"({head['start']:.9g}, {head['end']:.9g}); expected record "
                     "numbers, the start not behind the end")
    ranges = np.stack([heads[good][name].astype(np.int64) for name in ("number", "start", "end")], axis=1)
    ranges = ranges[ranges[:, 1] < ranges[:, 2]]
    ranges = ranges[np.argsort(ranges[:, 1], kind="stable")]
    _check_ranges(ranges, np.unique(numbers), findings)
    return _assign(numbers, ranges, first, findings)


def _is_range(heads):
    start, end = heads["start"], heads["end"]
    with np.errstate(invalid="ignore"):
        whole = (start == np.floor(start)) & (end == np.floor(end))
        return whole & (start >= 1) & (start <= end) & (end <= EXACT)


def _report_strangers(heads, findings):
    for head in heads:
        findings.add("empty", int(head["number"]), "no image, and no identity record that record 0 announces")


def _check_ranges(ranges, numbers, findings):
    """ranges: (K, 3) number, start, end, by start; numbers: of the images, ascending."""
    furthest = np.maximum.accumulate(ranges[:, 2]) if len(ranges) else ranges[:, 2]
    for place in np.flatnonzero(ranges[1:, 1] < furthest[:-1]) + 1:
        number, start, end = ranges[place].tolist()
        findings.add("range", number, f"[{start}, {end}) overlaps the range of another identity")
    there = np.searchsorted(numbers, ranges[:, 2]) - np.searchsorted(numbers, ranges[:, 1])
    for place in np.flatnonzero(there < ranges[:, 2] - ranges[:, 1]):
        number, start, end = ranges[place].tolist()
        findings.add("range", number, f"[{start}, {end}) names {end - start} images, {there[place]} are there")


def _assign(numbers, ranges, first, findings):
    covered = (np.searchsorted(ranges[:, 1], numbers, side="right")
               - np.searchsorted(np.sort(ranges[:, 2]), numbers, side="right"))
    for where in told_runs(numbers[covered == 0]):
        findings.add("no_range", where, "readers pass over it")
    if not len(ranges):
        return np.full(len(numbers), UNKNOWN)
    place = np.searchsorted(ranges[:, 1], numbers, side="right") - 1
    inside = (covered == 1) & (numbers < ranges[place, 2])
    return np.where(inside, ranges[place, 0] - first, UNKNOWN)
