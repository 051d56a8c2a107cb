"""Damaged images left out on the seed alone, counted, never too many; a reader that stalls ends, and so does all."""
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from pictures import encode, picture

from common.errors import DataError
from datasets.bad_images import BadImages
from datasets.identity_iter import IdentityIter
from datasets.image_iter import ImageIter, ReaderStalled
from datasets.image_set import LabelError
from datasets.training_set import TrainingSet, write_training_set

ROOT = Path(__file__).resolve().parents[2]
BAD = (4, 9)  # record numbers of damaged images


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, jpegs):
    """14 images of three identities; 4 is no image, 9 is of another size."""
    folder, images = tmp_path_factory.mktemp("damaged"), list(jpegs)
    images[3], images[8] = b"\xff\xd8\xff no image", encode(picture(8, (112, 96)))
    write_training_set(folder, [images[:3], images[3:7], images[7:]])
    return folder


def generous(**how):
    """BadImages that stand as many as the small sets of these tests have."""
    return BadImages(1000, **how)


def read(folder, make=ImageIter, epochs=3, **how):
    """(record numbers, labels, pixels) of each batch."""
    found, iterator = [], make(TrainingSet(folder), **how)
    for _ in range(epochs):
        found += [(batch.index.tolist(), batch.label[0].asnumpy(), batch.data[0].asnumpy()) for batch in iterator]
        iterator.reset()
    iterator.close()
    return found


class TestStandIns:
    def test_only_damaged_images_are_replaced(self, damaged, training_folder):
        """Against the same set without damage: every other image in its place, unchanged."""
        bad = generous()
        found = read(damaged, batch_size=7, seed=1, bad_images=bad)
        expected = read(training_folder, batch_size=7, seed=1)
        places = 0
        for (index, label, data), (whole, whole_label, whole_data) in zip(found, expected):
            for row, number in enumerate(whole):
                if number in BAD:
                    places += 1
                    assert index[row] not in BAD
                    assert label[row] == (index[row] > 3) + (index[row] > 7)
                else:
                    assert index[row] == number and label[row] == whole_label[row]
                    np.testing.assert_array_equal(data[row], whole_data[row])
        assert places == 6 <= bad.replaced and set(bad.reasons) == set(BAD)

    def test_pixels_are_those_of_the_stand_in(self, damaged, training_folder):
        (index, _, data), = read(damaged, batch_size=14, epochs=1, rand_mirror=False, bad_images=generous())
        (whole, _, sound), = read(training_folder, batch_size=14, epochs=1, rand_mirror=False, shuffle=False)
        for number, pixels in zip(index, data):
            np.testing.assert_array_equal(pixels, sound[whole.index(number)])

    @pytest.mark.parametrize("make", [ImageIter, IdentityIter])
    def test_hang_on_the_seed_alone(self, damaged, make):
        """Not on threads nor on how far ahead is read; damage is told in the order of the batches, once."""
        def run(**how):
            told = []
            bad = generous(tell=lambda number, why: told.append((number, why)))
            return read(damaged, make, batch_size=7, bad_images=bad, **how), told, bad.replaced
        one, others = run(seed=1, workers=1), [run(seed=1, workers=3), run(seed=1, workers=2, prefetch=1)]
        for found in others:
            assert one[1:] == found[1:]
            for (index, _, data), (other, _, other_data) in zip(one[0], found[0]):
                assert index == other
                np.testing.assert_array_equal(data, other_data)
        assert sorted(number for number, _ in one[1]) == list(BAD)
        assert [index for index, *_ in run(seed=2)[0]] != [index for index, *_ in one[0]]

    def test_epochs_have_other_stand_ins(self, damaged):
        found = read(damaged, batch_size=14, epochs=8, shuffle=False, bad_images=generous())
        assert len({index[3] for index, *_ in found}) > 2

    def test_reasons_name_the_record(self, damaged):
        bad = generous()
        read(damaged, batch_size=14, bad_images=bad)
        assert bad.reasons[4].startswith(f"{damaged / 'train.rec'} record 4: ")
        assert "the image is 112x96; expected 112x112" in bad.reasons[9]


class TestLimits:
    @pytest.mark.parametrize("total, limit", [(10, 1), (199, 1), (5711, 57), (99_999, 999), (10 ** 7, 1000)])
    def test_a_hundredth_within_bounds(self, total, limit):
        assert BadImages(total).limit == limit

    def test_too_many_stop(self, damaged):
        """14 images stand one; asked again, it does not go on as if nothing had been."""
        iterator = ImageIter(TrainingSet(damaged), 7, shuffle=False, bad_images=BadImages(14))
        iterator.next()
        for _ in range(2):
            with pytest.raises(DataError, match="record 9: .*damaged image number 2, and --bad-images skip stands 1"):
                iterator.next()
        iterator.close()

    def test_nothing_sound_to_read(self, tmp_path):
        write_training_set(tmp_path, [[b"no image"] * 4])
        with pytest.raises(DataError, match="train.rec record [1-4]: .* cannot be decoded"):
            read(tmp_path, batch_size=2, bad_images=generous())

    def test_labels_that_are_no_class_are_never_skipped(self, tmp_path, jpegs):
        write_training_set(tmp_path, [[image] for image in jpegs[:4]])
        (tmp_path / "property").write_text("3,112,112")
        with pytest.raises(LabelError, match="record 4: label 3"):
            read(tmp_path, batch_size=2, bad_images=generous())

    def test_stopping_is_the_default(self, damaged):
        with pytest.raises(DataError, match="train.rec record (4|9): "):
            read(damaged, IdentityIter, batch_size=4)


class Hanging(TrainingSet):
    """A set one of whose images is never there: reading it waits until `released`."""

    def __init__(self, folder, image):
        super().__init__(folder)
        self.image, self.released = image, threading.Event()

    def read(self, i):
        if self.numbers[i] == self.image:
            self.released.wait()
        return super().read(i)


class TestStalls:
    @pytest.mark.parametrize("make, how", [(ImageIter, dict(shuffle=False)),
                                           (IdentityIter, dict(images_per_identity=7))])
    def test_names_what_is_read(self, training_folder, make, how, monkeypatch):
        monkeypatch.setattr("datasets.threads._PATIENCE", 0.1)
        images = Hanging(training_folder, 6)
        iterator = make(images, 7, timeout=1, workers=1, **how)
        with pytest.raises(ReaderStalled, match=r"no batch came for 1 seconds; being read: \S+/train.rec record 6; "):
            list(iterator)
        iterator.close()  # and this does not wait for the thread
        images.released.set()

    def test_a_reader_that_is_only_slow_goes_on(self, training_folder):
        images = Hanging(training_folder, 6)
        iterator = ImageIter(images, 7, shuffle=False, timeout=60)
        threading.Timer(0.3, images.released.set).start()
        assert [batch.index.tolist() for batch in iterator] == [list(range(1, 8)), list(range(8, 15))]
        iterator.close()

    def test_no_end_where_none_is_asked_for(self, training_folder, monkeypatch):
        monkeypatch.setattr("datasets.image_iter._TURN", 0.01)
        images = Hanging(training_folder, 6)
        iterator = ImageIter(images, 7, shuffle=False, timeout=0)
        threading.Timer(0.3, images.released.set).start()
        assert iterator.next().index.tolist() == list(range(1, 8))
        iterator.close()

    def test_the_command_ends(self, training_folder, tmp_path):
        """A read that hangs in the system, of a pipe that nobody writes to: one line, exit code 2."""
        program = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from common.cli import run
from datasets import threads
from recognition.train import main

threads._PATIENCE = 0.1
pread, (pipe, _) = os.pread, os.pipe()
os.pread = lambda file, count, offset: os.read(pipe, 1) if count > 1000 else pread(file, count, offset)
sys.argv += ["--dataset", {str(training_folder)!r}, "--models-root", {str(tmp_path)!r}, "--network", "y1",
             "--net-blocks", "1,1,1,1", "--emb-size", "16", "--per-batch-size", "4", "--reader-timeout", "1",
             "--max-steps", "2", "--report", "0"]
run(main)
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done.stderr
        line, = done.stderr.splitlines()
        assert line.startswith("error: no batch came for 1 seconds; being read: ") and "train.rec record " in line
        assert '"target": "stopped"' in next(tmp_path.glob("*/train.jsonl")).read_text()


def test_a_closed_iterator_gives_no_batches(training_folder):
    iterator = ImageIter(TrainingSet(training_folder), 2)
    iterator.close()
    with pytest.raises(RuntimeError, match="have ended"):
        iterator.seek(1)


def test_threads_of_a_forgotten_iterator_end(training_folder):
    before = set(threading.enumerate())  # of which some of earlier tests may be ending
    ImageIter(TrainingSet(training_folder), 2, workers=3).next()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)  # one that held the last word of the iterator ends by itself
    assert set(threading.enumerate()) <= before
