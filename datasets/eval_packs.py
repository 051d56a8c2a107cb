"""Verification packs and template sets of the official protocols."""
import os
from pathlib import Path
from typing import List, NamedTuple

from common.errors import DataError, UserError
from common.files import write_text
from datasets.pairs import Pair, describe_missing, pack_pairs
from datasets.protocols import PROTOCOLS, read_protocol
from datasets.templates import list_frames, write_template_set


class Built(NamedTuple):
    """What was written: its pairs, in order; left_out: how many pairs of each fold miss an image."""

    pairs: List[Pair]
    left_out: List[int]


def build_eval_pack(protocol, data_dir, output, list_path=None, image_shape=(112, 112), skip_missing=False,
                    max_frames=None, progress=True):
    """Write the pack of a protocol, or its template set where it compares videos.

    protocol: see datasets.protocols.PROTOCOLS; data_dir: folder of its images, list_path: of its list, where that is
    elsewhere; output: the pack's file, for a template set a new folder. image_shape: (height, width) that every image
    must have. skip_missing: leave out pairs of which an image is missing; max_frames: of a video; progress: show a bar.
    Returns a Built. Raises UserError for settings that cannot be met, DataError for a list that is not the protocol's
    and for images that cannot be used. Where some are missing, all are named in <output>.missing.txt.
    """
    folds = read_protocol(protocol, data_dir, list_path)
    has_templates = PROTOCOLS[protocol].has_templates
    if max_frames is not None and not has_templates:
        raise UserError(f"max-frames is for protocols of videos; {protocol} compares images")
    missing = _find_missing(folds, output, has_templates, skip_missing)
    kept = [[pair for pair in fold if not missing & {pair.first, pair.second}] for fold in folds]
    pairs = [pair for fold in kept for pair in fold]
    if has_templates:
        write_template_set(output, pairs, image_shape, max_frames, progress)
    else:
        pack_pairs(pairs, output, image_shape, progress)
    return Built(pairs, [len(fold) - len(left) for fold, left in zip(folds, kept)])


def _find_missing(folds, output, has_templates, skip_missing):
    """The paths that are not there, a set; listed in a file beside the output, which goes when there are none."""
    paths = list(dict.fromkeys(path for fold in folds for pair in fold for path in pair[:2]))
    missing = [path for path in paths if not (list_frames(path) if has_templates else os.path.isfile(path))]
    listed = Path(f"{output}.missing.txt")
    if not missing:
        listed.unlink(missing_ok=True)
        return set()
    write_text(listed, "".join(f"{path}\n" for path in missing))
    if not skip_missing:
        raise DataError(describe_missing(missing, len(paths), "videos" if has_templates else "images")
                        + f"; all are listed in {listed}. Complete them, or leave their pairs out with --skip-missing")
    return set(missing)
