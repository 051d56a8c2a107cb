"""The embeddings of a whole training set in a folder, of which only the parts that are looked at are in memory.

embeddings.npy (N, D), L2-normalised, float16 or float32; labels.npy (N,) int32, the classes; digests.npy (N,) uint64, a
hash of each image's pixels; embedded.json: which model and set they are of, and how many images are done.
"""
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, NamedTuple, Tuple

import numpy as np
from tqdm import tqdm

from common.arrays import open_array, open_rows
from common.checkpoint import is_onnx, parse_model, weights_path
from common.cores import cpu_count
from common.devices import get_devices
from common.embedder import Embedder
from common.embeddings import ahead, normalise
from common.errors import DataError, UserError
from common.files import open_plain, read_bytes, read_json, write_text
from datasets.images import decode_into

_COLUMNS = ("embeddings", "labels", "digests")
_SAVE_SECONDS = 60  # what an interrupted run loses at most, in time
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16  # places of train.rec that the set's hash looks at


class ImageSource(NamedTuple):
    """Encoded images, from wherever: read(i) gives (bytes, label), name(i) what a message calls image i < count."""

    count: int
    image_shape: Tuple[int, int]
    read: Callable
    name: Callable


class EmbeddedSet(NamedTuple):
    """Embeddings on disk: embeddings (N, D) memmap, L2-normalised; labels (N,), digests (N,); model: its hash."""

    folder: Path
    embeddings: np.ndarray
    labels: np.ndarray
    digests: np.ndarray
    model: str


def source_of(training_set):
    """A TrainingSet as an ImageSource."""
    return ImageSource(len(training_set), training_set.image_shape, training_set.read,
                       training_set.where)


def embed_images(embed, source, batch_size=64, first=0, progress=True, digests=False):
    """Embed images from number `first` on; the next are read and decoded by threads meanwhile.

    embed: see `common.embedder`; source: an ImageSource; batch_size: images in a call of embed.
    Yields (rows, labels, embeddings, digests): the images' numbers (n,), int64 labels (n,), L2-normalised embeddings
    (n, D) and hashes of the pixels (n,) uint64, zeros without `digests`.
    Raises DataError for an image that cannot be used, UserError for an embedding without a direction.
    """
    with ThreadPoolExecutor(cpu_count()) as pool, tqdm(total=source.count, initial=first, unit="image",
                                                       desc="embedding", disable=not progress) as bar:
        def load(rows):
            images = np.empty((len(rows), 3, *source.image_shape), np.uint8)
            read = list(pool.map(lambda row, planes: _read(source, row, planes, digests), rows, images))
            return (rows, images, *np.array(read, np.uint64).reshape(-1, 2).T)

        jobs = (np.arange(start, min(start + batch_size, source.count))
                for start in range(first, source.count, batch_size))
        for rows, images, labels, hashes in ahead(load, jobs):
            unit = normalise(embed(images), f"{source.name(rows[0])} to {source.name(rows[-1])}")
            yield rows, labels.astype(np.int64), unit, hashes
            bar.update(len(rows))


def _read(source, row, planes, digest):
    """Decode an image into planes, (3, H, W); returns its label, and a hash of its pixels."""
    encoded, label = source.read(row)
    decode_into(planes, encoded, source.name(row))
    return label, int.from_bytes(hashlib.blake2b(planes, digest_size=8).digest(), "little") if digest else 0


def embed_set(model, training_set, output, devices=None, batch_size=64, dtype="float16", progress=True):
    """Embed every image of a training set into a folder; goes on where an earlier run was stopped.

    model: 'prefix,epoch'; training_set: a TrainingSet; output: the folder; devices: list of mx.Context, None for all
    GPUs, else the CPU; batch_size: images that a device embeds at once; dtype: on disk, float16 or float32.
    Returns an EmbeddedSet. Raises UserError where the folder holds the embeddings of another model, set or type.
    """
    devices = devices or get_devices()
    embed = Embedder(model, devices, batch_size, training_set.image_shape)
    state = dict(model=hash_model(model), set=hash_set(training_set), images=len(training_set),
                 dimensions=embed.emb_size, dtype=dtype)
    done = _find_done(Path(output), state)
    if done < len(training_set):
        _fill(Path(output), state, done, embed, training_set, batch_size * len(devices), progress)
    return load_embeddings(output, training_set)


def _find_done(folder, state):
    """How many images an earlier run has embedded."""
    if not (folder / "embedded.json").is_file():
        return 0
    found = _read_state(folder)
    wrong = [name for name in state if found[name] != state[name]]
    if wrong:
        raise UserError(f"{folder}: holds embeddings of another {' and '.join(wrong)}; name another folder, or delete "
                        "this one")
    return found["done"]


def _read_state(folder):
    path = Path(folder, "embedded.json")
    try:
        state = read_json(path, dict)
    except DataError as error:
        raise DataError(f"{error}; delete the folder and embed anew") from error
    numbers = [state.get(name) for name in ("done", "images", "dimensions")]
    if not all(type(number) is int for number in numbers) or not 0 <= numbers[0] <= numbers[1] or not all(
            isinstance(state.get(name), str) for name in ("model", "set", "dtype")):
        raise DataError(f"{path}: not what 'clean.py embed' writes; delete the folder and embed anew")
    return state


def _fill(folder, state, done, embed, training_set, batch_size, progress):
    """Append the embeddings of images `done`, done + 1, ... and note now and then how far they are on disk."""
    count, dtypes = len(training_set), (state["dtype"], "int32", "uint64")
    shapes = (count, state["dimensions"]), (count,), (count,)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            files = [stack.enter_context(open_rows(folder / f"{name}.npy", *column, done))
                     for name, *column in zip(_COLUMNS, dtypes, shapes)]
            stack.callback(lambda: _save(folder, state, files, done))
            due = time.monotonic() + _SAVE_SECONDS
            for rows, labels, unit, digests in embed_images(embed, source_of(training_set), batch_size, done, progress,
                                                            digests=True):
                for file, dtype, values in zip(files, dtypes, (unit, labels, digests)):
                    file.write(values.astype(dtype).tobytes())
                done = int(rows[-1]) + 1
                if time.monotonic() > due:
                    _save(folder, state, files, done)
                    due = time.monotonic() + _SAVE_SECONDS
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _save(folder, state, files, done):
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    write_text(folder / "embedded.json", json.dumps(dict(state, done=done), indent=1))


def load_embeddings(folder, training_set):
    """The embeddings that `embed_set` made of a TrainingSet, as an EmbeddedSet.

    Raises UserError where they are not all there or of another set.
    """
    state = _read_state(folder)
    if state["set"] != hash_set(training_set):
        raise UserError(f"{folder}: embeddings of another set than {training_set.folder}; embed that one")
    if state["done"] != len(training_set):
        raise UserError(f"{folder}: {state['done']} of {state['images']} images are embedded; run 'clean.py embed' "
                        "again, which goes on from there")
    count = len(training_set)
    columns = ((count, state["dimensions"]), "f"), ((count,), "i"), ((count,), "u")
    try:
        embeddings, labels, digests = (open_array(Path(folder, f"{name}.npy"), *column)
                                       for name, column in zip(_COLUMNS, columns))
    except DataError as error:
        raise DataError(f"{error}; delete the folder and embed anew") from error
    if embeddings.dtype != state["dtype"]:
        raise DataError(f"{folder}/embeddings.npy: {embeddings.dtype}; embedded.json says {state['dtype']}; delete the "
                        "folder and embed anew")
    if labels.min() < 0 or labels.max() >= training_set.num_classes:
        raise DataError(f"{folder}/labels.npy: classes {labels.min()} to {labels.max()}; the set has "
                        f"{training_set.num_classes}; delete the folder and embed anew")
    return EmbeddedSet(Path(folder), embeddings, labels, digests, state["model"])


def hash_model(model):
    """A hash of a model's files. model: 'prefix,epoch', or the path of an ONNX file."""
    symbol = [] if is_onnx(model) else [read_bytes(f"{parse_model(model)[0]}-symbol.json")]
    return _hash(*symbol, read_bytes(weights_path(model)))


def hash_set(training_set):
    """A hash of a set's index, property and size, and of 64 places of its train.rec, which may be too large to read."""
    folder, size = training_set.folder, training_set.path.stat().st_size
    with open_plain(training_set.path) as file:
        samples = []
        for place in range(_SAMPLES):
            file.seek(place * size // _SAMPLES)
            samples.append(file.read(_SAMPLE_BYTES))
    return _hash(read_bytes(folder / "property"), read_bytes(folder / "train.idx"), str(size).encode(), *samples)


def _hash(*parts):
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
