"""Warnings of labels and of accuracy: given when they are due, never in ordinary trainings; damage in a whole run."""
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError, UserError
from common.mxnet_setup import mx
from datasets.bad_images import BadImages
from datasets.image_set import LabelError
from datasets.recordio import RecordWriter
from datasets.rendered import render_identity
from datasets.training_set import TrainingSet, write_training_set
from recognition import experiment
from recognition.guards import AccuracyGuard, ClassGuard, few_classes, finite_advice, patience, sample_labels
from recognition.train import parse_args
from recognition.triplet_iter import TripletIter


class Log:
    """A RunLog that keeps what it is told."""

    def __init__(self):
        self.lines, self.records = [], []

    def line(self, text):
        self.lines.append(text)

    def record(self, event, **values):
        self.records.append(dict(event=event, **values))


class TestLabels:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 10 ** 6), st.integers(1, 2000), st.integers(8, 5000))
    def test_evenly_drawn_labels_are_no_reason_to_warn(self, seed, classes, images):
        seen = len(np.unique(np.random.RandomState(seed).randint(0, classes, images)))
        assert few_classes(seen, images, classes) is None

    def test_expectation_against_a_simulation(self):
        random = np.random.RandomState(0)
        mean = np.mean([len(np.unique(random.randint(0, 300, 500))) for _ in range(400)])
        told = few_classes(3, 500, 300)
        assert f"500 images named 3 of 300 classes, where evenly spread ones would have named about {mean:.0f}" in told

    @pytest.mark.parametrize("seen, images, classes, warned", [
        (1, 1000, 241, True), (50, 10 ** 6, 241, True), (61, 10 ** 6, 241, False), (1, 1000, 1, False),
        (0, 0, 241, False), (2, 8, 85742, False), (1, 8, 85742, True)])
    def test_cases(self, seen, images, classes, warned):
        assert (few_classes(seen, images, classes) is not None) == warned

    def make(self, folder, labels, classes, image=b"image"):
        with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
            for number, label in enumerate(labels):
                writer.write(number, label, image)
        (folder / "property").write_text(f"{classes},8,8")
        return TrainingSet(folder)

    def test_the_last_record_is_looked_at(self, tmp_path):
        images = self.make(tmp_path, [*range(3000), 3000], 3000)
        with pytest.raises(LabelError, match=r"record 3000: label 3000; expected a whole number in \[0, 3000\)"):
            sample_labels(images)

    def test_a_thousand_are_looked_at(self, tmp_path):
        labels = sample_labels(self.make(tmp_path, range(3000), 3000))
        assert (len(labels), labels[0], labels[-1]) == (1000, 0, 2999) and np.diff(labels).max() == 4

    def test_damaged_records(self, tmp_path):
        images = self.make(tmp_path, range(20), 20)
        with open(images.path, "r+b") as file:
            file.seek(int(images._offsets[7]))
            file.write(b"XXXX")
        with pytest.raises(DataError, match="record 7: no record starts"):
            sample_labels(images)
        assert sample_labels(images, skip_damaged=True).tolist() == [*range(7), *range(8, 20)]


class TestClasses:
    def run(self, *epochs, classes=100, expected=None):
        """The log where epochs have these labels."""
        log, trainer = Log(), SimpleNamespace(steps=0, epoch=0)
        guard = ClassGuard(log, classes, expected or classes)
        for labels in epochs:
            for batch in np.reshape(labels, (-1, 10)):
                trainer.steps, trainer.labels = trainer.steps + 1, mx.nd.array(batch)
                guard.step(trainer)
            trainer.epoch += 1
            guard.epoch(trainer)
        guard.finish(trainer)
        return log

    def test_all_classes(self):
        assert not self.run(np.arange(100), np.arange(100)).lines

    def test_one_class_is_told_once(self):
        log = self.run(np.full(100, 7), np.full(100, 7))
        line, = log.lines
        assert line.startswith("warning: in epoch 0 100 images named 1 of 100 classes, where evenly spread")
        record, = log.records
        assert record["event"] == "warning" and record["target"] == "classes" and record["step"] == 10

    def test_a_later_epoch(self):
        line, = self.run(np.arange(100), np.arange(100) % 9).lines
        assert "in epoch 1 100 images named 9 of 100 classes" in line

    def test_an_epoch_that_does_not_end(self):
        log, trainer = Log(), SimpleNamespace(steps=1, epoch=0, labels=mx.nd.zeros(20))
        guard = ClassGuard(log, 100, 100)
        guard.step(trainer)
        assert not log.lines
        guard.finish(trainer)
        assert "in epoch 0 20 images named 1 of 100 classes" in log.lines[0]

    def test_what_the_filter_left(self):
        assert not self.run(np.arange(100) % 9, expected=9).lines


def accuracies(lines, classes=1000, steps=500, first=0, every=20, start=0):
    """The warnings where progress has these (loss, accuracy), one for every so many steps."""
    log, progress = Log(), SimpleNamespace(line=(0, None, None))
    guard = AccuracyGuard(log, progress, classes, steps, first, "try something")
    for step in range(start + 1, start + every * len(lines) + 1):
        if (step - start) % every == 0:
            progress.line = (step, *lines[(step - start) // every - 1])
        guard.step(SimpleNamespace(steps=step))
    return log.lines


class TestAccuracy:
    def test_flat(self):
        line, = accuracies([(42.0, 0.0)] * 200)
        assert line.startswith("warning: accuracy 0.0000 in the last 500 steps, and the loss does not fall: from 42.00 "
                               "to 42.00, where a guess without a margin has 6.91, ln 1000. ")
        assert "; try something, or look at the data with python datasets/doctor.py" in line

    def test_a_guess(self):
        assert len(accuracies([(6.92, 0.001), (6.90, 0.0012)] * 20)) == 1

    def test_flat_after_a_fall(self):
        """Where all embeddings come to be one, the loss falls for a while, and no further."""
        fall = np.maximum(45 - np.arange(200) * 0.3, 26.7)
        line, = accuracies([(loss, 0.0) for loss in fall])
        assert "from 26.96 to 26.70" in line

    @pytest.mark.parametrize("lines", [
        [(42 - 0.03 * k, 0.0) for k in range(300)],  # the loss falls, by two percent in 500 steps
        [(20.0, 0.01)] * 200,  # images are told apart
        [(6.5, 0.0)] * 200,  # better than a guess, after the margin
        [(42.0, 0.0)] * 25,  # too early: 500 steps are not over
    ], ids=["falls", "accuracy", "better than a guess", "early"])
    def test_ordinary(self, lines):
        assert not accuracies(lines)

    def test_warm_up_is_waited_for(self):
        assert not accuracies([(42.0, 0.0)] * 75, first=1000)
        assert len(accuracies([(42.0, 0.0)] * 76, first=1000)) == 1

    def test_going_on_from_a_step_begins_anew(self):
        assert not accuracies([(42.0, 0.0)] * 25, start=10_000)
        assert len(accuracies([(42.0, 0.0)] * 27, start=10_000)) == 1

    def test_noise_is_no_fall(self):
        random = np.random.RandomState(0)
        assert len(accuracies([(loss, 0.0) for loss in 42 + random.standard_normal(200)])) == 1

    @pytest.mark.parametrize("classes, batch_size, frequent, steps", [
        (241, 32, 20, 500), (85742, 512, 20, 1674), (10 ** 6, 128, 20, 5000), (241, 32, 100, 800)])
    def test_patience(self, classes, batch_size, frequent, steps):
        assert patience(classes, batch_size, frequent) == steps


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Eight rendered identities, six images of each, of which record 5 is damaged."""
    folder = tmp_path_factory.mktemp("faces")
    identities = [[cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes()
                   for image in render_identity(0, "training", number, 6)[0]] for number in range(8)]
    identities[0][4] = identities[0][4][:-300]
    write_training_set(folder, identities)
    return folder


def run(folder, root, *flags, resume=False):
    """Train; the model's folder is the only one in `root`."""
    own, _ = parse_args(["--network", "y1", "--net-blocks", "1,1,1,1", "--emb-size", "16", "--frequent", "1",
                         "--report", "0", "--ckpt", "0", "--dataset", str(folder), "--models-root", str(root), *flags])
    experiment.train(own, resume)


def events(root, kind):
    """The events of a kind in a run's log."""
    lines = next(root.glob("*/train.jsonl")).read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def with_classes(faces, folder, classes):
    """The same set with another number of classes."""
    for name in ("train.rec", "train.idx"):
        (folder / name).write_bytes((faces / name).read_bytes())
    (folder / "property").write_text(f"{classes},112,112")
    return folder


PAIRS = [["--loss", "contrastive", "--per-batch-size", "16", "--images-per-identity", "6"],
         ["--loss", "triplet", "--per-batch-size", "6", "--images-per-identity", "6"]]


class TestRuns:
    def test_damage_is_counted_and_shown(self, faces, tmp_path):
        run(faces, tmp_path, "--bad-images", "skip", "--loss", "softmax", "--per-batch-size", "16", "--epochs", "2",
            "--report", "1")
        told, = events(tmp_path, "bad_image")
        assert (told["record"], told["target"]) == (5, "5") and "cannot be decoded" in told["reason"]
        total, = events(tmp_path, "bad_images")
        assert total["images"] == 1 and total["replaced"] >= 2
        log = next(tmp_path.glob("*/train.log")).read_text()
        assert log.count("record 5: the image") == log.count("another image stands in for it") == 1
        assert f"damaged images: 1, in whose place others were read {total['replaced']} times" in log
        page = next(tmp_path.glob("*/report.html")).read_text()
        assert "damaged images, in whose place others were read: 1, of record numbers 5; why" in page

    def test_a_training_that_goes_on(self, faces, tmp_path):
        """The damaged image is counted on, and not named again; whether images are skipped may be another."""
        flags = ["--loss", "softmax", "--per-batch-size", "16", "--ckpt", "3", "--bad-images", "skip", "--epochs"]
        run(faces, tmp_path, *flags, "1")
        run(faces, tmp_path, *flags, "3", "--reader-timeout", "100", resume=True)
        assert [event["record"] for event in events(tmp_path, "bad_image")] == [5]
        first, second = events(tmp_path, "bad_images")
        assert (first["step"], second["step"], second["images"]) == (3, 9, 1) and second["replaced"] >= 3
        with pytest.raises(DataError, match="record 5"):
            run(faces, tmp_path, *flags, "4", "--bad-images", "stop", resume=True)

    @pytest.mark.parametrize("flags", PAIRS[1:] + [["--loss", "softmax", "--per-batch-size", "16"]], ids=str)
    def test_stopping_is_the_default(self, faces, tmp_path, flags):
        with pytest.raises(DataError, match="train.rec record 5: the image .* cannot be decoded"):
            run(faces, tmp_path, *flags, "--epochs", "1")
        stopped = events(tmp_path, "warning")[-1]
        assert stopped["target"] == "stopped" and "record 5" in stopped["text"]

    @pytest.mark.parametrize("flags", PAIRS, ids=str)
    def test_losses_on_pairs(self, faces, tmp_path, flags):
        run(faces, tmp_path, *flags, "--max-steps", "3", "--bad-images", "skip")
        assert [event["record"] for event in events(tmp_path, "bad_image")] == [5]

    def test_wrong_labels_are_refused_before_anything_is_written(self, faces, tmp_path):
        with pytest.raises(LabelError, match="label 7; expected a whole number in"):
            run(with_classes(faces, tmp_path, 7), tmp_path / "models")
        assert not (tmp_path / "models").exists()

    def test_few_classes(self, faces, tmp_path):
        run(with_classes(faces, tmp_path, 1000), tmp_path / "models", "--max-steps", "3", "--per-batch-size", "16",
            "--bad-images", "skip")
        told = {event["target"]: event["text"] for event in events(tmp_path / "models", "warning")}
        assert told["labels"].startswith("spread over the training set, 48 images named 8 of 1,000 classes")
        assert told["classes"].startswith("in epoch 0 48 images named 8 of 1,000 classes")

    @pytest.mark.parametrize("flag, value, message", [
        ("--bad-images", "ignore", "unknown bad_images 'ignore'; known are: skip, stop"),
        ("--reader-timeout", "-1", "reader_timeout -1: expected 0 or more")])
    def test_impossible_values(self, flag, value, message):
        with pytest.raises(UserError, match=message):
            parse_args([flag, value])


def test_no_triplet_of_a_damaged_image(faces):
    told, used = [], set()
    bad = BadImages(1000, lambda number, why: told.append(number))
    iterator = TripletIter(TrainingSet(faces), 6, images_per_identity=6, alpha=4.0, bad_images=bad)
    directions = np.random.RandomState(0).standard_normal((3 * 112 * 112, 8))
    iterator.connect(lambda: lambda images: images.reshape(len(images), -1) @ directions)
    for _ in range(3):
        used |= {number for batch in iterator for number in batch.index.tolist()}
        iterator.reset()
    iterator.close()
    assert told == [5] and 5 not in used and {1, 2, 3, 4, 6} <= used


def test_advice_names_the_model_that_training_began_with():
    flags = ["--network", "y1", "--loss", "softmax", "--dataset", "emore"]
    assert "--pretrained" not in finite_advice(parse_args(flags)[0])
    assert finite_advice(parse_args([*flags, "--pretrained", "start/model"])[0]).endswith(
        ", or another model than --pretrained start/model")
