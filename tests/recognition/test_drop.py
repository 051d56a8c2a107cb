"""Dropping noise: what is dropped against a plain reference, what is written, what bad input gets."""
import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import checkpoint
from common.embedder import Embedder
from common.errors import DataError, UserError
from common.mxnet_setup import mx
from datasets.recordio import RecordWriter
from datasets.training_set import TrainingSet, write_training_set
from recognition import presets
from recognition.cleaning import dominant_centres, drop_noise, judge, load_model, own_angles, summary
from recognition.experiment import train
from recognition.heads import get_logits

ROOT = Path(__file__).resolve().parents[2]
COLOURS = [(220, 40, 40), (40, 220, 40), (40, 40, 220), (210, 210, 40)]  # of identities 0 to 3
SHOWN = [[0] * 6 + [1] + [0] * 2, [1] * 5 + [2, 0], [0, 2], [3] * 4]  # whose colour each identity's images show
SIZE = (32, 40)


def encoded(random, colour):
    noisy = np.clip(random.normal(colour, 12, (*SIZE, 3)), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", noisy[:, :, ::-1])[1].tobytes()


@pytest.fixture(scope="module")
def images():
    """The encoded images of each identity."""
    random = np.random.RandomState(0)
    return [[encoded(random, COLOURS[colour]) for colour in shown] for shown in SHOWN]


@pytest.fixture(scope="module")
def dataset(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    write_training_set(folder, images, SIZE)
    return folder


def save_model(folder, weight, num_classes, loss="subcenter", emb_size=3, **own):
    """A checkpoint whose embedding is how much of red, green and blue there is more than of grey; weight: its head."""
    data = mx.sym.Variable("data")
    pooled = mx.sym.Pooling(mx.sym.cast(data, "float32"), global_pool=True, pool_type="avg", kernel=(1, 1))
    embedding = mx.sym.FullyConnected(mx.sym.Flatten(pooled) - 60, num_hidden=emb_size, no_bias=True, name="fc1")
    arrays = {"fc1_weight": mx.nd.array(np.eye(emb_size, 3)), "fc7_weight": mx.nd.array(weight)}
    symbol = embedding
    if loss:
        label = mx.sym.Variable("softmax_label")
        logits = get_logits(loss, embedding, label, num_classes, emb_size, **own)
        symbol = mx.sym.SoftmaxOutput(logits, label, name="softmax")
    else:
        del arrays["fc7_weight"]
    checkpoint.save(folder / "model", 1, symbol, arrays, {})
    return f"{folder}/model,1"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two centres for each identity, not of length 1, which no angle depends on.

    Identity 0: red, green; 1: its green is the second; 2: both far from all; 3: the nearer one at 45 degrees.
    """
    weight = [[9, 0, 0], [0, 2, 0],
              [0.1, 0, 1], [0, 0.5, 0.1],
              [-3, -3, -3], [-1, -1, -2],
              [2, 0, 0], [0, 0, 1]]
    return save_model(tmp_path_factory.mktemp("model"), np.array(weight, np.float32), 4, loss_k=2)


def reference(model, training_set, limit):
    """Which images are dropped, image by image in float64: lists of (record, class, angle, dominant), and of the kept.

    Shares no code with the module, save that which reads files and embeds.
    """
    weight, embed = checkpoint.load(model)[1]["fc7_weight"].asnumpy().astype(float), Embedder(model, image_shape=SIZE)
    K, per_class = len(weight) // training_set.num_classes, {}
    for i in range(len(training_set)):
        image, label = training_set.read(i)
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].transpose(2, 0, 1)
        x = embed(pixels[None].copy())[0].astype(float)
        angles = [math.degrees(math.acos(x @ w / math.sqrt(x @ x) / math.sqrt(w @ w)))
                  for w in weight[label * K:label * K + K]]
        per_class.setdefault(label, []).append((int(training_set.numbers[i]), image, angles))
    dropped, kept = [], []
    for label, members in sorted(per_class.items()):
        votes = [sum(angles.index(min(angles)) == k for _, _, angles in members) for k in range(K)]
        dominant = min(range(K), key=lambda k: (-votes[k], sum(angles[k] for _, _, angles in members), k))
        for number, image, angles in members:
            if angles[dominant] > limit:
                dropped.append((number, label, angles[dominant], min(angles) == angles[dominant]))
            else:
                kept.append((image, label))
    return dropped, kept


def read_table(path):
    lines = path.read_text().splitlines()
    return lines[0].split(","), [[float(field) for field in line.split(",")] for line in lines[1:]]


def read_all(folder):
    training_set = TrainingSet(folder)
    return [training_set.read(i) for i in range(len(training_set))], training_set


def check(dataset, model, output, limit):
    """Hold what lies in `output` against the reference; returns the classes that are left."""
    dropped, kept = reference(model, TrainingSet(dataset), limit)
    left = sorted({label for _, label in kept})
    found, cleaned = read_all(output)
    assert found == [(image, left.index(label)) for image, label in kept]
    assert (cleaned.num_classes, cleaned.image_shape, cleaned.num_identities) == (len(left), SIZE, len(left))
    head, rows = read_table(output / "dropped.csv")
    assert head == ["record", "identity", "angle", "dominant"] and len(rows) == len(dropped)
    np.testing.assert_allclose(np.reshape(rows, (-1, 4)), np.reshape(dropped, (-1, 4)), atol=0.006)
    head, rows = read_table(output / "identities.csv")
    assert head == ["original", "images", "kept", "identity"]
    classes = [label for _, label, _, _ in dropped] + [label for _, label in kept]
    keeps = [label for _, label in kept]
    assert rows == [[c, classes.count(c), keeps.count(c), left.index(c) if c in left else -1] for c in range(4)]
    assert {path.name for path in output.iterdir()} == {
        "train.rec", "train.idx", "property", "dropped.csv", "identities.csv"}
    return left


class TestCleanedSet:
    @pytest.mark.parametrize("limit, left", [(40, [0, 1]), (60, [0, 1, 3]), (75, [0, 1, 3]), (179, [0, 1, 2, 3])])
    def test_against_the_reference(self, dataset, model, tmp_path, limit, left):
        cleaning = drop_noise(model, dataset, tmp_path / "new/out", limit, batch_size=5, progress=False)
        assert check(dataset, model, tmp_path / "new/out", limit) == left
        assert cleaning.is_dropped.any() == (limit < 179)
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]

    def test_known_noise_is_what_goes(self, dataset, model, tmp_path):
        cleaning = drop_noise(model, dataset, tmp_path / "out", 60, progress=False)
        wrong = [number for number, (own, shown) in enumerate(
            [(own, colour) for own, shown in enumerate(SHOWN) for colour in shown], 1) if own != shown or own == 2]
        assert cleaning.numbers[cleaning.is_dropped].tolist() == wrong  # and all of identity 2, whose centres are off

    def test_one_centre(self, dataset, tmp_path):
        model = save_model(tmp_path, np.array(COLOURS, np.float32) - 60, 4, "arcface")
        drop_noise(model, dataset, tmp_path / "out", 75, batch_size=7, progress=False)
        assert check(dataset, model, tmp_path / "out", 75) == [0, 1, 2, 3]
        assert len(TrainingSet(tmp_path / "out")) == 8 + 5 + 1 + 4

    def test_images_in_any_order_without_identity_records(self, images, model, tmp_path):
        """Labels may be arrays, and classes may have no images."""
        order = np.random.RandomState(1).permutation([(c, i) for c in (0, 1, 3) for i in range(len(images[c]))])
        (tmp_path / "in").mkdir()
        with RecordWriter(tmp_path / "in/train.rec", tmp_path / "in/train.idx") as writer:
            for number, (c, i) in enumerate(order):
                writer.write(3 * number, [c, 1] if number % 2 else c, images[c][i])
        (tmp_path / "in/property").write_text(f"4,{SIZE[0]},{SIZE[1]}")
        drop_noise(model, tmp_path / "in", tmp_path / "out", 60, progress=False)
        dropped, kept = reference(model, TrainingSet(tmp_path / "in"), 60)
        found, cleaned = read_all(tmp_path / "out")
        assert found == [(image, [0, 1, 3].index(label)) for image, label in kept] and cleaned.num_identities == 3
        assert sorted(map(int, np.array(read_table(tmp_path / "out/dropped.csv")[1])[:, 0])) == sorted(
            number for number, *_ in dropped)
        assert read_table(tmp_path / "out/identities.csv")[1][2] == [2, 0, 0, -1]

    def test_an_empty_folder_will_do(self, dataset, model, tmp_path):
        drop_noise(model, dataset, tmp_path, 75, progress=False)
        assert len(TrainingSet(tmp_path)) == 17


class TestDominant:
    @settings(deadline=None, max_examples=60)
    @given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 5), st.tuples(*[st.integers(0, 3)] * 4)),
                                       min_size=1, max_size=30))
    def test_votes_then_sum_then_number(self, num_centres, rows):
        """Whole angles, so that ties are many and sums exact."""
        labels = np.array([label for label, _ in rows])
        angles = np.array([angles[:num_centres] for _, angles in rows], np.float32)
        found = dominant_centres(labels, angles)
        for label in set(labels.tolist()):
            own = angles[labels == label].tolist()
            votes = [sum(row.index(min(row)) == k for row in own) for k in range(num_centres)]
            assert found[label] == min(range(num_centres), key=lambda k: (-votes[k], sum(row[k] for row in own), k))

    def test_what_stands_at_the_limit_stays(self):
        labels = np.array([0, 0, 0])
        cleaning = judge(np.arange(3), labels, np.array([[75, 80], [76, 90], [10, 9]], np.float32), 75)
        assert cleaning.is_dropped.tolist() == [False, True, False]
        assert cleaning.is_dominant.tolist() == [True, True, False] and cleaning.angles.tolist() == [75, 76, 10]

    def test_angles_at_and_over_the_ends(self, model, dataset):
        """An embedding along a centre, and against it: 0 and 180, never NaN."""
        def embed(images):
            return np.resize(np.array([[3, 4, 12], [-3, -4, -12]], np.float32), (len(images), 3))

        centres = np.tile(np.array([3, 4, 12], np.float32) / 13, (4, 1, 1))
        _, angles = own_angles(embed, centres, TrainingSet(dataset), 4, progress=False)
        np.testing.assert_allclose(angles[:4, 0], [0, 180, 0, 180], atol=0.05)


def test_summary(dataset, model, tmp_path):
    lines = summary(drop_noise(model, dataset, tmp_path / "out", 75, progress=False))
    assert lines[0] == "images: 22 before, 17 after, 22.73% dropped"
    assert lines[1] == "identities: 4 before, 3 after, 1 without an image left"
    assert sum(int(line.split("°")[1].split()[0]) for line in lines[4:]) == 22


class TestCommand:
    def run(self, *flags):
        return subprocess.run([sys.executable, ROOT / "recognition/drop.py", *map(str, flags)], capture_output=True,
                              text=True, cwd="/")

    def test_as_a_user_runs_it(self, dataset, model, tmp_path):
        done = self.run("--model", model, "--dataset", dataset, "--output", tmp_path / "out", "--devices", "cpu,cpu",
                        "--batch-size", 3)
        assert done.returncode == 0, done.stderr
        assert "images: 22 before, 17 after" in done.stdout and "image/s" in done.stderr
        check(dataset, model, tmp_path / "out", 75)

    def test_error_in_one_line(self, dataset, model):
        done = self.run("--model", model, "--dataset", dataset, "--output", dataset)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "exists already" in done.stderr


class TestBadInput:
    def fails(self, words, model, dataset, output, limit=75.0, error=UserError):
        before = sorted(output.parents[1].rglob("*")), sorted(Path(dataset).iterdir())
        with pytest.raises(error, match=words):
            drop_noise(model, dataset, output, limit, progress=False)
        assert before == (sorted(output.parents[1].rglob("*")), sorted(Path(dataset).iterdir()))

    @pytest.mark.parametrize("limit", [0, -5, 180, math.nan, math.inf])
    def test_angle(self, dataset, model, tmp_path, limit):
        self.fails("more than 0 and less than 180 degrees", model, dataset, tmp_path / "out", limit)

    def test_output(self, dataset, model, tmp_path):
        self.fails("exists already", model, dataset, dataset)
        (tmp_path / "file").write_text("")
        self.fails("exists already", model, dataset, tmp_path / "file")
        self.fails("cannot be written: ", model, dataset, tmp_path / "file/out")

    def test_model_without_its_head(self, dataset, tmp_path):
        self.fails("no head .fc7_weight.; train with --ckpt-embedding 0", save_model(tmp_path, [], 4, None), dataset,
                   tmp_path / "out")

    def test_head_of_other_classes(self, dataset, tmp_path):
        model = save_model(tmp_path, np.ones((9, 3)), 3, loss_k=3)
        self.fails("9 centres, no multiple of the 4 classes", model, dataset, tmp_path / "out")

    def test_head_of_another_embedding(self, dataset, tmp_path):
        model = save_model(tmp_path, np.ones((8, 5)), 4, loss_k=2)
        self.fails(r"shape \(8, 5\); expected rows of the network's 3 dim", model, dataset, tmp_path / "out",
                   error=DataError)

    def test_centre_without_a_direction(self, dataset, tmp_path):
        model = save_model(tmp_path, np.zeros((8, 3)), 4, loss_k=2)
        self.fails("centres of its head: 8 of 8", model, dataset, tmp_path / "out")

    def test_nothing_left(self, dataset, model, tmp_path):
        self.fails("no image is left: all 22 are beyond 0.01 degrees, the nearest at", model, dataset,
                   tmp_path / "out", 0.01)

    def test_image_that_cannot_be_decoded(self, images, model, tmp_path):
        (tmp_path / "in").mkdir()
        write_training_set(tmp_path / "in", [images[0], images[1], [b"no image"], images[3]], SIZE)
        self.fails("record 17: the image .8 bytes. cannot be decoded", model, tmp_path / "in", tmp_path / "out",
                   error=DataError)


def test_a_model_as_the_training_saves_it(tmp_path):
    """Trained for two steps on faces' size, with its head: three centres for each class."""
    random = np.random.RandomState(0)
    faces = [[cv2.imencode(".jpg", random.randint(0, 256, (112, 112, 3)).astype(np.uint8))[1].tobytes()
              for _ in range(4)] for _ in range(2)]
    write_training_set(tmp_path / "in", faces)
    own = dict(presets.own_settings("y1", "subcenter"), net_blocks=(1, 1, 1, 1), emb_size=16)
    prefix = train(presets.resolve(own, {}, dict(
        network="y1", loss="subcenter", dataset=str(tmp_path / "in"), per_batch_size=4, max_steps=2,
        ckpt_embedding=False, models_root=str(tmp_path))))
    training_set = TrainingSet(tmp_path / "in")
    embed, centres = load_model(f"{prefix},1", training_set)
    assert embed.emb_size == 16 and centres.shape == (2, 3, 16)
    labels, angles = own_angles(embed, centres, training_set, 3, progress=False)
    assert labels.tolist() == [0] * 4 + [1] * 4 and angles.shape == (8, 3)
    # The head's own logit of the label, without margin and scale, is the cosine to the nearest of these centres.
    x, label = mx.sym.Variable("x"), mx.sym.Variable("label")
    logits = get_logits("subcenter", x, label, 2, 16, loss_m2=0.0, loss_s=1.0)
    decoded = [cv2.imdecode(np.frombuffer(training_set.read(i)[0], np.uint8), 1)[:, :, ::-1] for i in range(8)]
    values = logits.eval(x=mx.nd.array(embed(np.stack(decoded).transpose(0, 3, 1, 2))), label=mx.nd.array(labels),
                         fc7_weight=checkpoint.load(f"{prefix},1")[1]["fc7_weight"])[0].asnumpy()
    np.testing.assert_allclose(np.cos(np.radians(angles)).max(axis=1), values[np.arange(8), labels], atol=1e-5)
