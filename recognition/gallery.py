"""A gallery: the embeddings of known people's pictures in one file, in which faces are searched.

The .npz file holds, a row for each picture: names (N,) str, the identity; embeddings (N, D) float32, L2-normalised;
digests (N,) str, SHA-256 of the picture's file. And of all: model, the hash of the network that made them, model_name,
and flip, what it made of mirrored images. Nothing in it is pickled, and no picture is in it.
"""
import io
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from common.arrays import read_npz
from common.embeddings import normalise
from common.errors import DataError, UserError
from common.files import write_bytes

_COLUMNS = ("names", "digests", "embeddings")


class Match(NamedTuple):
    """An identity that a face may be of. similarity: cosine; accepted: whether it reaches the threshold, None where
    none is known."""

    name: str
    similarity: float
    accepted: Optional[bool]


class Gallery:
    """People and the embeddings of their pictures.

    model: hash of the network; flip: what it makes of mirrored images; model_name, name: what messages call it and the
    gallery. Another network's embeddings are never mixed in or compared.
    """

    def __init__(self, model, flip="sum", model_name="", name="the gallery"):
        self.model, self.flip, self.model_name, self.name = model, flip, model_name, name
        self._rows, self._templates = {}, None  # (name, digest) -> embedding (D,)

    def __len__(self):
        return len(self._rows)

    def __contains__(self, key):
        return key in self._rows

    def identities(self):
        """The identities, sorted, with their number of pictures: dict name -> int."""
        names, counts = np.unique([name for name, _ in self._rows], return_counts=True)
        return dict(zip(names.tolist(), counts.tolist()))

    def add(self, name, digest, embedding):
        """Add a picture of an identity, which may be new; a picture that the identity has already is replaced.

        digest: SHA-256 of its file; embedding: (D,), L2-normalised.
        """
        self._rows[name, digest] = np.asarray(embedding, np.float32)
        self._templates = None

    def remove(self, name):
        """Remove an identity. Raises UserError, naming some that are there, where it is not."""
        rows = {key: row for key, row in self._rows.items() if key[0] != name}
        if len(rows) == len(self._rows):
            known = list(self.identities())
            raise UserError(f"no identity {name!r} among the {len(known)} of {self.name}, such as "
                            f"{', '.join(known[:5]) or 'none'}")
        self._rows, self._templates = rows, None

    def check(self, model, flip, where, emb_size=None):
        """Raise UserError where embeddings of this model hash and flip cannot be compared with those of the gallery,
        DataError where they have another size."""
        if model != self.model:
            raise UserError(f"{where}: was made with another model ({self.model_name}, {self.model[:12]}; this one is "
                            f"{model[:12]}); name that one, or enrol anew with this one")
        if flip != self.flip:
            raise UserError(f"{where}: was made with --flip {self.flip}, not {flip}")
        found = {len(row) for row in self._rows.values()} - {emb_size}
        if emb_size is not None and found:
            raise DataError(f"{where}: damaged: its embeddings have {found.pop()} numbers, the model's {emb_size}")

    def search(self, embeddings, threshold=None, most=5):
        """The identities that are nearest to faces.

        embeddings: (N, D), L2-normalised; threshold: a Threshold, or None; most: identities for each face.
        Returns for each face a list of Match, the nearest first, at least one. An identity's similarity is that of
        the mean of its pictures' embeddings, normalised. Raises UserError for an empty gallery.
        """
        names, templates = self._means()
        similarities = np.asarray(embeddings, np.float64) @ templates.T
        return [[Match(names[place], float(row[place]), None if threshold is None else
                       bool(threshold.decide(row[place]))) for place in np.argsort(-row, kind="stable")[:most]]
                for row in similarities]

    def _means(self):
        """Names, a list, and mean embeddings, (G, D) float64, L2-normalised."""
        if not self._rows:
            raise UserError(f"{self.name} is empty; enrol somebody first")
        if self._templates is None:
            rows = sorted(self._rows)
            names, starts = np.unique([name for name, _ in rows], return_index=True)
            sums = np.add.reduceat(np.stack([self._rows[row] for row in rows]).astype(np.float64), starts)
            self._templates = names.tolist(), normalise(sums, f"{self.name}'s identities")
        return self._templates

    def save(self, path):
        """Write the gallery, whole or not at all."""
        rows = sorted(self._rows)
        names, digests = (np.array([row[part] for row in rows], dtype=str) for part in (0, 1))
        embeddings = np.stack([self._rows[row] for row in rows]) if rows else np.empty((0, 0), np.float32)
        file = io.BytesIO()  # NumPy's ZipFile prints a traceback where the disk is full
        np.savez(file, names=names, digests=digests, embeddings=embeddings, model=self.model, flip=self.flip,
                 model_name=self.model_name)
        write_bytes(path, file.getbuffer())


def load_gallery(path):
    """Read a gallery. Raises DataError where it is missing, damaged or something else."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such gallery; make it with search.py enrol")
    file = read_npz(path, "no gallery, or damaged")
    try:
        names, digests, embeddings = (file[name] for name in _COLUMNS)
        gallery = Gallery(*(str(file[name].item()) for name in ("model", "flip", "model_name")), str(path))
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: no gallery, or damaged: {error}") from error
    if not _fit(names, digests, embeddings):
        raise DataError(f"{path}: no gallery, or damaged: its columns do not fit each other")
    for row in zip(names.tolist(), digests.tolist(), embeddings):
        gallery.add(*row)
    return gallery


def _fit(names, digests, embeddings):
    """Whether a gallery's columns are of one length and as they should be."""
    return (names.dtype.kind == digests.dtype.kind == "U" and embeddings.dtype == np.float32 and embeddings.ndim == 2
            and names.shape == digests.shape == embeddings.shape[:1] and embeddings.size >= len(names)
            and np.all(np.abs(np.linalg.norm(embeddings, axis=1) - 1) < 1e-3))
