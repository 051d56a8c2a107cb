"""From which similarity on two faces count as one person: a number, or what a verification found at a FAR."""
import math
from typing import NamedTuple, Optional

from common.checkpoint import weights_path
from common.errors import DataError, UserError
from common.files import hash_file
from eval.results import read_results

UNKNOWN = "no threshold is known, so nothing is decided; --thresholds results.json --far 1e-3 takes that of a " \
          "verification of this model, --threshold 0.3 sets one"


class Threshold(NamedTuple):
    """Faces of this cosine similarity and more count as one person.

    far: the share of strangers that it lets in, as a verification found it, or None; origin: where it was found.
    """

    cosine: float
    far: Optional[float] = None
    origin: str = ""

    def __str__(self):
        return f"{self.cosine:.4f}" + (f" (FAR {self.far:g} on {self.origin})" if self.far else "")

    def decide(self, similarity):
        """Whether faces of this similarity count as one person; of an array, each."""
        return similarity >= self.cosine

    def strangers(self, identities):
        """The share of strangers that is taken for one of so many identities, as if they were independent; or None."""
        return None if self.far is None else 1 - (1 - self.far) ** identities


def make_threshold(value):
    """A Threshold of a number; Threshold and None stay as they are. Raises UserError for no cosine."""
    if value is None or isinstance(value, Threshold):
        return value
    if not -1 <= value <= 1:
        raise UserError(f"threshold {value:g}; expected a cosine similarity, -1 to 1")
    return Threshold(float(value))


def read_threshold(path, far, model, flip="sum", target=None):
    """The threshold that a verification found at a FAR, exact over all its pairs.

    path: its results.json; far: one of those in it, such as 1e-3; model: which it must be of; flip:
    what it must have made of mirrored images; target: the name of its pack, where it has several of the model.
    Returns a Threshold. Raises UserError or DataError where it does not say, and says what it has.
    """
    digest = hash_file(weights_path(model))
    entries = [entry for entry in read_results(path) if entry["protocol"] == "verification"]
    found = [entry for entry in entries if entry["trace"].get("model_sha256") == digest]
    if not found:
        raise UserError(f"{path}: holds no verification of {model}, only of "
                        f"{_listed(entry.get('model') for entry in entries)}; a threshold is its model's own: run "
                        "eval/verification.py on this one, or set --threshold")
    if target is not None:
        found = [entry for entry in found if entry["target"] == target] or _no_target(path, target, found)
    if len({entry["target"] for entry in found}) > 1:
        raise UserError(f"{path}: verifications on {_listed(entry['target'] for entry in found)}; choose one with "
                        "--target")
    entry = found[-1]
    if entry.get("flip") != flip:
        raise UserError(f"{path}: its threshold is for --flip {entry.get('flip')}, not {flip}")
    return Threshold(_at(path, far, entry), far, entry["target"])


def _no_target(path, target, found):
    raise UserError(f"{path}: no verification on {target!r}, only on {_listed(entry['target'] for entry in found)}")


def _listed(names):
    return ", ".join(sorted({str(name) for name in names})) or "none"


def _at(path, far, entry):
    """The cosine at a FAR in an entry's exact TARs."""
    try:
        points = {float(point["asked"]): (point["threshold"], point["enough"]) for point in entry["exact_tar_at_far"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: the verification on {entry['target']} has no exact thresholds; repeat it") from error
    asked = next((point for point in points if math.isclose(point, far)), None)
    usable = _listed(f"{point:g}" for point, (cosine, enough) in points.items() if enough and cosine is not None)
    if asked is None:
        raise UserError(f"{path}: no threshold at FAR {far:g}; those on {entry['target']} are at {usable}")
    cosine, enough = points[asked]
    if not enough or cosine is None:
        raise UserError(f"{path}: {entry['target']} has too few impostor pairs for FAR {far:g}; usable are {usable}")
    if not isinstance(cosine, (int, float)) or not -1.001 <= cosine <= 1.001:
        raise DataError(f"{path}: threshold {cosine!r} at FAR {far:g} on {entry['target']}; expected a cosine")
    return float(cosine)
