"""Embeddings of all images of IJB-B or IJB-C in one file, from which every variant and protocol is computed.

`<target>_features.npy` (N, 2, D) float32: of each image and of its mirrored twin, not normalised, zeros for an image
that was left out; `<target>_features.json`: which model and images they are of, how many are done, which are left out.
"""
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from common.arrays import open_array, open_rows
from common.cores import cpu_count
from common.embeddings import ahead, normalise
from common.errors import DataError, UserError
from common.face_align import DegenerateLandmarks, align
from common.files import hash_file, read_json, write_text
from datasets.images import UnreadableImage, decode_bgr, read_image
from eval.embeddings import embed_flipped

_SAVE_SECONDS = 60  # what an interrupted run loses at most, in time


class FeatureFile(NamedTuple):
    """The features of the images that were not left out: `numbers` (n,) are theirs in the list of images.

    features[rows] reads places (m,) int in `numbers` as (m, 2, D) float32; nothing stays in memory.
    """

    path: Path
    numbers: np.ndarray

    def __getitem__(self, rows):
        # Opened anew, since the pages of an open map would pile up.
        return open_array(self.path, (None, 2, None))[self.numbers[rows]]


def embed_faces(embed, images, folder, output, name, model_hash, skip_missing=False, batch_size=64, progress=True):
    """Align and embed every image into `<output>/<name>_features.npy`; goes on where an earlier run was stopped.

    embed: see `common.embedder`; images: `ijb_meta.Images`; folder: of the image files. model_hash: what the file is
    known by, together with the list of landmarks. skip_missing: leave out images that are missing or cannot be
    decoded. Returns a FeatureFile.
    Raises DataError for missing and unreadable images and for landmarks that fit no face, UserError for the features
    of another model and for embeddings without a direction.
    """
    path = Path(output, f"{name}_features.npy")
    state = dict(model=model_hash, images=hash_file(images.points), count=len(images.names), dimensions=embed.emb_size)
    done, left_out = _find_done(path, state, skip_missing)
    if done < len(images.names):
        faces = _Faces(images, folder, embed.image_shape, _missing(images.names, folder, skip_missing), skip_missing)
        left_out = _fill(path, state, done, left_out, embed, faces, batch_size, progress)
    try:
        open_array(path, (len(images.names), 2, embed.emb_size))
    except DataError as error:
        raise DataError(f"{error}; delete it and its .json to embed anew") from error
    return FeatureFile(path, np.delete(np.arange(len(images.names)), left_out))


def _missing(names, folder, skip):
    missing = {number for number, name in enumerate(names) if not os.path.isfile(os.path.join(folder, name))}
    if missing and (not skip or len(missing) == len(names)):
        raise DataError(f"{folder}: {len(missing)} of {len(names)} images are missing, the first is "
                        f"{names[min(missing)]}; {'is it the folder of the images?' if skip else ''}"
                        + "with --skip-missing they are left out, and figures cannot be compared" * (not skip))
    return missing


def _find_done(path, state, skip):
    """How many images an earlier run has embedded, and which of them it left out."""
    note = path.with_suffix(".json")
    if not note.is_file() or not path.is_file():
        return 0, []
    found = read_json(note, dict)
    wrong = [name for name in state if found.get(name) != state[name]]
    done, left_out, count = found.get("done"), found.get("left_out"), state["count"]
    if not isinstance(left_out, list) or not all(
            type(number) is int and 0 <= number <= count for number in [done, *left_out]) or count in left_out:
        raise DataError(f"{note}: damaged; delete it and {path.name} to embed anew")
    if wrong:
        raise UserError(f"{path}: holds embeddings of another {' and '.join(wrong)}; name another --output, or delete "
                        "it")
    if left_out and not skip:
        raise UserError(f"{path}: {len(left_out)} images were left out, the first is number {left_out[0]}; delete the "
                        "file to embed all, or add --skip-missing")
    return done, left_out


class _Faces:
    """Reads aligned faces."""

    def __init__(self, images, folder, image_shape, missing, skip):
        self.images, self.folder, self.shape, self.missing, self.skip = images, folder, image_shape, missing, skip

    def read(self, number):
        """Image number as (3, H, W) uint8 RGB, aligned; None where it is to be left out."""
        if number in self.missing:
            return None
        path = Path(self.folder, self.images.names[number])
        try:
            image = decode_bgr(read_image(path), path)
        except UnreadableImage:
            if self.skip:
                return None
            raise
        try:
            return align(image, self.images.landmarks[number], self.shape)[:, :, ::-1].transpose(2, 0, 1)
        except DegenerateLandmarks as error:
            raise DataError(f"{self.images.points} line {number + 1}: {error} (of {path})") from error


def _fill(path, state, done, left_out, embed, faces, batch_size, progress):
    """Append the embeddings of images `done`, done + 1, ...; returns the numbers of those that are left out."""
    count, left_out = state["count"], list(left_out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_rows(path, "float32", (count, 2, state["dimensions"]), done) as file, \
                tqdm(total=count, initial=done, unit="image", desc="embedding", disable=not progress) as bar:
            try:
                due = time.monotonic() + _SAVE_SECONDS
                for rows, block, absent in _batches(embed, faces, range(done, count), batch_size):
                    file.write(block.tobytes())
                    done, left_out = int(rows[-1]) + 1, left_out + absent
                    bar.update(len(rows))
                    if time.monotonic() > due:
                        _save(path, file, state, done, left_out)
                        due = time.monotonic() + _SAVE_SECONDS
            finally:
                _save(path, file, state, done, left_out)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    return left_out


def _batches(embed, faces, numbers, batch_size):
    """(numbers, features (n, 2, D) float32, numbers left out) of one batch after the other."""
    with ThreadPoolExecutor(min(8, cpu_count())) as pool:
        jobs = [numbers[start:start + batch_size] for start in range(0, len(numbers), batch_size)]
        for rows, images in ahead(lambda rows: (rows, list(pool.map(faces.read, rows))), jobs):
            block = np.zeros((len(rows), 2, embed.emb_size), np.float32)
            there = [place for place, image in enumerate(images) if image is not None]
            if there:
                both = embed_flipped(embed, np.array([images[place] for place in there]))
                for part, values in enumerate(both):
                    normalise(values, f"images {rows[0] + 1} to {rows[-1] + 1}")  # raises for what has no direction
                    block[there, part] = values
            yield rows, block, [row for row, image in zip(rows, images) if image is None]


def _save(path, file, state, done, left_out):
    file.flush()
    os.fsync(file.fileno())
    write_text(path.with_suffix(".json"), json.dumps(dict(state, done=done, left_out=left_out), indent=1))
