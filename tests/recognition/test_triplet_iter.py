"""Images by identity, mining against brute force, batches of triplets, and a short training with them."""
import json
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import checkpoint
from common.errors import UserError
from datasets.identity_iter import IdentityIter
from datasets.recordio import RecordWriter
from datasets.rendered import render_identity
from datasets.training_set import TrainingSet, write_training_set
from recognition import experiment
from recognition.pair_losses import check_batch_size
from recognition.train import parse_args
from recognition.triplet_iter import TripletIter, mine_triplets

SIZES = (7, 1, 4, 2, 6, 3)
SHAPE = (8, 12)


def encoded(number):
    """A grey image, brighter to the right, which says its number."""
    image = np.full((*SHAPE, 3), 2 * number, np.uint8)
    image[:, SHAPE[1] // 2:] += 100
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six identities, 23 images; image number k is 2k grey on its dark side."""
    folder, number = tmp_path_factory.mktemp("identities"), iter(range(1, 100))
    write_training_set(folder, [[encoded(next(number)) for _ in range(size)] for size in SIZES], SHAPE)
    return folder


def numbers_in(images):
    """The number of each picture, (N,)."""
    return np.minimum(images[:, 0, 0, 0], images[:, 0, 0, -1]) // 2


TRUTH = np.concatenate([[0], np.repeat(range(6), SIZES)])  # class by record number


class TestIdentities:
    def test_from_the_identity_records(self, folder):
        assert TrainingSet(folder).identities().tolist() == TRUTH[1:].tolist()

    def test_from_the_labels(self, folder, tmp_path):
        with RecordWriter(tmp_path / "train.rec", tmp_path / "train.idx") as writer:
            for number, label in enumerate([3, 1, 1, 3, 0]):
                writer.write(number, label, encoded(number))
        (tmp_path / "property").write_text("4,8,12")
        assert TrainingSet(tmp_path).identities().tolist() == [2, 1, 1, 2, 0]

    @pytest.mark.parametrize("sizes", [(5,), (1, 1, 1)])
    def test_no_pairs(self, tmp_path, sizes):
        write_training_set(tmp_path, [[encoded(1)] * size for size in sizes], SHAPE)
        with pytest.raises(UserError, match="needs two identities, and two images of one"):
            IdentityIter(TrainingSet(tmp_path), 2)


class TestIdentityIter:
    def test_one_identity_after_the_other(self, folder):
        iterator = IdentityIter(TrainingSet(folder), 15, images_per_identity=3)
        seen, orders = set(), set()
        for _ in range(40):
            batch, = iterator
            classes = TRUTH[batch.index]
            starts = np.flatnonzero(np.diff(classes, prepend=-1))
            assert len(set(batch.index)) == 15 == 3 + 1 + 3 + 2 + 3 + 3
            assert len(starts) == 6 and np.bincount(classes).tolist() == [3, 1, 3, 2, 3, 3]
            np.testing.assert_array_equal(batch.label[0].asnumpy(), classes)
            np.testing.assert_array_equal(numbers_in(batch.data[0].asnumpy()), batch.index)
            seen |= set(batch.index.tolist())
            orders.add(tuple(classes[starts]))
            iterator.reset()
        assert seen == set(range(1, 24)) and len(orders) > 30

    def test_epochs_hang_on_the_seed(self, folder):
        def epochs(seed):
            iterator, found = IdentityIter(TrainingSet(folder), 4, images_per_identity=2, seed=seed), []
            for epoch in range(2):
                iterator.reset()  # the first one changes nothing, for nothing was read yet
                assert (iterator.epoch, iterator.position, iterator.num_batches) == (epoch, 0, 2)
                found.append([(batch.index.tolist(), batch.data[0].asnumpy().tolist()) for batch in iterator])
                assert iterator.position == 2
            iterator.close()
            return found
        one, same, other = epochs(5), epochs(5), epochs(6)
        assert one == same and one[0] != one[1] and one[0] != other[0]
        assert all(len(set(TRUTH[index])) < 4 for epoch in one for index, _ in epoch)  # a genuine pair in each

    def test_fewer_images_than_a_batch(self, folder):
        with pytest.raises(UserError, match="15 images, at most 3 of an identity, are fewer than one batch of 16"):
            IdentityIter(TrainingSet(folder), 16, images_per_identity=3)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def brute_force(x, labels, alpha, max_ap, angular):
    """Every genuine pair that has semi-hard negatives, with all of them."""
    def distance(i, j):
        return np.arccos(np.clip(x[i] @ x[j], -1, 1)) if angular else ((x[i] - x[j]) ** 2).sum()

    found = {}
    for a in range(len(x)):
        for p in range(a + 1, len(x)):
            near = distance(a, p)
            if labels[a] == labels[p] and not (max_ap > 0 and near > max_ap):
                impostors = np.flatnonzero(labels != labels[a])
                negatives = {n for n in impostors if near < distance(a, n) < near + alpha}
                if negatives:
                    found[a, p] = negatives
    return found


class TestMining:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 10 ** 6), st.integers(2, 16), st.integers(1, 5), st.floats(0.01, 1.5),
           st.sampled_from([0, 0.8]), st.booleans())
    def test_against_brute_force(self, seed, count, classes, alpha, max_ap, angular):
        random = np.random.RandomState(seed)
        x, labels = unit(random.standard_normal((count, 3))), random.randint(0, classes, count)
        triplets = mine_triplets(x, labels, random, alpha, max_ap, angular)
        expected = brute_force(x, labels, alpha, max_ap, angular)
        assert triplets.shape == (len(expected), 3) and triplets.dtype == np.int64
        assert {(a, p) for a, p, _ in triplets.tolist()} == set(expected)
        assert all(n in expected[a, p] for a, p, n in triplets.tolist())

    def test_every_semi_hard_negative_comes_up(self):
        random = np.random.RandomState(0)
        x, labels = unit(random.standard_normal((12, 3))), np.arange(12) % 3
        expected, found = brute_force(x, labels, 0.6, 0, False), {}
        for seed in range(60):
            for a, p, n in mine_triplets(x, labels, np.random.RandomState(seed), 0.6).tolist():
                found.setdefault((a, p), set()).add(n)
        assert found == expected

    def test_order_is_shuffled_and_hangs_on_the_seed(self):
        x, labels = unit(np.random.RandomState(0).standard_normal((30, 3))), np.arange(30) % 5
        one, same, other = (mine_triplets(x, labels, np.random.RandomState(seed)).tolist() for seed in (1, 1, 2))
        assert one == same != other and one != sorted(one)


def embed(images):
    """An embedding of a test picture: a direction at random, the same for the same picture."""
    return np.stack([np.random.RandomState(number).standard_normal(4) for number in numbers_in(images)])


def make(folder, batch_size=6, embed=embed, say=lambda line: None, **how):
    iterator = TripletIter(TrainingSet(folder), batch_size, **dict(dict(seed=3, bag_size=12, alpha=1.0), **how))
    iterator.connect(lambda: embed, say)
    return iterator


def take(iterator, epochs=2):
    batches = []
    for _ in range(epochs):
        batches += [(batch.index.tolist(), batch.label[0].asnumpy().tolist(), batch.data[0].asnumpy())
                    for batch in iterator]
        iterator.reset()
    iterator.close()
    return batches


class TestTripletIter:
    def test_what_a_module_needs(self, folder):
        iterator = make(folder)
        data, label = iterator.provide_data[0], iterator.provide_label[0]
        assert (data.name, data.shape, data.dtype, data.layout) == ("data", (6, 3, *SHAPE), np.uint8, "NCHW")
        assert (label.name, label.shape, label.dtype, iterator.batch_size) == ("softmax_label", (6,), np.float32, 6)
        batch = iterator.next()
        assert (batch.data[0].shape, batch.data[0].dtype, batch.pad) == (data.shape, np.uint8, 0)
        assert iterator.position == 1 and iterator.num_batches is None
        iterator.close()

    @pytest.mark.parametrize("devices", [1, 2])
    def test_thirds_of_each_device(self, folder, devices):
        batches = take(make(folder, 6 * devices, num_devices=devices))
        assert batches
        for index, label, data in batches:
            np.testing.assert_array_equal(numbers_in(data), index)
            np.testing.assert_array_equal(label, TRUTH[index])
            for part in np.split(np.array(index), devices):
                anchor, positive, negative = part.reshape(3, 2)
                assert (TRUTH[anchor] == TRUTH[positive]).all() and (TRUTH[anchor] != TRUTH[negative]).all()
                a, p, n = (unit(embed(np.full((2, 1, 1, 2), 2 * rows[:, None, None, None]))) for rows in (
                    anchor, positive, negative))
                near, far = ((a - p) ** 2).sum(axis=1), ((a - n) ** 2).sum(axis=1)
                assert (near < far).all() and (far < near + 1.0).all()

    def test_hangs_on_the_seed(self, folder):
        one, same, other = (take(make(folder, seed=seed)) for seed in (1, 1, 2))
        assert [index for index, *_ in one] == [index for index, *_ in same] != [index for index, *_ in other]
        assert all(np.array_equal(a[2], b[2]) for a, b in zip(one, same))

    def test_mirror(self, folder):
        plain, mirrored = ([data[:, 0, 0, 0] < data[:, 0, 0, -1] for *_, data in take(make(folder, rand_mirror=on))]
                           for on in (False, True))
        assert np.all(plain) and 0.3 < np.mean(mirrored) < 0.7

    def test_nothing_is_embedded_before_a_batch_is_asked_for(self, folder):
        calls = []
        iterator = make(folder)
        iterator.connect(lambda: calls.append("bag") or (lambda images: calls.append(len(images)) or embed(images)))
        iterator.reset()
        assert not calls and iterator.epoch == 0
        list(iterator)
        assert calls == ["bag", 10, "bag", 10]  # 20 images in two bags

    def test_large_bags_are_embedded_in_even_parts(self, folder, monkeypatch):
        whole = [index for index, *_ in take(make(folder, bag_size=99))]
        monkeypatch.setattr("recognition.triplet_iter._EMBEDDED", 8)
        calls = []
        parts = take(make(folder, bag_size=99, embed=lambda images: calls.append(len(images)) or embed(images)))
        assert calls == [7] * 6 and [index for index, *_ in parts] == whole

    def test_bags_that_give_fewer_triplets_than_a_batch(self, folder):
        lines = []
        iterator = make(folder, 18, say=lines.append, bag_size=9, alpha=0.3)
        batches = take(iterator, epochs=12)
        found = [int(re.search(r"(\d+) triplets", line)[1]) for line in lines]
        assert max(found) < 6 and len(batches) == sum(found) // 6 > 0
        assert re.fullmatch(r"Bag\[0\] \[1/3\]\t7 images of \d identities\t\d+ triplets\t\d+\.\d s", lines[0])

    def test_an_epoch_without_triplets_stops(self, folder):
        lines = []
        iterator = make(folder, embed=lambda images: np.ones((len(images), 4)), say=lines.append)
        with pytest.raises(UserError, match="no triplet in the 2 bags of epoch 0.*--loss-alpha"):
            iterator.next()
        assert len(lines) == 2
        iterator.close()

    def test_diverged_embeddings(self, folder):
        iterator = make(folder, embed=lambda images: np.full((len(images), 4), np.nan))
        with pytest.raises(UserError, match="not finite"):
            iterator.next()
        iterator.close()

    @pytest.mark.parametrize("size, nearest", [(64, 63), (65, 66), (1, 3), (2, 3), (4, 3), (128, 129)])
    def test_batches_that_are_no_thirds(self, folder, size, nearest):
        with pytest.raises(UserError, match=f"per_batch_size {size}: .* can be is {nearest}$"):
            check_batch_size("atriplet", size)
        with pytest.raises(UserError, match=f"per_batch_size {size}: .* can be is {nearest}$"):
            make(folder, 2 * size, num_devices=2)
        with pytest.raises(UserError, match=f"per_batch_size {size}: .* can be is {nearest}$"):
            parse_args(["--loss", "triplet", "--per-batch-size", str(size)])


SMALL = ["--network", "y1", "--net-blocks", "1,1,1,1", "--emb-size", "16", "--max-steps", "2", "--frequent", "1",
         "--report", "0"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The first faces of the rendered data: eight identities, four images of each."""
    folder = tmp_path_factory.mktemp("demo")
    write_training_set(folder, [[cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes()
                                 for image in render_identity(0, "training", number, 4)[0]] for number in range(8)])
    return folder


def run(demo, root, *flags):
    """Train; returns the model's folder."""
    settings, _ = parse_args([*SMALL, "--dataset", str(demo), "--models-root", str(root), *flags])
    return experiment.train(settings).parent


class TestTraining:
    @pytest.mark.parametrize("loss, flags", [
        ("triplet", ["--per-batch-size", "6"]), ("atriplet", ["--per-batch-size", "6"]),
        ("triplet", ["--per-batch-size", "3", "--devices", "cpu,cpu", "--ckpt-embedding", "0"]),
        ("contrastive", ["--per-batch-size", "8"])], ids=str)
    def test_two_steps(self, demo, tmp_path, loss, flags):
        folder = run(demo, tmp_path, "--loss", loss, *flags)
        log = (folder / "train.log").read_text()
        assert ("triplets" in log) == (loss != "contrastive")
        events = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        losses = [event["loss"] for event in events if event["event"] == "progress"]
        assert len(losses) == 2 and np.isfinite(losses).all() and max(losses) > 0
        symbol, arg_params, _ = checkpoint.load(f"{folder}/model,1")
        assert symbol.list_outputs() == ["fc1_output"] and "fc7_weight" not in arg_params

    def test_fine_tuning_a_softmax_model(self, demo, tmp_path):
        first = run(demo, tmp_path, "--loss", "softmax", "--per-batch-size", "4", "--max-steps", "1",
                    "--ckpt-embedding", "0")
        folder = run(demo, tmp_path, "--loss", "triplet", "--per-batch-size", "6", "--max-steps", "1", "--pretrained",
                     f"{first}/model", "--pretrained-epoch", "1", "--lr", "0.005", "--mom", "0", "--wd", "0.0005")
        before, after = (checkpoint.load(f"{path}/model,1")[1]["pre_fc1_weight"].asnumpy() for path in (first, folder))
        assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()

    def test_epochs_end_the_training(self, demo, tmp_path):
        folder = run(demo, tmp_path, "--loss", "triplet", "--per-batch-size", "6", "--images-per-identity", "2",
                     "--max-steps", "0", "--epochs", "1")
        log = (folder / "train.log").read_text()
        found = int(re.search(r"Bag\[0\] \[1/1\]\t16 images of 8 identities\t(\d+) triplets", log)[1])
        assert "Bag[1]" not in log and "1 epochs" in log and f"Batch [{found // 2}]" in log

    def test_benchmark(self):
        settings, _ = parse_args([*SMALL, "--loss", "triplet", "--per-batch-size", "3", "--max-steps", "1"])
        assert experiment.benchmark(settings, 9) > 0

    @pytest.mark.parametrize("loss, size", [("triplet", 6), ("contrastive", 8)])
    def test_reader_alone(self, demo, loss, size):
        settings, _ = parse_args([*SMALL, "--loss", loss, "--dataset", str(demo), "--per-batch-size", str(size)])
        assert experiment.test_io(settings) > 0


class TestSettings:
    def test_presets(self):
        settings, _ = parse_args(["--network", "d169", "--loss", "triplet"])
        expected = dict(per_batch_size=60, lr=0.05, images_per_identity=5, triplet_bag_size=7200, triplet_max_ap=0.0,
                        loss_alpha=0.3)
        assert {key: settings[key] for key in expected} == expected
        assert parse_args(["--loss", "triplet", "--lr", "0.005", "--mom", "0"])[0].lr == 0.005
        assert parse_args(["--loss", "atriplet"])[0].loss_alpha == 0.35
        contrastive, _ = parse_args(["--loss", "contrastive"])
        assert (contrastive.loss_m, contrastive.per_batch_size, contrastive.images_per_identity) == (1.0, 60, 5)

    @pytest.mark.parametrize("loss, flag", [("arcface", "--images-per-identity"), ("contrastive", "--triplet-bag-size"),
                                            ("softmax", "--triplet-max-ap")])
    def test_flags_of_other_losses(self, loss, flag, capsys):
        with pytest.raises(SystemExit):
            parse_args(["--loss", loss, flag, "3"])
        assert flag in capsys.readouterr().err

    @pytest.mark.parametrize("loss, flag, value", [
        ("triplet", "images_per_identity", 1), ("triplet", "triplet_bag_size", 2), ("triplet", "triplet_max_ap", -1),
        ("contrastive", "per_batch_size", 1)])
    def test_impossible_values(self, loss, flag, value):
        with pytest.raises(UserError, match=f"{flag} {value}"):
            parse_args(["--loss", loss, f"--{flag.replace('_', '-')}", str(value)])
