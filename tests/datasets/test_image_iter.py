"""Batches: every image once, on the seed alone, right pixels, errors that arrive, threads that end."""
import json
import threading

import numpy as np
import pytest
from pictures import encode, picture

from common.errors import DataError, UserError
from common.mxnet_setup import mx
from datasets.image_iter import ImageIter, SyntheticIter
from datasets.training_set import TrainingSet, write_training_set


@pytest.fixture
def make(training_folder):
    """Make iterators that are closed after the test."""
    made = []

    def make_iter(batch_size=4, folder=training_folder, **settings):
        made.append(ImageIter(TrainingSet(folder), batch_size, **settings))
        return made[-1]

    yield make_iter
    for iterator in made:
        iterator.close()


def epoch(iterator):
    """(record numbers, labels, pixels) of the batches that are left of this epoch."""
    return [(batch.index.tolist(), batch.label[0].asnumpy(), batch.data[0].asnumpy()) for batch in iterator]


def numbers(batches):
    return [number for index, _, _ in batches for number in index]


def assert_same(batches, others):
    assert numbers(batches) == numbers(others)
    for (_, label, data), (_, other_label, other_data) in zip(batches, others):
        np.testing.assert_array_equal(label, other_label)
        np.testing.assert_array_equal(data, other_data)


def test_what_a_module_needs(make):
    iterator = make()
    data, label = iterator.provide_data[0], iterator.provide_label[0]
    assert (data.name, data.shape, data.dtype, data.layout) == ("data", (4, 3, 112, 112), np.uint8, "NCHW")
    assert (label.name, label.shape, label.dtype, iterator.batch_size) == ("softmax_label", (4,), np.float32, 4)
    batch = iterator.next()
    assert (batch.data[0].shape, batch.data[0].dtype) == (data.shape, np.uint8)
    assert (batch.label[0].shape, batch.label[0].dtype, batch.pad) == (label.shape, np.float32, 0)


def test_every_image_once_and_the_tail_left_out(make):
    iterator = make(batch_size=4)
    for _ in range(3):
        batches = epoch(iterator)
        assert len(batches) == iterator.num_batches == 3
        assert len(set(numbers(batches))) == 12 and set(numbers(batches)) <= set(range(1, 15))
        iterator.reset()
    whole = make(batch_size=14, shuffle=False, rand_mirror=False)
    assert numbers(epoch(whole)) == list(range(1, 15))


def test_pixels_and_labels_are_those_of_the_record(make, jpegs):
    """Against MXNet's own decoder, which gives RGB."""
    for index, label, data in epoch(make(rand_mirror=False)):
        for number, found, pixels in zip(index, label, data):
            expected = mx.image.imdecode(jpegs[number - 1]).asnumpy().transpose(2, 0, 1)
            np.testing.assert_allclose(pixels.astype(int), expected, atol=2)  # another JPEG library
            assert found == (number > 3) + int(number > 7)


def test_mirror(make):
    iterator, plain = make(batch_size=14), make(batch_size=14, rand_mirror=False)
    mirrored = []
    for _ in range(10):
        (index, _, data), (plain_index, _, plain_data) = epoch(iterator)[0], epoch(plain)[0]
        assert index == plain_index
        for image, original in zip(data, plain_data):
            mirrored.append(np.array_equal(image, original[:, :, ::-1]))
            assert mirrored[-1] or np.array_equal(image, original)
        iterator.reset()
        plain.reset()
    assert 50 < sum(mirrored) < 90  # of 140 with probability 0.5


def test_red_is_the_first_plane(tmp_path, make):
    write_training_set(tmp_path, [[encode(np.full((112, 112, 3), (250, 100, 5), np.uint8))]])
    (_, _, data), = epoch(make(batch_size=1, folder=tmp_path))
    assert np.abs(data[0].mean(axis=(1, 2)) - (250, 100, 5)).max() < 2


def test_order_and_mirroring_hang_on_seed_and_epoch_alone(make):
    one, three, other = make(seed=3, workers=1), make(seed=3, workers=3, prefetch=1), make(seed=4)
    epochs = []
    for _ in range(2):
        epochs.append(epoch(one))
        assert_same(epochs[-1], epoch(three))
        assert numbers(epochs[-1]) != numbers(epoch(other))
        for iterator in (one, three, other):
            iterator.reset()
    assert numbers(epochs[0]) != numbers(epochs[1])
    three.seek(1)
    assert_same(epochs[1], epoch(three))


def test_epoch_and_position(make):
    iterator = make()
    iterator.reset()
    assert (iterator.epoch, iterator.position) == (0, 0)
    iterator.next()
    assert (iterator.epoch, iterator.position) == (0, 1)
    left = epoch(iterator)
    assert (len(left), iterator.position) == (2, 3)
    with pytest.raises(StopIteration):
        iterator.next()
    iterator.reset()
    assert (iterator.epoch, iterator.position) == (1, 0)
    iterator.seek(0, 1)
    assert_same(left, epoch(iterator))


def joined(parts):
    """The batches of several parts, those of a position as one."""
    return [(sum((list(index) for index, _, _ in batches), []), np.concatenate([label for _, label, _ in batches]),
             np.concatenate([data for _, _, data in batches])) for batches in zip(*map(epoch, parts))]


def test_parts_together_read_the_batches_of_one(make):
    """Images, their order and all changes, so that two workers compute what one with twice the batch computes."""
    settings = dict(seed=2, color=2, cutoff=30)
    whole = make(batch_size=6, **settings)
    parts = [make(batch_size=2, part_index=i, num_parts=3, **settings) for i in range(3)]
    for _ in range(2):
        assert_same(epoch(whole), joined(parts))
        assert [part.num_batches for part in parts] == [whole.num_batches] * 3 == [2] * 3
        for iterator in [whole, *parts]:
            iterator.reset()


@pytest.mark.parametrize("bad, message", [
    (b"\xff\xd8\xff no image", r"the image \(12 bytes\) cannot be decoded"),
    (encode(picture(0))[:-40], ".*cannot be decoded"),
    (encode(picture(0, (112, 96))), r"the image is 112x96; expected 112x112"),
], ids=["no image", "cut short", "other size"])
def test_errors_reach_the_caller(tmp_path, jpegs, make, bad, message):
    write_training_set(tmp_path, [jpegs[:3] + [bad] + jpegs[4:8]])
    iterator = make(batch_size=2, folder=tmp_path, shuffle=False)
    iterator.next()
    for _ in range(2):  # asked again, it does not go on as if nothing had been
        with pytest.raises(DataError, match=f"train.rec record 4: {message}"):
            iterator.next()
    assert iterator.position == 1


def test_label_that_is_no_class_reaches_the_caller(tmp_path, jpegs, make):
    write_training_set(tmp_path, [[image] for image in jpegs[:4]])
    (tmp_path / "property").write_text("2,112,112")
    with pytest.raises(DataError, match="label 2; expected a whole number in"):
        epoch(make(folder=tmp_path, shuffle=False))


def test_fewer_images_than_a_batch(make):
    with pytest.raises(UserError, match="14 images are fewer than one batch of 15; the largest .* is 14"):
        make(batch_size=15)
    with pytest.raises(UserError, match="14 images .* one batch of 8 for each of 2 processes; the largest .* is 7"):
        make(batch_size=8, num_parts=2)


def test_no_thread_is_left(training_folder):
    before = set(threading.enumerate())  # of which some of earlier tests may be ending
    iterator = ImageIter(TrainingSet(training_folder), 2, workers=3)
    iterator.next()
    assert set(threading.enumerate()) - before
    iterator.close()
    assert set(threading.enumerate()) <= before


def test_trains_a_module(make):
    data = mx.sym.Flatten(mx.sym.cast(mx.sym.Variable("data"), "float32") / 255)
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(data, num_hidden=3), name="softmax")
    iterator = make()
    module = mx.mod.Module(net)
    module.fit(iterator, num_epoch=2, optimizer_params={"learning_rate": 1e-3})
    assert iterator.epoch == 2 and iterator.position == 0


def test_synthetic():
    iterator = SyntheticIter(4, (112, 96), 10, seed=1, length=2)
    first, second = list(iterator)
    assert first.data[0].shape == (4, 3, 112, 96) == iterator.provide_data[0].shape
    assert first.data[0].dtype == np.uint8 and first.data[0].asnumpy().std() > 50
    np.testing.assert_array_equal(first.data[0].asnumpy(), second.data[0].asnumpy())
    labels = first.label[0].asnumpy()
    assert ((0 <= labels) & (labels < 10) & (labels == labels.astype(int))).all()
    iterator.reset()
    assert (iterator.epoch, iterator.position, len(list(iterator))) == (1, 0, 2)
    same, other = SyntheticIter(4, (112, 96), 10, seed=1).next(), SyntheticIter(4, (112, 96), 10, seed=2).next()
    np.testing.assert_array_equal(same.data[0].asnumpy(), first.data[0].asnumpy())
    assert not np.array_equal(other.data[0].asnumpy(), first.data[0].asnumpy())


def test_synthetic_has_no_end_unless_asked():
    iterator = SyntheticIter(1, (8, 8), 2)
    assert len([iterator.next() for _ in range(50)]) == 50


def test_state_goes_on_with_the_very_next_image(make):
    one = make(seed=5, color=1, cutoff=30)
    one.seek(2, 1)
    one.next()
    state = json.loads(json.dumps(one.state()))
    rest, other = epoch(one), make(seed=5, color=1, cutoff=30)
    other.restore(state)
    assert_same(rest, epoch(other))
    assert len(rest) == 1 and (other.epoch, other.position) == (2, 3)
    with pytest.raises(UserError, match="seed was 5 and is 6"):
        make(seed=6).restore(state)


def test_state_of_a_part_is_that_of_the_whole(make):
    """A training goes on with another number of workers that share the same batch."""
    one = make(batch_size=6, seed=5)
    one.next()
    parts = [make(batch_size=3, seed=5, part_index=i, num_parts=2) for i in range(2)]
    for part in parts:
        part.restore(one.state())
    assert parts[1].state() == one.state()
    assert_same(epoch(one), joined(parts))
    with pytest.raises(UserError, match="batch_size was 6 and is 9"):
        make(batch_size=3, seed=5, num_parts=3).restore(one.state())
