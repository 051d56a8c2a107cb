"""Shard sets: the same images as before, once each, in another order; chunks and windows; what is wrong is named."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import encode

from common.errors import DataError, UserError
from common.mxnet_setup import mx
from datasets import find_dataset, shards
from datasets.image_iter import ImageIter
from datasets.set_tools import relabel
from datasets.shards import ShardSet, open_images, write_shards
from datasets.training_set import TrainingSet, write_training_set

ROOT = Path(__file__).resolve().parents[2]
SIZES = (5, 20, 1, 9)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """35 images of 4 identities; an image tells its number by its grey."""
    folder, number = tmp_path_factory.mktemp("source"), iter(range(100))
    write_training_set(folder, [[encode(np.full((8, 8, 3), 5 * next(number), np.uint8), ".png") for _ in range(size)]
                                for size in SIZES], (8, 8))
    return folder


@pytest.fixture
def sharded(source, tmp_path):
    write_shards(TrainingSet(source), tmp_path / "shards", 3, progress=False)
    return tmp_path / "shards"


def content(images):
    return [images.read(i) for i in range(len(images))]


def test_the_same_images_in_another_order(source, sharded):
    images, before = open_images(sharded), content(TrainingSet(source))
    assert isinstance(images, ShardSet) and images.num_classes == 4 and images.image_shape == (8, 8)
    assert sorted(content(images)) == sorted(before) and content(images) != before
    assert images.numbers.tolist() == list(range(35))
    assert sorted(path.name for path in sharded.iterdir()) == sorted(
        ["property"] + [f"train-0000{i}-of-00003.{kind}" for i in range(3) for kind in ("rec", "idx")])
    np.testing.assert_array_equal(np.sort(images.identities()), np.repeat(range(4), SIZES))


def test_order_hangs_on_the_seed_and_is_uniform(source, tmp_path):
    """Over many seeds every image comes to every shard about equally often."""
    images, shard_of_first = TrainingSet(source), []
    for seed in range(60):
        write_shards(images, tmp_path / str(seed), 5, seed, progress=False)
        found = content(ShardSet(tmp_path / str(seed)))
        shard_of_first.append(found.index(images.read(0)) // 7)
    assert np.bincount(shard_of_first, minlength=5).min() >= 4
    write_shards(images, tmp_path / "again", 5, 59, progress=False)
    assert content(ShardSet(tmp_path / "again")) == found


def test_mxnets_own_reader_reads_a_shard(source, sharded):
    found = []
    for path in sorted(sharded.glob("*.rec")):
        reader = mx.recordio.MXRecordIO(str(path), "r")
        for record in iter(reader.read, None):
            header, image = mx.recordio.unpack(record)
            found.append((image, int(header.label)))
        reader.close()
    assert found == content(ShardSet(sharded))


def test_chunks_and_windows(source, sharded, monkeypatch):
    """Positions of an epoch: each once; a window holds whole chunks, shuffled."""
    monkeypatch.setattr(shards, "CHUNK", 4)
    monkeypatch.setattr(shards, "WINDOW", 3)
    images, orders = ShardSet(sharded), []
    for seed in range(20):
        order = images.shuffled(np.random.RandomState(seed))
        assert sorted(order) == list(range(35))
        chunks = [set(order[start:start + 12] // 4) for start in range(0, 24, 12)]
        assert all(len(window) <= 4 for window in chunks)
        orders.append(tuple(order))
    assert len(set(orders)) == 20


def test_batches(source, sharded):
    with_threads = ImageIter(open_images(sharded), 8, seed=2)
    seen = []
    for batch in with_threads:
        for number, pixels in zip(batch.index, batch.data[0].asnumpy()):
            image, _ = ShardSet(sharded).read(number)
            assert encode(pixels.transpose(1, 2, 0), ".png") == image
            seen.append(number)
    with_threads.close()
    assert len(set(seen)) == 32


def test_identities_with_few_images(sharded, source):
    for images in (ShardSet(sharded, 6), TrainingSet(source, 6)):
        assert len(images) == 29 and {images.read(i)[1] for i in range(29)} == {1, 3} and images.num_classes == 4
        assert len(images.identities()) == 29
    with pytest.raises(UserError, match="no identity has 21 images; the largest has 20"):
        TrainingSet(source, 21)


def test_a_missing_shard(sharded):
    (sharded / "train-00001-of-00003.rec").unlink()
    with pytest.raises(DataError, match="2 shards; expected 3: train-00001-of-00003.rec missing"):
        find_dataset(str(sharded)) and open_images(sharded)


def test_two_sets_in_one_folder(sharded):
    (sharded / "train-00001-of-00004.rec").write_bytes(b"x")
    with pytest.raises(DataError, match="shards of several sets"):
        open_images(sharded)


def test_damage_names_shard_and_record(sharded):
    path = sharded / "train-00001-of-00003.rec"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(DataError, match="train-00001-of-00003.rec record 22: .*cut short"):
        ShardSet(sharded)
    path.write_bytes(whole)
    index = path.with_suffix(".idx")
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(DataError, match="train-00001-of-00003.idx: its last record ends at byte .* cut short"):
        ShardSet(sharded)


@pytest.mark.parametrize("count", [0, 36])
def test_more_shards_than_images(source, tmp_path, count):
    with pytest.raises(UserError, match=f"{count} shards of 35 images"):
        write_shards(TrainingSet(source), tmp_path / "new", count, progress=False)
    assert not list(tmp_path.iterdir())


def test_command(source, tmp_path):
    command = [sys.executable, ROOT / "datasets/rec2shufrec.py", "--input", source, "--output", tmp_path / "new"]
    (source / "lfw.bin").write_bytes(b"pack")
    done = subprocess.run([*command, "--copy-vers"], capture_output=True, text=True)
    assert done.returncode == 0 and "35 images of 4 identities in 1 shards" in done.stdout, done.stderr
    assert (tmp_path / "new/lfw.bin").read_bytes() == b"pack"
    assert find_dataset(str(tmp_path / "new")).val_targets == ("lfw",)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and "exists already" in again.stderr and "Traceback" not in again.stderr


def test_tools_take_shards_too(source, sharded, tmp_path):
    relabel(sharded, tmp_path / "back", write_mapping(tmp_path))
    again = TrainingSet(tmp_path / "back")
    assert sorted(content(again)) == sorted(content(TrainingSet(source))) and again.num_identities == 4


def write_mapping(folder):
    """A mapping that leaves all four classes as they are."""
    path = folder / "mapping.csv"
    path.write_text("original,identity\n" + "".join(f"{label},{label}\n" for label in range(4)))
    return path
