"""MegaFace feature files: reading, writing, and making them from lists of images.

A file is a matrix of one column as OpenCV stored it: int32 rows (the dimensions), columns 1, bytes of a row 4, type 5
(float), then the float32 values, all little-endian. A list names an image a line, relative to its root:
`person/image` for FaceScrub, `a1/a2/image` for MegaFace. `<set>/<entry>_<algo>.bin` is the feature of an entry.
"""
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import List, NamedTuple

import numpy as np
from tqdm import tqdm

from common.cores import cpu_count
from common.embeddings import ahead, normalise
from common.errors import DataError, UserError
from common.files import hash_file, read_bytes, read_text, write_bytes, write_text
from datasets.images import UnreadableImage, decode_into, read_image
from eval.embeddings import embed_flipped

DEPTHS = {"facescrub": 2, "megaface": 3}  # parts of an entry that name its feature file
_HEADER = struct.Struct("<4i")


class Dump(NamedTuple):
    """What a run has done: feature files written and found complete, entries whose image could not be read."""

    written: int
    kept: int
    unreadable: List[str]


def write_feature(path, feature):
    """Write a feature (D,) as float32, whole or not at all."""
    feature = np.asarray(feature, dtype="<f4")
    write_bytes(path, _HEADER.pack(len(feature), 1, 4, 5) + feature.tobytes())


def read_feature(path):
    """Read a feature (D,) float32. Raises DataError where the file cannot be read or is damaged."""
    data = read_bytes(path)
    if len(data) < _HEADER.size:
        raise DataError(f"{path}: {len(data)} bytes: expected a header of {_HEADER.size} and a feature")
    rows, *rest = _HEADER.unpack_from(data)
    if rest != [1, 4, 5] or rows < 1:
        raise DataError(f"{path}: header {(rows, *rest)}: expected (dimensions, 1, 4, 5)")
    if len(data) != _HEADER.size + 4 * rows:
        raise DataError(f"{path}: {len(data)} bytes: expected {_HEADER.size + 4 * rows} for {rows} dimensions")
    feature = np.frombuffer(data, "<f4", offset=_HEADER.size).astype(np.float32)
    if not np.isfinite(feature).all():
        raise DataError(f"{path}: holds values that are not finite")
    if not feature.any():  # nearer to every face than a stranger is, see `placeholder`
        raise DataError(f"{path}: holds zeros alone; a feature must have a direction")
    return feature


def is_complete(path, dimensions):
    """Whether a whole feature of so many dimensions is there, judged by size and header."""
    try:
        with open(path, "rb") as file:
            return (os.fstat(file.fileno()).st_size == _HEADER.size + 4 * dimensions
                    and file.read(_HEADER.size) == _HEADER.pack(dimensions, 1, 4, 5))
    except OSError:
        return False


def read_list(path, kind):
    """Read a list of images. kind: 'facescrub' or 'megaface'. Returns the entries (str), each once.

    Raises UserError, naming the line, for an entry that has too few parts, leads out of the folder, or shares its
    feature file with another one.
    """
    lines = read_text(path).splitlines()
    depth, entries = DEPTHS[kind], {}
    for number, line in enumerate(lines, 1):
        entry = PurePosixPath(line.strip())
        if not entry.parts:
            continue
        if entry.is_absolute() or ".." in entry.parts or len(entry.parts) < depth:
            raise UserError(f"{path} line {number}: {str(entry)!r}: expected {'folder/' * (depth - 1)}image below the "
                            "root, without '..'")
        if entries.setdefault(entry.parts[-depth:], entry) != entry:
            raise UserError(f"{path} line {number}: {str(entry)!r} has the feature file of another entry, "
                            f"{str(entries[entry.parts[-depth:]])!r}")
    if not entries:
        raise UserError(f"{path}: holds no entry; expected one image a line")
    return [str(entry) for entry in entries.values()]


def feature_path(output, kind, entry, algo):
    """Where the feature of an entry lies: `<output>/<kind>/<its last two or three parts>_<algo>.bin`."""
    parts = PurePosixPath(entry).parts[-DEPTHS[kind]:]
    return Path(output, kind, *parts[:-1], f"{parts[-1]}_{algo}.bin")


def unreadable_path(output, kind, algo):
    """The list of entries of a set whose image could not be read; their feature files are placeholders."""
    return Path(output, f"{kind}_{algo}_unreadable.txt")


def read_unreadable(output, kind, algo):
    """The entries (set of str) in that list; empty where there is none."""
    path = unreadable_path(output, kind, algo)
    return set(read_text(path).splitlines()) if path.exists() else set()


def claim(output, algo, models):
    """Write down which models make the features named `algo` in a folder, so that no others are mixed in later.

    models: dict of a model's name to its parameter file. Raises UserError where other parameters made what is there.
    """
    digests = {name: hash_file(path) for name, path in models.items()}
    text = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    path = Path(output, f"{algo}_models.txt")
    if not path.exists():
        return write_text(path, text)
    found = read_text(path)
    if [line.split()[:1] for line in found.splitlines()] != [[digest] for digest in digests.values()]:
        raise UserError(f"{output}: its features named {algo!r} were made by another model (see {path}); choose "
                        "another --output or --algo, or delete them")


def placeholder(kind, entry, dimensions):
    """The feature (D,) written for an image that cannot be read.

    The MegaFace development kit and the original's noise removal stop at a missing file, so one has to be there, and
    it must match nothing. Zeros would not do: they lie nearer to every unit vector (squared distance 1) than a
    stranger does (about 2). So it is a direction drawn from the entry's name, no two alike: of length 1 for FaceScrub,
    where it hardly moves the person's mean that noise removal takes; of length 100 for a distractor, which puts it
    out of reach, as noise removal does with its own.
    """
    vector = np.random.RandomState(zlib.crc32(entry.encode())).standard_normal(dimensions)
    return vector / np.linalg.norm(vector) * (100 if kind == "megaface" else 1)


def compute_features(embeds, images, where):
    """Features (N, D) of images (N, 3, H, W) uint8 RGB: of each network normalise(f(x) + f(mirrored x)).

    embeds: list of embedders. With several (an ensemble) their features are joined and normalised again: D is the sum
    of their dimensions.
    """
    parts = [normalise(np.add(*embed_flipped(embed, images)), where) for embed in embeds]
    return parts[0] if len(parts) == 1 else normalise(np.concatenate(parts, axis=1), where)


def dump_features(kind, list_path, root, output, embeds, algo="insightface", batch_size=8, progress=True):
    """Write the feature file of every image in a list; complete ones that are there already are kept.

    kind: 'facescrub' or 'megaface'. root: folder of the images. output: folder above `kind`. embeds: list of
    embedders (with emb_size and image_shape, see `common.embedder`). batch_size: images in one call of an embedder.
    An image that cannot be read gets a `placeholder`, is listed in `unreadable_path`, and is tried again next time.
    Returns a Dump. Raises UserError for a bad list, a root without the images, and an image of another size.
    """
    entries = read_list(list_path, kind)
    if not any(os.path.isfile(Path(root, entry)) for entry in entries[:100]):
        raise UserError(f"{root}: holds none of the first images of {list_path}, such as {entries[0]}; is it the root?")
    writer = _Writer(kind, output, algo, sum(embed.emb_size for embed in embeds))
    bar = tqdm(total=len(entries), unit="img", desc=kind, disable=not progress)
    with bar, ThreadPoolExecutor(min(8, cpu_count())) as readers, ThreadPoolExecutor(1) as background:
        def load(batch):
            return batch, list(readers.map(lambda entry: _read_image(Path(root, entry), embeds[0].image_shape), batch))

        todo = _not_complete(entries, writer, bar)
        written = background.submit(int)
        for batch, images in ahead(load, [todo[i:i + batch_size] for i in range(0, len(todo), batch_size)]):
            readable = {entry: image for entry, image in zip(batch, images) if image is not None}
            where = f"{kind}, {len(batch)} images from {batch[0]} on"
            features = compute_features(embeds, np.array(list(readable.values())), where) if readable else []
            written.result()
            written = background.submit(writer.write, batch, dict(zip(readable, features)))
            bar.update(len(batch))
        written.result()
    writer.finish()
    unreadable = [entry for entry in entries if entry in writer.unreadable]
    return Dump(len(todo) - len(unreadable), len(entries) - len(todo), unreadable)


def _not_complete(entries, writer, bar):
    todo = []
    for entry in entries:
        if writer.has(entry):
            bar.update()
        else:
            todo.append(entry)
    return todo


class _Writer:
    """Writes the features of a set and keeps the list of what could not be read."""

    def __init__(self, kind, output, algo, dimensions):
        self.kind, self.output, self.algo, self.dimensions = kind, output, algo, dimensions
        self.list = unreadable_path(output, kind, algo)
        self.unreadable = read_unreadable(output, kind, algo)

    def has(self, entry):
        return entry not in self.unreadable and is_complete(self._path(entry), self.dimensions)

    def _path(self, entry):
        return feature_path(self.output, self.kind, entry, self.algo)

    def write(self, batch, features):
        bad = [entry for entry in batch if entry not in features]
        self._note(bad)  # before the placeholders, so that none can pass for a feature if the run is stopped here
        for entry in bad:
            write_feature(self._path(entry), placeholder(self.kind, entry, self.dimensions))
        for entry, feature in features.items():
            write_feature(self._path(entry), feature)
        self.unreadable = (self.unreadable | set(bad)) - set(features)

    def _note(self, entries):
        try:
            if entries:
                self.list.parent.mkdir(parents=True, exist_ok=True)
                with open(self.list, "a", encoding="utf-8") as file:
                    file.writelines(f"{entry}\n" for entry in entries)
        except OSError as error:
            raise UserError(f"{self.list}: cannot be written: {error.strerror}") from error

    def finish(self):
        """Leave the list with what is unreadable now, each entry once."""
        if self.unreadable:
            write_text(self.list, "".join(f"{entry}\n" for entry in sorted(self.unreadable)))
        elif self.list.exists():
            self.list.unlink()


def _read_image(path, shape):
    """An image (3, H, W) uint8 RGB, or None where it cannot be read. Raises DataError for another size."""
    image = np.empty((3, *shape), np.uint8)
    try:
        decode_into(image, read_image(path), path)
    except UnreadableImage:
        return None
    return image
