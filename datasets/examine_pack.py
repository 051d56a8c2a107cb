"""A whole verification pack examined: images, labels, folds, pairs that tell nothing or contradict each other."""
from collections import namedtuple
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import DataError
from common.files import open_plain
from datasets.checksums import SEAL, check_checksums
from datasets.measure import BLANK, GOOD, measure_all
from datasets.near_duplicates import DHASH_BITS, popcount
from datasets.packs import read_pack_parts

_NO_LABEL = -1

PackExamination = namedtuple("PackExamination", "path images rows labels image_shape usable pairs folds sealed")
PackExamination.__doc__ = """What is known of a verification pack after its examination.

images: list of encoded images; rows: as many of measure.ROW; labels: int64, 1 genuine, 0 impostor, -1 no label;
image_shape: the size that images should have; usable: (pairs,) bool, nothing wrong with the pair;
pairs: kind of finding -> (M, 2) places in rows; folds: list of (genuine, impostor); sealed: whether there are
checksums.
"""


def checksums_path(path):
    """Where the checksums of a pack lie."""
    return Path(path).with_suffix(".checksums")


def examine_pack(path, findings, image_shape=(112, 112), nfolds=10, near_bits=3, progress=True):
    """Examine a verification pack.

    path: the .bin file; findings: Findings, which gets what is wrong; image_shape: (height, width) that images must
    have; nfolds: folds of the verification; near_bits: as `near_duplicates` takes it. The encoded images stay in
    memory. Returns a PackExamination. Raises DataError where the file is missing or cannot be read.
    """
    with open_plain(path):
        pass  # a file that cannot be opened is for the caller, one that cannot be understood is a finding
    try:
        images, labels = read_pack_parts(path)
    except DataError as error:
        findings.add("pack", Path(path).name, str(error))
        images, labels = [], []
    for number, image in enumerate(images):
        if image is None:
            findings.add("pack_image", number, "no bytes")
    for number, label in enumerate(labels):
        if label is None:
            findings.add("pack_label", number, "expected True or False")
    images = [image or b"" for image in images]
    labels = np.array([_NO_LABEL if label is None else int(label) for label in labels], np.int64)
    with tqdm(total=len(images), unit="image", disable=not progress) as bar:
        rows = measure_all(((number, number, 0, True, image) for number, image in enumerate(images)), bar)
    usable = _check_pairs(rows, labels, image_shape, findings)
    pairs = _check_copies(rows, labels, usable, near_bits, findings)
    folds = _check_folds(labels, nfolds, findings)
    examination = PackExamination(Path(path), images, rows, labels, tuple(image_shape), usable, pairs, folds,
                                  checksums_path(path).exists())
    if examination.sealed:
        check_checksums(checksums_path(path), seal_rows(examination), findings)
    return examination


def seal_rows(examination):
    """What checksums hold of a pack, (2N,) of SEAL: the label of a pair stands with both of its images."""
    sealed = np.zeros(len(examination.rows), SEAL)
    sealed["number"], sealed["content"] = examination.rows["number"], examination.rows["content"]
    labels = np.repeat(examination.labels, 2)[:len(sealed)]
    sealed["label"][:len(labels)] = labels & 0xFF
    return sealed


def _check_pairs(rows, labels, image_shape, findings):
    """Whether both images and the label of each pair are sound: (pairs,) bool."""
    if len(rows) != 2 * len(labels) or not len(rows):
        findings.add("counts", "pack", f"{len(rows)} images, {len(labels)} labels; expected two images for each label")
    bad = rows["state"] != GOOD
    for row in rows[bad & (rows["bytes"] > 0)]:
        findings.add("pack_undecodable", int(row["number"]), f"pair {row['number'] // 2}, {row['bytes']} bytes")
    wrong = ~bad & ((rows["height"] != image_shape[0]) | (rows["width"] != image_shape[1]))
    for row in rows[wrong]:
        findings.add("pack_size", int(row["number"]), f"{row['height']}x{row['width']}; expected {image_shape[0]}x"
                     f"{image_shape[1]}")
    for row in rows[~bad & (rows["contrast"] < BLANK)]:
        findings.add("blank", int(row["number"]), f"brightness {row['brightness']:.0f}, contrast {row['contrast']:.1f}")
    count = min(len(rows) // 2, len(labels))
    return ~(bad | wrong)[:2 * count].reshape(-1, 2).any(axis=1) & (labels[:count] != _NO_LABEL)


def _check_copies(rows, labels, usable, near_bits, findings):
    """Pairs of one image, of near duplicates, and pairs that are there again; the impossible ones become unusable."""
    count = len(usable)
    pairs = np.arange(2 * count).reshape(-1, 2)
    content = rows["content"][pairs]
    same = usable & (content[:, 0] == content[:, 1])
    alike = usable & ~same & (rows["contrast"][pairs] >= BLANK).all(axis=1)
    for name, bits in (("phash", near_bits), ("dhash", DHASH_BITS)):
        alike &= popcount(rows[name][pairs[:, 0]] ^ rows[name][pairs[:, 1]]) <= bits
    genuine = labels[:count] == 1
    kinds = {"impostor_same": same & ~genuine, "genuine_same": same & genuine,
             "near_impostor": alike & ~genuine, "near_genuine": alike & genuine}
    for kind, chosen in kinds.items():
        for pair in np.flatnonzero(chosen):
            findings.add(kind, f"pair {pair}", f"images {2 * pair} and {2 * pair + 1}")
    _check_repeats(np.sort(content, axis=1), labels, usable, findings)
    usable &= ~kinds["impostor_same"]
    return {kind: pairs[chosen] for kind, chosen in kinds.items()}


def _check_repeats(content, labels, usable, findings):
    places = np.flatnonzero(usable)
    order = places[np.lexsort((places, content[places, 1], content[places, 0]))]
    starts = np.append(True, (content[order[1:]] != content[order[:-1]]).any(axis=1))[:len(order)]
    for group in np.split(order, np.flatnonzero(starts)[1:]):
        if len(group) < 2:
            continue
        contradicts = len(set(labels[group].tolist())) > 1
        for pair in group[1:]:
            findings.add("contradiction" if contradicts else "repeated", f"pair {pair}", f"like pair {group[0]}")
        usable[group] &= not contradicts


def _check_folds(labels, nfolds, findings):
    """Genuine and impostor pairs of each fold, as verification cuts them."""
    parts = np.array_split(labels, nfolds)  # the first folds are one longer where it does not divide
    folds = [(int((part == 1).sum()), int((part == 0).sum())) for part in parts]
    if len(labels) % nfolds:
        findings.add("folds", "pack", f"{len(labels)} pairs do not divide by {nfolds} folds")
    if len({genuine for genuine, _ in folds}) > 1:
        counts = [genuine for genuine, _ in folds]
        findings.add("folds", "pack", f"{min(counts)} to {max(counts)} genuine pairs in a fold")
    for number, (genuine, impostor) in enumerate(folds):
        if not genuine or not impostor:
            findings.add("folds", f"fold {number}", f"{genuine} genuine and {impostor} impostor pairs")
    return folds
