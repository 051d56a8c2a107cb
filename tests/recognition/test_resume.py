"""A training that is stopped and goes on, against one that is left alone: the same bits; and what hinders a resume."""
import argparse
import json
from itertools import islice

import cv2
import numpy as np
import pytest

from common.errors import DataError, UserError
from common.log import RunLog
from common.mxnet_setup import mx
from datasets.identity_iter import IdentityIter
from datasets.image_iter import ImageIter
from datasets.rendered import render_identity
from datasets.training_set import TrainingSet, write_training_set
from recognition import experiment, presets, training_state
from recognition import resume as resuming
from recognition.callbacks import Checkpoint
from recognition.class_parallel import split_loss
from recognition.heads import classification_loss, get_head
from recognition.partial_fc import PartialTrainer, sample_sizes
from recognition.split_trainer import SplitTrainer
from recognition.train import parse_args
from recognition.trainer import NotFinite, Trainer, draws_random
from recognition.workers import Alone

CLASSES, SIZE, BATCH = 7, 8, 12


def network():
    """A small network with all that has a state: BatchNorm, a slope, dropout."""
    body = mx.sym.cast(mx.sym.Variable("data"), "float32") / 128 - 1
    body = mx.sym.Convolution(body, kernel=(4, 4), stride=(4, 4), num_filter=6, name="conv")
    body = mx.sym.LeakyReLU(mx.sym.BatchNorm(body, name="bn"), act_type="prelu", name="relu")
    body = mx.sym.Dropout(mx.sym.Flatten(body), p=0.4)
    return mx.sym.BatchNorm(mx.sym.FullyConnected(body, num_hidden=SIZE, name="pre_fc1"), name="fc1")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Seven identities of six small images: three batches an epoch."""
    folder, random = tmp_path_factory.mktemp("faces"), np.random.RandomState(0)
    write_training_set(folder, [[cv2.imencode(".png", random.randint(0, 255, (16, 16, 3)).astype(np.uint8))[1].tobytes()
                                 for _ in range(6)] for _ in range(CLASSES)], (16, 16))
    return folder


def make(faces, kind, devices, loss, resumed=None, **how):
    """A trainer of this kind and its reader."""
    batches = ImageIter(TrainingSet(faces), BATCH, color=2, cutoff=4)
    counts = [3, 4] if kind != "plain" else []
    sizes = sample_sizes(counts, 0.3, 2) if kind == "partial" else counts

    def plain(embedding, label):
        return classification_loss(get_head(loss, embedding, label, CLASSES, SIZE), label)

    def split(embedding, label):
        return split_loss(loss, embedding, label, sizes, SIZE)

    start = {"plain": (Trainer, network(), plain), "split": (SplitTrainer, network(), split, counts),
             "partial": (PartialTrainer, network(), split, counts, sizes)}[kind]
    mx.random.seed(3 if resumed is None else 4)
    trainer = start[0](*start[1:], [mx.cpu(k) for k in range(devices)], batches, mx.init.Xavier(), resumed=resumed,
                       **dict(dict(lr=0.1, lr_steps=[4, 6], lr_warmup=3, seed=11), **how))
    return trainer, batches


def run(trainer, batches, steps):
    """That many steps, over the ends of epochs."""
    for _ in range(steps):
        if batches.position == batches.num_batches:
            batches.reset()
        trainer.step(batches.next())


def snapshot(trainer):
    numbers, arrays = trainer.state()
    return numbers, {name: array.asnumpy() for name, array in arrays.items()}


def equal(one, other):
    assert one[0] == other[0] and one[1].keys() == other[1].keys()
    for name, array in one[1].items():
        np.testing.assert_array_equal(array, other[1][name], err_msg=name)


def through_a_file(trainer, batches, path):
    numbers, arrays = trainer.state()
    training_state.write_state(path, dict(numbers, reader=batches.state()), arrays)
    return training_state.read_state(path)


CASES = [("plain", 1, "arcface", {}), ("plain", 1, "sphereface", {"momentum": 0.0}),
         ("plain", 2, "curricularface", {"workers": Alone("local")}), ("plain", 3, "arcface", {}),
         ("split", 2, "arcface", {}), ("split", 2, "centre", {}), ("partial", 2, "arcface", {}),
         ("partial", 2, "subcenter", {"momentum": 0.5})]


@pytest.mark.parametrize("kind, devices, loss, how", CASES,
                         ids=lambda value: ",".join(value) if isinstance(value, dict) else str(value))
@pytest.mark.parametrize("stop", [2, 3])  # in the midst of an epoch, at its end
def test_the_same_bits(faces, tmp_path, kind, devices, loss, how, stop):
    alone = make(faces, kind, devices, loss, **how)
    run(*alone, 8)
    first = make(faces, kind, devices, loss, **how)
    run(*first, stop)
    state = through_a_file(*first, tmp_path / "model-00000001.state")
    again = make(faces, kind, devices, loss, resumed=state, **how)
    again[1].restore(state.numbers["reader"])
    assert again[0].lr == first[0].lr
    run(*again, 8 - stop)
    equal(snapshot(again[0]), snapshot(alone[0]))
    assert again[0].take_metrics() == alone[0].take_metrics()
    for _, batches in (alone, first, again):
        batches.close()


def test_every_part_of_the_state_is_needed(faces, tmp_path):
    """Whatever is left out or changed shows in the bits: the tests above could fail."""
    alone = make(faces, "plain", 1, "sphereface")
    run(*alone, 8)
    expected = snapshot(alone[0])[1]
    first = make(faces, "plain", 1, "sphereface")
    run(*first, 2)
    state = through_a_file(*first, tmp_path / "model-00000001.state")

    def differs(numbers=None, arrays=None, reader=None, **how):
        numbers, arrays = dict(state.numbers, **(numbers or {})), dict(state.arrays, **(arrays or {}))
        trainer, batches = make(faces, "plain", 1, "sphereface", resumed=(numbers, arrays), **how)
        batches.restore(dict(state.numbers["reader"], **(reader or {})))
        run(trainer, batches, 6)
        found = snapshot(trainer)[1]
        return any(not np.array_equal(found[name], array) for name, array in expected.items())

    assert not differs()
    assert differs(numbers={"step": 3}) and differs(reader={"position": 1}) and differs(reader={"epoch": 1})
    assert differs(seed=12)  # of dropout
    for name in ("arg:conv_weight", "mom:fc7_weight", "mom:bn_beta", "aux:bn_moving_var", "arg:fc7_step_state"):
        assert differs(arrays={name: state.arrays[name] + np.float32(0.01)}), name


@pytest.mark.parametrize("kind", ["plain", "split"])
def test_another_number_of_devices(faces, tmp_path, kind):
    """Parameters and momenta as they were, statistics the mean of those of the devices, as a checkpoint has them."""
    first = make(faces, kind, 2, "arcface")
    run(*first, 3)
    state = through_a_file(*first, tmp_path / "model-00000001.state")
    other, batches = make(faces, "plain", 3, "arcface", resumed=state)
    before, after = first[0].params(), other.params()
    for part, found in zip(before, after):
        assert part.keys() == found.keys()
        for name, array in part.items():
            np.testing.assert_allclose(found[name].asnumpy(), array.asnumpy(), rtol=1e-6, atol=1e-7)
    one, two = snapshot(first[0])[1], snapshot(other)[1]
    for name in one:
        if name.startswith("mom:"):
            np.testing.assert_array_equal(one[name], two[name])
    batches.restore(state.numbers["reader"])
    run(other, batches, 2)


def test_the_state_of_another_network(faces, tmp_path):
    first = make(faces, "plain", 1, "arcface")
    state = through_a_file(*first, tmp_path / "model-00000001.state")
    state.arrays["arg:conv_weight"] = state.arrays["arg:conv_weight"][:, :2]
    with pytest.raises(DataError, match=r"1 arrays differ; 'arg:conv_weight' has shape \(6, 2, 4, 4\), expected \(6,"):
        make(faces, "plain", 1, "arcface", resumed=state)
    del state.arrays["arg:conv_weight"]
    with pytest.raises(DataError, match="'arg:conv_weight' has shape None"):
        make(faces, "plain", 1, "arcface", resumed=state)


def test_numbers_that_are_not_finite_are_no_state(faces):
    trainer, batches = make(faces, "plain", 1, "arcface", lr=1e38, lr_warmup=0)
    run(trainer, batches, 1)
    with pytest.raises(NotFinite, match="after step 1"):
        trainer.state()


def test_which_graphs_draw():
    assert draws_random(network())
    assert draws_random(mx.sym.random.normal(shape=(2,)))
    assert not draws_random(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2))


@pytest.mark.parametrize("position", [0, 1, 3, 5])
def test_identities_go_on(faces, position):
    def reader():
        return IdentityIter(TrainingSet(faces), 6, images_per_identity=5, seed=3, color=1)

    def read(iterator, count):
        found = []
        while len(found) < count:
            found += [(batch.index.tolist(), batch.data[0].asnumpy().tolist()) for batch in
                      islice(iterator, count - len(found))]
            if len(found) < count:
                iterator.reset()
        iterator.close()
        return found

    alone = read(reader(), 12)
    first, again = reader(), reader()
    for _ in range(position):
        first.next()
    state = json.loads(json.dumps(first.state()))
    again.restore(state)
    assert read(again, 12 - position) == alone[position:]
    with pytest.raises(UserError, match="seed was 3 and is 4"):
        IdentityIter(TrainingSet(faces), 6, seed=4).restore(state)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The first faces of the rendered data: eight identities, four images of each."""
    folder = tmp_path_factory.mktemp("demo")
    write_training_set(folder, [[cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes()
                                 for image in render_identity(0, "training", number, 4)[0]] for number in range(8)])
    return folder


SMALL = ["--network", "m05", "--net-multiplier", "0.1", "--emb-size", "16", "--report", "0", "--per-batch-size", "6",
         "--frequent", "2", "--lr", "0.05", "--devices", "cpu"]


def train(demo, root, steps, *flags, resume=True):
    """Train up to a step; returns the last state."""
    settings, _ = parse_args([*SMALL, "--dataset", str(demo), "--models-root", str(root), "--max-steps", str(steps),
                              *flags])
    prefix = experiment.train(settings, resume)
    return training_state.load_latest(prefix)[0]


@pytest.mark.parametrize("flags", [
    ["--loss", "triplet", "--triplet-bag-size", "20"], ["--loss", "contrastive"],
    ["--loss", "arcface", "--devices", "cpu,cpu", "--per-batch-size", "3", "--class-parallel"],
    ["--loss", "cosface", "--margin-warmup", "9", "--sample-rate", "0.9", "--devices", "cpu,cpu", "--per-batch-size",
     "3"]], ids=lambda flags: flags[1])
def test_experiments_go_on(demo, tmp_path, flags):
    """By the settings alone, over stops in the midst of epochs and of bags of triplets."""
    alone = train(demo, tmp_path / "alone", 9, *flags)
    for steps in (2, 7, 9):
        state = train(demo, tmp_path / "stopped", steps, *flags)
        assert state.numbers["step"] == steps
    equal((dict(alone.numbers, callbacks={}), alone.arrays), (dict(state.numbers, callbacks={}), state.arrays))


class TestSettings:
    @pytest.fixture(scope="class")
    def trained(self, demo, tmp_path_factory):
        root = tmp_path_factory.mktemp("models")
        train(demo, root, 2)
        return root

    @pytest.mark.parametrize("flags, message", [
        (["--lr", "0.1"], "--lr is 0.1 and was 0.05"), (["--seed", "1"], "--seed is 1 and was 0"),
        (["--loss-m2", "0.4", "--lr-steps", "9"], "--lr-steps is '9' and was .*; --loss-m2 is 0.4 and was 0.5"),
        (["--per-batch-size", "8"], "images in a batch of all devices is 8 and was 6"),
        (["--devices", "cpu,cpu"], "images in a batch of all devices is 12 and was 6"),
        (["--net-output", "GAP"], "--net-output is 'GAP' and was 'GDC'"), (["--sample-rate", "0.5"], "--sample-rate"),
        (["--data-cutoff", "5"], "--data-cutoff")])
    def test_those_that_make_another_training(self, demo, trained, flags, message):
        before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
        with pytest.raises(UserError, match=f"--resume: this would not be the training in .*({message})"):
            train(demo, trained, 3, *flags)
        assert before == {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}

    def test_another_data_set_of_the_same_name(self, demo, trained, tmp_path):
        other = tmp_path / demo.name
        write_training_set(other, [[cv2.imencode(".jpg", np.full((112, 112, 3), 9 * k, np.uint8))[1].tobytes()] * 4
                                   for k in range(8)])
        with pytest.raises(UserError, match="SHA-256 of the data set's train.idx is"):
            train(other, trained, 3)

    def test_those_that_may_change(self, demo, tmp_path, capsys):
        train(demo, tmp_path, 2)
        state = train(demo, tmp_path, 3, "--frequent", "1", "--verbose", "5", "--ckpt", "2", "--state-every", "1",
                      "--state-keep", "1", "--ckpt-epochs", "1", "--pretrained", "nowhere")
        assert state.numbers["step"] == 3 and "not bit for bit" not in capsys.readouterr().out

    def test_what_is_no_longer_exact(self, demo, tmp_path, capsys):
        train(demo, tmp_path, 2)
        train(demo, tmp_path, 3, "--devices", "cpu,cpu", "--per-batch-size", "3")
        said = capsys.readouterr().out
        for words in ("goes on after step 2", "not bit for bit", "devices ['cpu', 'cpu']", "BatchNorm's statistics"):
            assert words in said

    def test_a_setting_that_is_newer_than_the_state(self, demo, tmp_path):
        state = train(demo, tmp_path, 2)
        here = dict(state.numbers, settings=dict(state.numbers["settings"]))
        del state.numbers["settings"]["lr_warmup"]
        assert resuming.check(state, here, "folder") == []
        here["settings"]["lr_warmup"] = 5
        with pytest.raises(UserError, match="--lr-warmup is 5 and was 0"):
            resuming.check(state, here, "folder")

    def test_every_setting_is_checked_or_known_not_to_matter(self):
        known = {*resuming._FREE, *resuming._ROUNDING, *resuming._CHECKED_APART}
        assert known < {*presets.SETTINGS}


class TestFolders:
    def test_nothing_to_resume(self, demo, tmp_path, capsys):
        train(demo, tmp_path, 1)
        assert f"no saved state in {tmp_path / 'm05-arcface-'}" in capsys.readouterr().out

    def test_a_new_training_does_not_mix_with_an_old_one(self, demo, tmp_path, capsys):
        train(demo, tmp_path, 2)
        folder = tmp_path / f"m05-arcface-{demo.name}"
        old = {path.name: path.read_bytes() for path in folder.iterdir()}
        train(demo, tmp_path, 3, resume=False)
        train(demo, tmp_path, 1, resume=False)
        kept = [folder.with_name(f"{folder.name}.earlier-{n}") for n in (1, 2)]
        assert f"the earlier training in {folder} is kept in {kept[1]}" in capsys.readouterr().out
        assert {path.name: path.read_bytes() for path in kept[0].iterdir()} == old
        assert [max(step for step, _ in training_state.find_states(path / "model"))
                for path in (*kept, folder)] == [2, 3, 1]
        assert '"step": 3' not in (folder / "train.jsonl").read_text()

    def test_logs_alone_are_no_training(self, demo, tmp_path):
        folder = tmp_path / f"m05-arcface-{demo.name}"
        folder.mkdir()
        (folder / "train.log").write_text("stopped before its first step\n")
        train(demo, tmp_path, 1, resume=False)
        assert (folder / "train.log").read_text().startswith("stopped before") and len(list(tmp_path.iterdir())) == 1

    def test_two_trainings_at_once(self, demo, tmp_path):
        train(demo, tmp_path, 1)
        folder = tmp_path / f"m05-arcface-{demo.name}"
        log = RunLog(folder)
        for resume in (True, False):
            with pytest.raises(UserError, match=f"^{folder}: another run writes into this folder"):
                train(demo, tmp_path, 2, resume=resume)
        log.close()
        train(demo, tmp_path, 2)

    def test_leftovers_of_killed_writers(self, demo, tmp_path):
        train(demo, tmp_path, 1)
        folder = tmp_path / f"m05-arcface-{demo.name}"
        (folder / ".model-00000002.state.x1y2.tmp").write_bytes(b"half")
        train(demo, tmp_path, 2)
        assert not list(folder.glob(".*"))

    def test_a_finished_training(self, demo, tmp_path, capsys):
        train(demo, tmp_path, 2)
        folder = tmp_path / f"m05-arcface-{demo.name}"
        before = {path.name: path.read_bytes() for path in folder.glob("model*")}
        train(demo, tmp_path, 2)
        assert before == {path.name: path.read_bytes() for path in folder.glob("model*")}

    def test_without_states(self, demo, tmp_path, capsys):
        for flags in (["--ckpt", "0"], ["--state-keep", "0"]):
            assert train(demo, tmp_path, 1, *flags) is None


class Scores:
    """In place of a Verification: what it found, and when."""

    names = ["first", "last"]

    def __init__(self):
        self.checked, self.score, self.accuracies = 0, None, {}

    def found(self, step, first, last):
        self.checked, self.accuracies = step, dict(first=first, last=last)
        self.score = [last, first + last]


class TestCheckpoints:
    def test_the_best_that_was_saved(self, tmp_path):
        """What could not be written is not the best to beat: the next that is better than the one on disk is."""
        log, scores, written, full = RunLog(), Scores(), [], []

        def save(prefix, number, trainer):
            if full:
                raise UserError("no space")
            written.append((prefix.name if hasattr(prefix, "name") else prefix.rpartition("/")[2], trainer.steps))

        saver = Checkpoint(log, tmp_path / "model", 3, scores, save, best=True)
        trainer = argparse.Namespace(steps=0)
        for step, first, last, disk_full in [(1, 0.5, 0.6, 0), (2, 0.4, 0.9, 1), (3, 0.6, 0.7, 0), (4, 0.5, 0.7, 0),
                                             (5, 0.7, 0.7, 0)]:
            trainer.steps, full[:] = step, [1] * disk_full
            scores.found(step, first, last)
            saver.step(trainer)
            assert (saver.failure is None) != disk_full
        assert [step for name, step in written if name == "model"] == [1, 3, 5]  # 5: equal on the last, more in all
        assert [step for name, step in written if name == "model-best-first"] == [1, 3, 5]
        assert [step for name, step in written if name == "model-best-last"] == [1, 3]
        again = Checkpoint(log, tmp_path / "model", 3, scores, save, best=True)
        again.restore(json.loads(json.dumps(saver.state())))
        assert again.state() == saver.state() and again.path == saver.path

    def test_other_packs_count_anew(self, tmp_path):
        scores = Scores()
        saver = Checkpoint(RunLog(), tmp_path / "model", 2, scores, lambda *_: None)
        trainer = argparse.Namespace(steps=1)
        scores.found(1, 0.5, 0.9)
        saver.step(trainer)
        state = saver.state()
        scores.names = ["first"]
        saver.restore(state)
        assert (saver.state()["best"], saver.state()["number"]) == ([0.9, 1.4], 1)
        fresh = Checkpoint(RunLog(), tmp_path / "model", 2, scores, lambda *_: None)
        fresh.restore(state)
        assert (fresh.state()["best"], fresh.state()["number"]) == (None, 1)

    def test_which_are_kept(self, demo, tmp_path):
        train(demo, tmp_path, 11, "--ckpt", "2", "--verbose", "2", "--ckpt-keep", "2", "--ckpt-epochs", "1")
        names = {path.name for path in (tmp_path / f"m05-arcface-{demo.name}").glob("*.params")}
        assert names == {"model-0005.params", "model-0006.params", "model-epoch-0001.params", "model-epoch-0002.params"}
