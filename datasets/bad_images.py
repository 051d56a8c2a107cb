"""Damaged images that a reader leaves out: which stand in for them, how often, and how many are too many."""
import numpy as np

from common.errors import DataError

_SHARE, _MOST = 0.01, 1000  # of a training set, and at all events: more than that is no accident
_TRIES = 20


class BadImages:
    """The damaged images of a training set of `total` images that were met so far.

    Attributes: tell, a callable (record number, why) that is told of each once; limit: how many may be damaged;
    reasons, dict record number -> why; replaced, how often another image was read in place of one.
    """

    def __init__(self, total, tell=lambda number, why: None):
        self.tell, self.limit = tell, max(1, min(_MOST, int(total * _SHARE)))
        self.reasons, self.replaced = {}, 0

    def add(self, number, error):
        """Count one, in the order of the batches. Raises DataError where they have become too many."""
        self.replaced += 1
        if number not in self.reasons:
            self.reasons[number] = str(error)
            self.tell(number, str(error))
        if len(self.reasons) > self.limit:
            raise DataError(f"{error}; this is damaged image number {len(self.reasons)}, and --bad-images skip stands "
                            f"{self.limit} ({_SHARE:.0%} of the set, but one at least and {_MOST} at most); "
                            "python datasets/doctor.py finds all of them, and its --fix leaves them out")


def stand_ins(order, seed, image):
    """Images to try in place of a damaged one: positions drawn from those of an epoch.

    order: (M,) positions; seed: list of integers, on which and on the image's position alone the draw hangs.
    Returns (20,).
    """
    return order[np.random.RandomState([*seed, image]).randint(len(order), size=_TRIES)]
