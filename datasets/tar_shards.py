"""Training sets as WebDataset shards: tar files in which <key>.jpg and <key>.cls (the class, in digits) are a sample.

The members of a sample stand one behind the other and share the part of the name before the first dot, as the
`webdataset` package has it. Tar files of others are read, not unpacked: names lead nowhere, and a member that is no
plain file of a plausible size is refused.
"""
import io
import os
import re
import tarfile
from array import array
from contextlib import closing
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from common.errors import DataError, UserError
from common.files import new_folder, open_plain
from datasets.images import SUFFIXES, check_shape, decode_bgr, suffix_of
from datasets.recordio import EXACT
from datasets.set_tools import Made, number_classes
from datasets.shards import open_images
from datasets.tables import write_table
from datasets.threads import in_order
from datasets.training_set import write_training_set

_MOST = 1 << 26  # bytes of a member, and of a header: far more than an image has


class Member(NamedTuple):
    """A file in a shard: its sample, what it holds of it, and where that is, in bytes."""

    key: str
    extension: str
    offset: int
    size: int


def write_shards(source, output, name="train", images_per_shard=10000, shuffle=False, seed=0, progress=True):
    """Write a training set as shards <output>/<name>-000000.tar, ...; images byte by byte.

    source: its folder; output: a new folder; images_per_shard: in all shards but the last. shuffle: in a random order,
    which depends on seed (0 to 2**32 - 1) alone; else in the set's order. Keys are record numbers. progress: show bars.
    Returns the number of shards. Raises UserError for settings that cannot be met, DataError for a damaged record.
    """
    if images_per_shard < 1 or not 0 <= seed < 2 ** 32 or Path(name).name != name:
        raise UserError(f"{images_per_shard} images per shard, seed {seed}, name {name!r}; expected at least 1, 0 to "
                        f"{2 ** 32 - 1}, and a name without folders")
    with closing(open_images(source)) as training_set, new_folder(output) as folder:
        rows = np.arange(len(training_set))
        if shuffle:
            np.random.RandomState(seed).shuffle(rows)
        starts = range(0, len(rows), images_per_shard)
        with tqdm(total=len(rows), unit="image", disable=not progress) as bar:
            for shard, start in enumerate(starts):
                with tarfile.open(folder / f"{name}-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
                    for row in rows[start:start + images_per_shard]:
                        _write_sample(tar, training_set, row)
                        bar.update()
    return len(starts)


def _write_sample(tar, training_set, row):
    image, label = training_set.read(row)
    number = training_set.numbers[row]
    suffix = suffix_of(image, training_set.where(row))
    for name, data in ((f"{number:09d}{suffix}", image), (f"{number:09d}.cls", b"%d" % label)):
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def read_shards(source, output, image_shape=(112, 112), progress=True):
    """Write a training set of the shards of a folder; images byte by byte.

    source: folder with *.tar, read in the order of their names; output: a new folder; image_shape: (height, width) that
    every image must have. Other members of a sample than an image and .cls are left alone. Of each image its place and
    class are kept, for identities must be written one after the other. progress: show bars.
    Classes are numbered anew where some have no image; identities.csv tells how: original, images, identity.
    Returns Made. Raises DataError, naming shard and member, for a damaged or hostile tar file, a sample without an
    image or class, and an image that cannot be used; nothing is written then.
    """
    paths = sorted(Path(source).glob("*.tar"))
    if not paths:
        raise DataError(f"{source}: no shards; expected *.tar, not compressed")
    with new_folder(output) as folder:
        places, labels = _list_images(paths, progress)
        if not len(labels):
            raise DataError(f"{source}: no samples in {len(paths)} shards")
        images = np.bincount(labels)
        _write(folder, paths, places[np.argsort(labels, kind="stable")], images[images > 0], image_shape, progress)
        write_table(folder / "identities.csv", original=np.arange(len(images)), images=images,
                    identity=number_classes(np.arange(len(images)), labels))
    return Made(int(np.count_nonzero(images)), len(labels))


def _write(folder, paths, places, counts, image_shape, progress):
    """Write the images at `places`, class after class; counts: how many of each class."""
    def read(place):
        shard, offset, size = place
        data, where = _read(paths[shard], offset, size), f"{paths[shard]} image at byte {offset}"
        check_shape(decode_bgr(data, where), image_shape, where)
        return data

    with closing(in_order(read, places)) as images:
        shown = iter(tqdm(images, total=len(places), unit="image", desc="writing", disable=not progress))
        write_training_set(folder, (islice(shown, count) for count in counts), image_shape)


def _list_images(paths, progress):
    """Where all images are: (N, 3) int64 of shard, byte and size; and their classes, (N,) int64."""
    places, labels = array("q"), array("q")
    with tqdm(unit="image", desc="listing", disable=not progress) as bar:
        for shard, path in enumerate(paths):
            for key, members in groupby(_list_members(path), key=lambda member: member.key):
                image, label = _read_sample(path, key, list(members))
                places.extend((shard, image.offset, image.size))
                labels.append(label)
                bar.update()
    return np.frombuffer(places, np.int64).reshape(-1, 3), np.frombuffer(labels, np.int64)


def _read_sample(path, key, members):
    """The image of a sample, and its class."""
    images = [member for member in members if f".{member.extension}" in SUFFIXES]
    labels = [member for member in members if member.extension == "cls"]
    if len(images) != 1 or len(labels) != 1:
        raise DataError(f"{path} sample {key!r}: {len(images)} images and {len(labels)} classes (.cls) side by side; "
                        "expected one of each")
    text = _read(path, labels[0].offset, min(labels[0].size, 100)).strip()
    if not re.fullmatch(b"[0-9]{1,8}", text) or int(text) >= EXACT:
        raise DataError(f"{path} sample {key!r}: class {text[:20]!r}; expected digits, a number below {EXACT}")
    return images[0], int(text)


def _read(path, offset, size):
    try:
        with open_plain(path, buffering=0) as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) < size:
        raise DataError(f"{path}: {size} bytes expected at byte {offset}; is the file cut short?")
    return data


def _list_members(path):
    """The Members of a shard that belong to a sample, in order. Raises DataError for what is no honest tar file."""
    _read(path, 0, 0)  # says so where it cannot be read
    with _Shard(path) as file:
        tar = None
        while True:
            try:
                tar = tar or tarfile.open(fileobj=file, mode="r:")
                found = tar.next()
            except Exception as error:  # headers that are damaged raise nearly everything that Python has
                raise DataError(f"{path}: not a tar file, or damaged: {type(error).__name__}: {error}"[:300]) from error
            if found is None:
                break
            tar.members.clear()  # tarfile would keep them all
            member = _check_member(path, found)
            if member is not None:
                yield member
        if _read(path, tar.offset, tarfile.BLOCKSIZE).strip(b"\0"):
            raise DataError(f"{path}: damaged at byte {tar.offset}: neither a member nor the archive's end")


class _Shard(io.FileIO):
    """A shard that tarfile reads headers of: how long these are it takes from the file, which may say anything."""

    def read(self, size=-1):
        """Read `size` bytes, if that is plausible."""
        if not 0 <= size <= _MOST:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _check_member(path, found):
    """A TarInfo as Member; None for a folder and for a name without a suffix."""
    where = f"{path} member {found.name[:100]!r}"
    if found.isdir():
        return None
    if not found.isreg() or found.issparse():
        raise DataError(f"{where}: a link, a device or a sparse file; expected plain files")
    if found.name.startswith("/") or ".." in found.name.split("/"):
        raise DataError(f"{where}: a name that leads out of its folder")
    if not 0 <= found.size <= _MOST:
        raise DataError(f"{where}: {found.size} bytes; expected at most {_MOST}")
    named = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", found.name, re.DOTALL)
    return named and Member(named[1], named[2].lower(), found.offset_data, found.size)
