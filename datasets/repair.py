"""Repaired copies of training sets and verification packs. What is examined is never changed itself."""
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import write_text
from datasets.packs import write_pack
from datasets.recordio import RecordReader
from datasets.training_set import write_training_set


def repair_set(examination, folder):
    """Write the sound images of a training set as a new one, and identities.txt (class, class before, images) beside.

    examination: SetExamination; folder: where no training set lies yet. Images are copied byte by byte, without those
    that are stored again in their identity; classes without an image are left out and the others numbered anew.
    Returns the number of images written. Raises UserError where nothing sound is left or the folder is taken.
    """
    folder = Path(folder)
    if (folder / "train.rec").exists():
        raise UserError(f"{folder}: there is a training set already; a repaired copy goes to a new folder")
    rows, labels = examination.rows, examination.labels
    kept = np.flatnonzero(examination.usable & ~examination.again)
    if not len(kept):
        raise UserError(f"{examination.folder}: no sound image is left to write")
    kept = kept[np.lexsort((rows["number"][kept], labels[kept]))]
    classes, starts = np.unique(labels[kept], return_index=True)
    reader = RecordReader(examination.folder / "train.rec")
    try:
        counts = write_training_set(folder, (
            (reader.read(int(rows["offset"][i]), int(rows["number"][i]))[1] for i in places)
            for places in np.split(kept, starts[1:])), examination.image_shape)
    finally:
        reader.close()
    write_text(folder / "identities.txt", "".join(
        f"{label}\t{before}\t{count}\n" for label, (before, count) in enumerate(zip(classes, counts))))
    return len(kept)


def repair_pack(examination, path):
    """Write the sound pairs of a verification pack as a new one; its figures are no longer comparable to others'.

    examination: PackExamination; path: where nothing lies yet. Returns the number of pairs written.
    Raises UserError where nothing sound is left or the path is taken.
    """
    if Path(path).exists():
        raise UserError(f"{path}: there is a file already; a repaired copy goes to a new one")
    pairs = np.flatnonzero(examination.usable)
    if not len(pairs):
        raise UserError(f"{examination.path}: no sound pair is left to write")
    images = [examination.images[i] for pair in pairs for i in (2 * pair, 2 * pair + 1)]
    write_pack(path, images, examination.labels[pairs] == 1)
    return len(pairs)
