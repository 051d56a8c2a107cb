"""The angle statistics: functions against brute force and known geometry, the command on what a training leaves."""
import json
import math
import re
from itertools import accumulate

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import run_here

from common import checkpoint
from common.embedder import Embedder
from datasets.embedding_store import ImageSource
from datasets.rendered import render_identity
from datasets.shards import open_images, write_shards
from datasets.training_set import write_training_set
from eval.report import write_report
from recognition.angle_statistics import Measured, angle_statistics, draw, lines, measure, whole_identities
from recognition.centre_angles import angles_between, feature_centres, intra_angles, nearest_angles

NAMES = ["W-EC", "W-Inter", "Intra1", "Inter1", "Intra2", "Inter2"]
TRAINED, OTHERS = [4, 3, 1, 4], [3, 1, 2]  # images of each identity


def angle(one, other):
    """Degrees between two vectors, number by number: 2·atan2(|u − v|, |u + v|) of unit vectors (Kahan)."""
    one, other = ([value / math.sqrt(sum(x * x for x in vector)) for value in vector]
                  for vector in (np.asarray(one, float).tolist(), np.asarray(other, float).tolist()))
    apart, along = (math.sqrt(sum((x + sign * y) ** 2 for x, y in zip(one, other))) for sign in (-1, 1))
    return math.degrees(2 * math.atan2(apart, along))


def mean_direction(rows):
    return np.mean([row / math.sqrt(sum(x * x for x in row)) for row in np.asarray(rows, float)], axis=0)


def nearest(vectors):
    """The smallest angle from each vector to any other."""
    return [min(angle(vector, other) for j, other in enumerate(vectors) if i != j) for i, vector in enumerate(vectors)]


class TestGeometry:
    def test_orthogonal_classes(self):
        """Two images 30 degrees to either side of each axis: 30 to their centre, 90 from centre to centre."""
        axes, aside = np.eye(6)[:3], np.eye(6)[3:]
        turned = [math.cos(math.pi / 6) * axes + sign * math.sin(math.pi / 6) * aside for sign in (-1, 1)]
        embeddings, labels = np.concatenate(turned) * [[1], [2], [3], [4], [5], [60]], [7, 2, 5, 7, 2, 5]
        identities, centres = feature_centres(embeddings, labels)
        assert identities.tolist() == [2, 5, 7]
        np.testing.assert_allclose(centres, axes[[1, 2, 0]], atol=1e-12)
        np.testing.assert_allclose(intra_angles(embeddings, labels, identities, centres), 30, atol=1e-9)
        np.testing.assert_allclose(nearest_angles(centres), 90, atol=1e-9)

    def test_a_simplex(self):
        """C centres as far from each other as can be: arccos(-1 / (C - 1))."""
        for count in (2, 3, 4, 40):
            centres = np.eye(count) - 1 / count
            centres /= np.linalg.norm(centres, axis=1, keepdims=True)
            np.testing.assert_allclose(nearest_angles(centres), math.degrees(math.acos(-1 / (count - 1))), atol=2e-6)

    def test_small_angles(self):
        """A thousandth of a degree is no 0, as it is of a cosine in float32."""
        turned = np.radians(1e-3)
        one, other = np.array([[1, 0]], np.float32), np.array([[math.cos(turned), math.sin(turned)]])
        np.testing.assert_allclose(angles_between(one, other), 1e-3, rtol=1e-5)
        np.testing.assert_allclose(nearest_angles(np.concatenate([one, other])), 1e-3, rtol=1e-5)
        assert angles_between(one, one).tolist() == [0] and angles_between(one, -one).tolist() == [180]

    def test_images_that_cancel_out(self):
        identities, centres = feature_centres(np.array([[1.0, 0], [-1, 0]]), [0, 0])
        assert intra_angles(np.array([[1.0, 0], [-1, 0]]), [0, 0], identities, centres).tolist() == [90, 90]


class TestBruteForce:
    @settings(deadline=None, max_examples=40)
    @given(st.integers(2, 5), st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 99))
    def test_feature_centres_and_intra(self, size, labels, seed):
        embeddings = np.random.RandomState(seed).standard_normal((len(labels), size))
        identities, centres = feature_centres(embeddings, labels)
        assert identities.tolist() == sorted(set(labels))
        expected = [mean_direction(embeddings[np.array(labels) == label]) for label in identities]
        np.testing.assert_allclose([angle(*pair) for pair in zip(centres, expected)], 0, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1)
        np.testing.assert_allclose(
            intra_angles(embeddings, labels, identities, centres),
            [angle(row, expected[identities.tolist().index(label)]) for row, label in zip(embeddings, labels)],
            atol=1e-5)

    @pytest.mark.parametrize("block", [1, 3, 7, 4096])
    def test_nearest(self, monkeypatch, block):
        monkeypatch.setattr("datasets.identity_centres._BLOCK", block)
        monkeypatch.setattr("recognition.centre_angles._ROWS", 5)
        for seed, count in enumerate((2, 3, 8, 21, 21)):
            centres = np.random.RandomState(seed).standard_normal((count, 3 + 5 * (seed == 4)))
            centres /= np.linalg.norm(centres, axis=1, keepdims=True)
            np.testing.assert_allclose(nearest_angles(centres), nearest(centres), atol=1e-5)

    def test_the_same_centre_twice(self):
        np.testing.assert_allclose(nearest_angles(np.array([[0.6, 0.8], [0.6, 0.8], [-0.6, -0.8]])), [0, 0, 180],
                                   atol=1e-5)


class TestDraw:
    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 35), st.integers(0, 9))
    def test_whole_identities_but_one(self, labels, images, seed):
        labels = np.array(labels)
        rows = draw(labels, images, seed)
        assert len(rows) == len(set(rows.tolist())) == min(images or len(labels), len(labels))
        assert (np.diff(labels[rows]) >= 0).all()
        cut = [label for label in set(labels[rows].tolist()) if sum(labels[rows] == label) < sum(labels == label)]
        assert len(cut) <= 1
        assert rows.tolist() == draw(labels, images, seed).tolist()

    def test_another_seed_draws_others(self):
        labels = np.repeat(np.arange(50), 4)
        assert len({tuple(draw(labels, 40, seed)) for seed in range(5)}) == 5

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 9))
    def test_batches_of_whole_identities(self, sizes, batch):
        labels = np.repeat(np.arange(len(sizes)) * 3, sizes)
        batches = [(None, labels[start:start + batch], labels[start:start + batch, None] + 0.5, None)
                   for start in range(0, len(labels), batch)]
        found = list(whole_identities(batches))
        assert np.concatenate([own for own, _ in found]).tolist() == labels.tolist()
        assert all((rows[:, 0] == own + 0.5).all() and len(own) for own, rows in found)
        assert sum(len(set(own.tolist())) for own, _ in found) == len(sizes)  # none in two of them


class TestMeasure:
    def embed(self, images):
        """Of a plain image the direction of its colour."""
        return images.reshape(len(images), 3, -1).mean(axis=2).astype(np.float32)

    def measure(self, colours, labels, head=None, **how):
        images = [cv2.imencode(".png", np.full((4, 4, 3), colour[::-1], np.uint8))[1].tobytes() for colour in colours]
        source = ImageSource(len(images), (4, 4), lambda i: (images[i], labels[i]), str)
        return measure(self.embed, source, np.array(labels), head, progress=False, **how)

    @pytest.mark.parametrize("batch_size", [1, 2, 64])
    def test_dominant_centre(self, batch_size):
        """Of three centres the one that most images of the class are nearest to; not the nearest to the feature
        centre, and not the first."""
        head = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1]]] * 3, np.float32)
        colours = [(0, 9, 1), (200, 0, 0), (0, 9, 1), (0, 0, 200), (0, 0, 9)]
        found = self.measure(colours, [2, 2, 2, 0, 2], head, batch_size=batch_size)
        assert isinstance(found, Measured) and found.labels.tolist() == [0, 2] and found.sizes.tolist() == [1, 4]
        assert found.dominant.tolist() == [2, 1]
        centre = mean_direction([colours[i] for i in (0, 1, 2, 4)])
        assert angle(found.centres[1], centre) < 1e-4
        assert found.intra[1] == pytest.approx(np.mean([angle(colours[i], centre) for i in (0, 1, 2, 4)]), abs=1e-4)
        assert found.intra[0] == pytest.approx(0, abs=1e-4)

    def test_one_centre(self):
        assert self.measure([(9, 0, 0), (0, 9, 9)], [1, 0], np.ones((2, 1, 3))).dominant.tolist() == [0, 0]


def jpegs(split, number, count):
    images, _ = render_identity(3, split, number, count)
    return [cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes() for image in images]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """data: a rendered training set; others: <person>/<image>; models/: arcface, subcenter, class-parallel, triplet."""
    folder = tmp_path_factory.mktemp("angles")
    write_training_set(folder / "data", [jpegs("training", number, size) for number, size in enumerate(TRAINED)])
    for number, size in enumerate(OTHERS):
        (folder / f"others/p{number}").mkdir(parents=True)
        for row, image in enumerate(jpegs("verification", number, size)):
            (folder / f"others/p{number}/{row}.jpg").write_bytes(image)
    for name, loss, *more in (("arcface", "arcface"), ("subcenter", "subcenter", "--loss-k", "2"), (
            "parallel", "arcface", "--class-parallel", "--devices", "cpu,cpu"), ("triplet", "triplet")):
        batch = 6 if loss == "triplet" else 4
        done = run_here("recognition/train.py", "--network", "y1", "--net-blocks", "1,1,1,1", "--emb-size", "16",
                        "--loss", loss, "--dataset", folder / "data", "--per-batch-size", batch, "--max-steps", "2",
                        "--ckpt-embedding", "0", "--models-root", folder / name, "--report", "0", *more)
        assert done.returncode == 0, done.stderr
    return folder


def model_of(place, name):
    path, = (place / name).glob("*/model-0001.params")
    return f"{path.parent}/model,1"


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].transpose(2, 0, 1)


def groups_of(place):
    """The embedded images of each identity: of the training set, and of the others."""
    images = open_images(place / "data")
    read = [images.read(i)[0] for i in range(len(images))]
    ends = list(accumulate(TRAINED))
    return ([[decoded(data) for data in read[end - size:end]] for size, end in zip(TRAINED, ends)],
            [[decoded(path.read_bytes()) for path in sorted((place / f"others/p{number}").iterdir())]
             for number in range(len(OTHERS))])


def reference(place, model, centres=1, flip=False):
    """The six figures in plain loops of float64. centres: K, for each class."""
    embed, found = Embedder(model), []
    for people in groups_of(place):
        rows = []
        for images in people:
            images = np.stack(images).copy()
            both = embed(images) + (embed(images[:, :, :, ::-1].copy()) if flip else 0)
            rows.append(np.array(both, float))
        means = [mean_direction(part) for part in rows]
        several = [angle(row, mean) for part, mean in zip(rows, means) for row in part if len(part) > 1]
        found.append((np.mean(several), np.mean(nearest(means)), means, rows))
    weight = checkpoint.load(model)[1].get("fc7_weight")
    heads = [None, None]
    if weight is not None:
        weight, chosen = weight.asnumpy().astype(float), []
        for label, rows in enumerate(found[0][3]):
            own = weight[label * centres:(label + 1) * centres]
            angles = np.array([[angle(row, centre) for centre in own] for row in rows])
            votes = [sum(angles.argmin(axis=1) == k) for k in range(centres)]
            chosen.append(own[min(range(centres), key=lambda k: (-votes[k], angles[:, k].sum()))])
        heads = [np.mean([angle(*pair) for pair in zip(chosen, found[0][2])]), np.mean(nearest(chosen))]
    return dict(zip(NAMES, (*heads, *found[0][:2], *found[1][:2])))


def call(place, name, *flags, sets=("dataset", "others")):
    where = dict(dataset=place / "data", others=place / "others")
    given = [word for key in sets for word in (f"--{key}", where[key])]
    return run_here("recognition/angles.py", "--model", model_of(place, name), *given, *flags)


def figures(output):
    entry, = json.loads((output / "results.json").read_text())
    assert entry["protocol"] == "angles"
    return entry["figures"]


def same(found, expected):
    assert list(found) == NAMES
    for name in NAMES:
        assert found[name] == (None if expected[name] is None else pytest.approx(expected[name], abs=2e-3)), name


class TestCommand:
    @pytest.mark.parametrize("name, centres, flags", [
        ("arcface", 1, ["--flip", "--batch-size", "5"]), ("subcenter", 2, ["--batch-size", "3"]), ("parallel", 1, []),
        ("triplet", 1, [])])
    def test_against_the_reference(self, place, tmp_path, name, centres, flags):
        done = call(place, name, *flags, "--output", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        expected = reference(place, model_of(place, name), centres, "--flip" in flags)
        same(figures(tmp_path / "out"), expected)
        printed = dict(re.findall(r"^(\S+) +(none|[\d.]+°)  ", done.stdout, re.M))
        assert printed == {key: "none" if value is None else f"{value:.2f}°"
                           for key, value in figures(tmp_path / "out").items()}
        if name == "triplet":
            assert re.search(r"W-EC +none .*: the model has no head .fc7_weight.", done.stdout)
        assert "Intra2" in done.stdout and "mean over 5 (1 of 3 identities have one image, at 0 by" in done.stdout
        assert (tmp_path / "out/evaluations.csv").read_text().count("\n") == 2
        write_report([tmp_path / "out"], tmp_path / "page.html")
        assert "W-Inter" in (tmp_path / "page.html").read_text()

    def test_one_set_alone(self, place, tmp_path):
        whole = reference(place, model_of(place, "arcface"))
        for sets, left in ((["dataset"], NAMES[:4]), (["others"], NAMES[4:])):
            done = call(place, "arcface", "--output", tmp_path, sets=sets)
            same(figures(tmp_path), {name: whole[name] if name in left else None for name in NAMES})
            assert f"needs --{'others' if sets == ['dataset'] else 'dataset'}" in done.stdout

    def test_images(self, place, tmp_path):
        """Seven of twelve: whole identities but for one, as `draw` has them."""
        done = call(place, "subcenter", "--images", 7, "--seed", 2, "--output", tmp_path)
        labels = np.repeat(np.arange(4), TRAINED)
        seen = labels[draw(labels, 7, 2)]
        assert 1 < len(set(seen)) < 4
        for name in ("W-EC", "W-Inter"):
            assert re.search(rf"{name} .* mean over {len(set(seen))} .{4 - len(set(seen))} of 4 classes", done.stdout)
        several = sum(np.count_nonzero(seen == own) > 1 for own in seen)
        assert re.search(rf"Intra1 .* mean over {several}\b", done.stdout)
        assert re.search(r"Intra2 .* mean over 5 ", done.stdout)  # six images are no more than seven
        again = call(place, "arcface", "--images", 7, "--seed", 2, "--output", tmp_path)
        assert re.search(r"W-Inter .* mean over 4$", again.stdout, re.M)  # its one centre of a class needs no images

    def test_shards(self, place, tmp_path):
        images = open_images(place / "data")
        write_shards(images, tmp_path / "shards", 2, progress=False)
        found = angle_statistics(model_of(place, "arcface"), tmp_path / "shards", progress=False)
        expected = reference(place, model_of(place, "arcface"))
        assert [one.angle for one in found[:4]] == pytest.approx([expected[name] for name in NAMES[:4]], abs=2e-3)

    def test_nobody_else(self, place, tmp_path):
        """One person with one image: neither within nor between."""
        (tmp_path / "one/p").mkdir(parents=True)
        (tmp_path / "one/p/0.jpg").write_bytes(jpegs("verification", 0, 1)[0])
        found = angle_statistics(model_of(place, "arcface"), "", tmp_path / "one", progress=False)
        assert [one.angle for one in found] == [None] * 6
        told = "\n".join(lines(found))
        assert "1 of 1 identities have one image" in told and "there is no other one" in told


class TestRefusals:
    def refused(self, words, *flags, **how):
        done = run_here("recognition/angles.py", *flags, **how)
        told = [line for line in re.split("[\n\r]", done.stderr) if line.startswith("error")]
        assert done.returncode == 2 and len(told) == 1 and re.search(words, told[0]), done.stderr

    def test_model(self, place, tmp_path):
        self.refused("no file .*nowhere/model-0001.params; epochs found", "--model", f"{tmp_path}/nowhere/model,1",
                     "--dataset", place / "data", "--output", tmp_path / "out")

    def test_other_classes(self, place, tmp_path):
        write_training_set(tmp_path / "three", [jpegs("training", number, 1) for number in range(3)])
        self.refused("4 centres, no multiple of the 3 classes of .*three", "--model", model_of(place, "arcface"),
                     "--dataset", tmp_path / "three", "--output", tmp_path / "out")

    @pytest.mark.parametrize("flags, words", [
        ([], "no images: give --dataset"), (["--others", "nowhere"], "nowhere: no such folder"),
        (["--others", "empty"], "empty: no images; expected a sub-folder"),
        (["--others", "small"], "small/p/0.png: the image is 40x112; expected 112x112"),
        (["--others", "bad"], "bad/p/0.png: the image .8 bytes. cannot be decoded"),
        (["--others", "small", "--images", "-1"], "images -1, seed 0: expected"),
        (["--others", "small", "--seed", "-1"], "images 0, seed -1: expected"),
        (["--others", "small", "--image-size", "40"], "image size '40'"),
        (["--dataset", "emor"], "unknown data set 'emor'; known are: demo, emore")])
    def test_images(self, place, tmp_path, flags, words):
        for name in ("empty", "small/p", "bad/p"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "bad/p/0.png").write_bytes(b"no image")
        cv2.imwrite(str(tmp_path / "small/p/0.png"), np.zeros((40, 112, 3), np.uint8))
        self.refused(words, "--model", model_of(place, "arcface"), *flags, "--output", "out", cwd=tmp_path)

    def test_output(self, place, tmp_path):
        (tmp_path / "file").write_text("")
        self.refused("file/out", "--model", model_of(place, "arcface"), "--dataset", place / "data", "--output",
                     tmp_path / "file/out")
