"""Training data and verification packs; here the table of data sets that `--dataset` knows."""
import logging
from pathlib import Path
from typing import NamedTuple, Optional, Tuple

from common.errors import UserError, unknown_name
from datasets.shards import is_sharded
from datasets.training_set import read_property

ROOT = Path(__file__).resolve().parent  # data sets lie beside the code, each in its own folder
TEMPLATES = "templates.txt"  # of a template set: its folder has this file

_DOWNLOADED = "lay the downloaded data set there"
_TABLE = {  # name: (folder, classes, verification packs, what to do where the folder is missing)
    "emore": ("faces_emore", 85742, ("lfw", "cfp_fp", "agedb_30"), _DOWNLOADED),
    "retina": ("ms1m-retinaface-t1", 93431, ("lfw", "cfp_fp", "agedb_30"), _DOWNLOADED),
    "demo": ("demo", None, None, "make it with 'make demo'"),
}


class Dataset(NamedTuple):
    """A data set that was found on disk.

    num_classes and image_shape (height, width) come from its `property`; table_classes is what the table expects of
    this name (None: nothing), val_targets the names of the verification packs to use.
    """

    name: str
    folder: Path
    num_classes: int
    image_shape: Tuple[int, int]
    table_classes: Optional[int]
    val_targets: Tuple[str, ...]

    def target_path(self, target):
        """See `find_target`."""
        return find_target(self.folder, target)


def find_target(folder, target):
    """Path of a verification pack, <folder>/<target>.bin, or of a template set, <folder>/<target>.

    Raises UserError, listing what is there.
    """
    path = Path(folder, f"{target}.bin")
    if path.is_file():
        return path
    if is_template_set(Path(folder, target)):
        return Path(folder, target)
    found = ", ".join(list_targets(folder)) or "none"
    raise UserError(f"no verification pack {path}; packs in that folder: {found}")


def list_targets(folder):
    """Names of the verification packs (*.bin) and template sets in a folder, sorted."""
    packs = [path.stem for path in Path(folder).glob("*.bin")]
    return tuple(sorted(packs + [path.parent.name for path in Path(folder).glob(f"*/{TEMPLATES}")]))


def is_template_set(folder):
    """Whether a folder holds a template set, see `datasets.templates`."""
    return Path(folder, TEMPLATES).is_file()


def _holds_images(folder):
    return Path(folder, "train.rec").is_file() or Path(folder).is_dir() and is_sharded(folder)


def find_dataset(name, root=ROOT):
    """Find a data set.

    name: one of the table (its folder lies in `root`), or the path of a folder that holds train.rec or shards, whose
    packs then are the verification targets. Returns a Dataset. The number of classes is what `property` says; where
    the table expects another one, that is logged as a warning.
    Raises UserError for an unknown name and a folder without train.rec, DataError for a bad `property`.
    """
    if name in _TABLE:
        folder, table_classes, targets, advice = _TABLE[name]
        folder = Path(root, folder)
        if not _holds_images(folder):
            raise UserError(f"data set {name!r}: no train.rec in {folder}; {advice}, or give --dataset the path of a "
                            "folder with train.rec")
    else:
        folder, table_classes, targets = Path(name), None, None
        if not _holds_images(folder):
            raise UserError(f"{unknown_name('data set', str(name), _TABLE)}, or the path of a folder with train.rec")
    num_classes, image_shape = read_property(folder)
    if table_classes not in (None, num_classes):
        logging.getLogger(__name__).warning(
            "data set %s: %s says %d classes, expected %d; going on with %d", name, folder / "property", num_classes,
            table_classes, num_classes)
    return Dataset(str(name), folder, num_classes, image_shape, table_classes,
                   list_targets(folder) if targets is None else targets)
