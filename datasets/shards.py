"""Training sets in shards: shuffled once when they are written, then read in long runs, for data beyond memory.

Random access to single images is slow where files are larger than memory and lie on spinning disks or a network. A
shard set is read in chunks of consecutive records instead. In every epoch the chunks come in a new order, and the
images of WINDOW chunks at a time are shuffled among each other; the writer has shuffled all images of the set before.
"""
import re
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from tqdm import tqdm, trange

from common.errors import DataError, UserError
from common.files import new_folder, write_text
from datasets.image_set import ImageSet
from datasets.recordio import RecordReader, RecordWriter, read_index
from datasets.training_set import TrainingSet, read_property

CHUNK = 256  # images that are read in one run
WINDOW = 32  # chunks whose images are shuffled among each other
_SHARD = re.compile(r"train-(\d{5})-of-(\d{5})\.rec")


def open_images(folder, min_images=0):
    """The TrainingSet of a folder, or its ShardSet where it holds shards in place of train.rec; see there."""
    return (ShardSet if is_sharded(folder) else TrainingSet)(folder, min_images)


def is_sharded(folder):
    """Whether a folder holds shards and no train.rec."""
    folder = Path(folder)
    return not (folder / "train.rec").exists() and any(_SHARD.fullmatch(path.name) for path in folder.glob("train-*"))


class ShardSet(ImageSet):
    """The images of a shard set, by position in the order of the files; any number of threads may read. See ImageSet.

    folder: holds train-00000-of-0000N.rec and .idx, ..., and `property`; numbers go on from shard to shard.
    min_images: as of a TrainingSet. Raises DataError for a shard that is missing or damaged.
    """

    def __init__(self, folder, min_images=0):
        self.folder = self.path = Path(folder)
        self.num_classes, self.image_shape = read_property(folder)
        self._readers = [RecordReader(path) for path in _shard_paths(self.folder)]
        parts = [_read_whole_index(reader) for reader in self._readers]
        self.numbers, self._offsets, self._sizes = (np.concatenate(columns) for columns in zip(*parts))
        self._files = np.repeat(np.arange(len(parts), dtype=np.int32), [len(numbers) for numbers, *_ in parts])
        self._keep_identities(min_images)

    def shuffled(self, random):
        """The images' positions, chunk by chunk in random order, shuffled within each window of chunks."""
        chunks = np.array_split(np.arange(len(self)), -(-len(self) // CHUNK))
        order = np.concatenate([chunks[i] for i in random.permutation(len(chunks))])
        for start in range(0, len(order), CHUNK * WINDOW):
            random.shuffle(order[start:start + CHUNK * WINDOW])
        return order


def _read_whole_index(reader):
    """A shard's index, see `read_index`. Raises DataError where it does not reach the end of the shard."""
    path = reader.path.with_suffix(".idx")
    numbers, offsets, sizes = read_index(path, reader.size)
    last = np.argmax(offsets)
    end = reader.end(offsets[last], numbers[last])
    if end != reader.size:
        raise DataError(f"{path}: its last record ends at byte {end} of {reader.size}; is the index cut short?")
    return numbers, offsets, sizes


def _shard_paths(folder):
    """The shards in order. Raises DataError unless all are there."""
    found = {path.name for path in folder.iterdir() if _SHARD.fullmatch(path.name)}
    counts = {_SHARD.fullmatch(name)[2] for name in found}
    if len(counts) != 1:
        raise DataError(f"{folder}: shards of several sets ({', '.join(sorted(counts))}); expected one, "
                        "train-00000-of-0000N.rec and so on")
    expected = shard_names(int(counts.pop()))
    missing = [name for name in expected if name not in found]
    if missing or len(found) > len(expected):
        raise DataError(f"{folder}: {len(found)} shards; expected {len(expected)}: {', '.join(missing[:5])} missing")
    return [folder / name for name in expected]


def shard_names(count):
    """The file names of so many shards."""
    return [f"train-{i:05d}-of-{count:05d}.rec" for i in range(count)]


def write_shards(source, folder, num_shards, seed=0, progress=True):
    """Shuffle a training set into shards; memory holds one shard at a time, and files are read and written in runs.

    source: an ImageSet; folder: must be new; num_shards: of equal size, but for one image; seed: of the order, which is
    a uniform one of all images. progress: show bars.
    Images are first dealt out to a file for each shard, in the order in which they lie, then each file is shuffled.
    Every shard is a RecordIO file without identity records, which the original and `mx.io.ImageRecordIter` read too.
    Raises UserError for more shards than images and where the system refuses to write.
    """
    if not 1 <= num_shards <= len(source):
        raise UserError(f"{num_shards} shards of {len(source)} images; expected one to as many as there are images")
    place = np.random.RandomState(seed).permutation(len(source))  # of every image in the new set
    bounds = len(source) * np.arange(num_shards + 1) // num_shards
    height, width = source.image_shape
    with new_folder(folder) as temporary:
        _deal(source, temporary, place, bounds, progress)
        for shard, name in enumerate(tqdm(shard_names(num_shards), "shuffling", unit="shard", disable=not progress)):
            _shuffle(temporary / f"{shard}.rec", temporary / name)
        write_text(temporary / "property", f"{source.num_classes},{height},{width}\n")


def _deal(source, folder, place, bounds, progress):
    """Write each image to the file of its shard, under its place as number."""
    shard_of = np.searchsorted(bounds, place, side="right") - 1
    with ExitStack() as stack:
        writers = [stack.enter_context(RecordWriter(folder / f"{shard}.rec", folder / f"{shard}.idx"))
                   for shard in range(len(bounds) - 1)]
        for i in trange(len(source), desc="dealing out", unit="image", disable=not progress):
            image, label = source.read(i)
            writers[shard_of[i]].write(place[i], label, image)


def _shuffle(dealt, target):
    """Write the images of `dealt` (a .rec path) to `target` in the order of their numbers, and remove it."""
    with closing(RecordReader(dealt)) as reader, RecordWriter(target, target.with_suffix(".idx")) as writer:
        numbers, offsets, _ = read_index(dealt.with_suffix(".idx"), reader.size)
        for i in np.argsort(numbers):
            labels, image = reader.read(offsets[i], numbers[i])
            writer.write(numbers[i], labels[0], image)
    for path in (dealt, dealt.with_suffix(".idx")):
        path.unlink()
