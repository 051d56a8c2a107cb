"""A model put to use: pictures of faces embedded, compared, and searched in a gallery. For commands and notebooks."""
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import List, NamedTuple, Optional, Tuple

import numpy as np
from tqdm import tqdm

from common.cores import cpu_count
from common.embedder import Embedder
from common.embeddings import normalise
from common.errors import DataError
from common.files import check_writable, hash_file
from datasets.embedding_store import hash_model
from datasets.identity_folder import list_identities
from datasets.images import SUFFIXES
from datasets.threads import in_order
from eval.embeddings import joined, mirrored
from eval.pair_embeddings import check_flip
from recognition.faces import Face, FaceFinder
from recognition.gallery import Gallery, load_gallery
from recognition.pictures import picture_file
from recognition.threshold import Threshold, make_threshold


class Embedded(NamedTuple):
    """A picture whose faces were embedded. name, label: see `recognition.pictures`; faces: list of Face; embeddings:
    (len(faces), D) float64; problem: why there is no face, else None."""

    name: str
    label: str
    faces: List[Face]
    embeddings: np.ndarray
    problem: Optional[str]


@dataclass
class Comparison:
    """Two faces compared. similarity: cosine; same: whether they count as one person, None where no threshold is
    known; names: of the pictures; crops: the aligned faces, (H, W, 3) uint8 RGB. A notebook shows its picture."""

    similarity: float
    same: Optional[bool]
    threshold: Optional[Threshold]
    names: Tuple[str, str]
    crops: Tuple[np.ndarray, np.ndarray] = field(repr=False)

    def verdict(self):
        """The decision in words, '' where there is none."""
        return "" if self.same is None else "same person" if self.same else "different people"

    def picture(self):
        """Both faces with similarity and decision, as the bytes of a PNG file."""
        from eval.plots import faces_figure, png  # Matplotlib is slow to load

        verdict = self.verdict() and f": {self.verdict()}"
        return png(faces_figure(self.crops, self.names, f"similarity {self.similarity:.4f}{verdict}"))

    def _repr_png_(self):
        return self.picture()


class Enrolment(NamedTuple):
    """What `Recogniser.enrol` did. gallery: a Gallery; added, known: pictures that are new in it, and that it had;
    left_out: list of messages on pictures that could not be used."""

    gallery: Gallery
    added: int
    known: int
    left_out: List[str]


class Recogniser:
    """Faces by a model: `embed`, `compare`, `enrol`, `search`.

    model: 'prefix,epoch'. detector, min_size: see FaceFinder; without a detector pictures have to be aligned faces.
    threshold: a Threshold, a cosine, or None: nothing is decided. flip: what becomes of mirrored images, see
    `eval.embeddings.joined`. devices: list of mx.Context, None for all GPUs, else the CPU; batch_size: images that a
    device takes at once; image_shape: (height, width) of the network's images.
    A picture is the path of its file, its bytes, or an array (H, W, 3) uint8 RGB. Threads may share a Recogniser.
    Raises UserError and DataError for a model, a detector and settings that cannot be used.
    """

    def __init__(self, model, detector=None, threshold=None, flip="sum", devices=None, batch_size=64,
                 image_shape=(112, 112), min_size=40):
        check_flip(flip)
        self.model, self.flip, self.threshold = model, flip, make_threshold(threshold)
        self.finder = FaceFinder(image_shape, detector, min_size)
        self._embedder = Embedder(model, devices, batch_size, image_shape)
        self._batch_size, self._lock = batch_size * (len(devices) if devices else 1), Lock()

    @property
    def emb_size(self):
        """Dimensions of an embedding."""
        return self._embedder.emb_size * (2 if self.flip == "concat" else 1)

    @cached_property
    def model_hash(self):
        """The hash of the model's files, by which a gallery knows it."""
        return hash_model(self.model)

    def embed_crops(self, crops, raw=False):
        """Embed aligned faces, (N, H, W, 3) uint8 RGB or a list of them. Returns (N, D) float64, L2-normalised unless
        `raw`."""
        images = np.stack(crops).transpose(0, 3, 1, 2)
        views = [images] if self.flip == "none" else [images, mirrored(images)]
        with self._lock:
            embeddings = joined([self._embedder(view) for view in views], self.flip)
        return embeddings if raw else normalise(embeddings, f"model {self.model}")

    def face(self, picture):
        """The face that a picture is of. Raises DataError where there is none to be found."""
        where = _name(picture)
        return self.finder.find(self.finder.decode(picture, where), where)[0]

    def embed(self, pictures):
        """Embed the face of each picture, or of a single one. Returns (N, D) float32, L2-normalised, or (D,).

        Raises DataError for a picture that cannot be used; `embed_all` goes on behind it.
        """
        if isinstance(pictures, (str, Path, bytes)) or isinstance(pictures, np.ndarray) and pictures.ndim == 3:
            return self.embed([pictures])[0]
        faces = [self.face(picture).crop for picture in pictures]
        return self.embed_crops(faces).astype(np.float32) if faces else np.empty((0, self.emb_size), np.float32)

    def embed_all(self, pictures, most=1, raw=False, progress=True):
        """Embed any number of pictures, of which few are in memory at a time.

        pictures: `Picture` tuples, with a length; most: faces of a picture; raw: not normalised; progress: show a bar
        with rate and time left. Yields an Embedded for each, in order; those that cannot be used have a problem.
        """
        waiting, count = [], 0
        ahead = cpu_count() if self.finder.finds else 64  # photographs are large
        with closing(in_order(self._read, pictures, ahead)) as read, \
                tqdm(total=len(pictures), unit="image", desc="embedding", disable=not (progress and pictures)) as bar:
            for decoded in read:
                waiting.append(self._find(*decoded, most))
                count += len(waiting[-1].faces)
                bar.update()
                if count >= self._batch_size or len(waiting) >= 10 * self._batch_size:
                    yield from self._flush(waiting, raw)
                    waiting, count = [], 0
            yield from self._flush(waiting, raw)

    def _read(self, picture):
        """Name, label and decoded image of a Picture, or what is wrong with it. Threads call this."""
        try:
            data, label = picture.read()
            return picture.name, label, self.finder.decode(data, picture.name), None
        except DataError as error:
            return picture.name, "", None, str(error)

    def _find(self, name, label, image, problem, most):
        """An Embedded whose embeddings are still to be computed."""
        faces = []
        if problem is None:
            try:
                faces = self.finder.find(image, name, most)
            except DataError as error:
                problem = str(error)
        return Embedded(name, label, faces, np.empty((0, self.emb_size)), problem)

    def _flush(self, waiting, raw):
        crops = [face.crop for found in waiting for face in found.faces]
        embeddings = iter(self.embed_crops(crops, raw) if crops else ())
        for found in waiting:
            yield found._replace(embeddings=np.stack([next(embeddings) for _ in found.faces])) if found.faces else found

    def compare(self, first, second):
        """Compare the faces of two pictures. Returns a Comparison. Raises DataError as `embed` does."""
        crops = [self.face(picture).crop for picture in (first, second)]
        similarity = float(np.dot(*self.embed_crops(crops)))
        same = None if self.threshold is None else bool(self.threshold.decide(similarity))
        return Comparison(similarity, same, self.threshold, (_name(first), _name(second)), tuple(crops))

    def gallery(self, gallery):
        """A Gallery, or that of a path. Raises UserError where it is of another model, which must not search it."""
        found = gallery if isinstance(gallery, Gallery) else load_gallery(gallery)
        found.check(self.model_hash, self.flip, "the gallery" if found is gallery else gallery, self.emb_size)
        return found

    def enrol(self, folder, gallery, progress=True):
        """Enrol the people of a folder: a sub-folder for each with pictures, or a picture named for the person.

        gallery: a Gallery, or the path of one, which is made where it is missing and written at the end, also when the
        work is stopped; pictures that it has are not embedded again. Returns an Enrolment.
        Raises UserError and DataError for a folder without pictures, and for a gallery of another model.
        """
        path = None if isinstance(gallery, Gallery) else Path(gallery)
        new = path is not None and not path.exists()
        gallery = Gallery(self.model_hash, self.flip, str(self.model), str(path)) if new else self.gallery(gallery)
        if path is not None:
            check_writable(path)
        files = _people(folder)
        digests = {str(file): _digest(file) for _, file in files}
        pictures = [picture_file(file, name) for name, file in files if (name, digests[str(file)]) not in gallery]
        left_out, added = [], 0
        try:
            for found in self.embed_all(pictures, progress=progress):
                if found.problem:
                    left_out.append(found.problem)
                else:
                    gallery.add(found.label, digests[found.name], found.embeddings[0])
                    added += 1
        finally:
            if path is not None and added:
                gallery.save(path)
        return Enrolment(gallery, added, len(files) - len(pictures), left_out)

    def search(self, picture, gallery, most=5):
        """The identities of a gallery that are nearest to a picture's face: a list of Match, see `Gallery.search`.

        gallery: a Gallery or the path of one. A face of nobody that is known has a first match that is not accepted.
        """
        return self.gallery(gallery).search(self.embed([picture]), self.threshold, most)[0]


def _name(picture):
    return str(picture) if isinstance(picture, (str, Path)) else "the picture"


def _digest(path):
    """The hash of a file, '' where it cannot be read, which is told when it is to be embedded."""
    try:
        return hash_file(path)
    except DataError:
        return ""


def _people(folder):
    """The pictures of a folder of people: list of (name, path)."""
    folder = Path(folder)
    loose = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and path.is_file()
             and not path.name.startswith(".")] if folder.is_dir() else []
    try:
        identities = list_identities(folder)
    except DataError:  # no sub-folders with pictures
        if not loose:
            raise
        identities = []
    return [(name, path) for name, paths in identities for path in paths] + [(path.stem, path) for path in loose]
