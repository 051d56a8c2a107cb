"""Rendered identities: the drawing, and the data written of it."""
import dataclasses
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from datasets import rendered
from datasets.packs import load_pack
from datasets.rendered import SPLITS, render_identity, write_demo, write_sheet
from datasets.rendered_face import draw, landmarks
from datasets.rendered_parameters import Conditions, Identity, random_conditions, random_identity
from datasets.training_set import TrainingSet

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655),
                     (70.7299, 92.2041)])
FRONTAL = Conditions(smile=0.0, noise=0.0, blur=0.0, light_y=0.0)
MARKED = Identity(mole=0.8, freckles=0.5, beard=0.5, moustache=0.5, fringe=5.0, hairline=-44.0, hair_waves=1.0)


def difference(first, second):
    """Mean difference of two pictures in grey levels."""
    return np.abs(first.astype(float) - second).mean()


def changed(settings, field):
    """The same settings with another value of one field."""
    value = getattr(settings, field.name)
    other = "sunglasses" if isinstance(value, str) else value + 12345 if isinstance(value, int) else value * 1.2 + 0.25
    return dataclasses.replace(settings, **{field.name: other})


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A small demo set, drawn by one process and by two."""
    folders = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendered, "PROBE_IDENTITIES", 3)
        patch.setattr(rendered, "DISTRACTORS", 5)
        for workers in (1, 2):
            folder = tmp_path_factory.mktemp("demo")
            write_demo(folder, identities=5, images_per_identity=4, pairs=100, seed=3, workers=workers, progress=False)
            folders.append(folder)
    return folders


class TestDrawing:
    def test_picture(self):
        image = draw(Identity(), Conditions())
        assert image.shape == (112, 112, 3) and image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
        assert np.array_equal(image, draw(Identity(), Conditions()))

    @pytest.mark.parametrize("field", dataclasses.fields(Identity), ids=lambda field: field.name)
    def test_every_parameter_of_the_identity_shows(self, field):
        assert difference(draw(MARKED, FRONTAL), draw(changed(MARKED, field), FRONTAL)) > 0.002

    @pytest.mark.parametrize("field", dataclasses.fields(Conditions), ids=lambda field: field.name)
    def test_every_condition_shows(self, field):
        if field.name == "jpeg_quality":
            pytest.skip("shows in the file, not in the drawing")
        assert difference(draw(MARKED, Conditions()), draw(MARKED, changed(Conditions(), field))) > 0.02

    @pytest.mark.parametrize("edge", [-2.0, 2.0])
    @pytest.mark.parametrize("share", [0.0, 0.9999])
    def test_the_corners_of_the_ranges(self, edge, share):
        class Corner:
            def standard_normal(self):
                return edge

            def random_sample(self, size=None):
                return share if size is None else np.full(size, share)

            def uniform(self, low, high):
                return low + share * (high - low)

            def randint(self, limit):
                return int(share * limit)

        for identity in (random_identity(Corner()), Identity()):
            for conditions in (random_conditions(Corner()), Conditions(occlusion="hat"), Conditions(occlusion="scarf")):
                assert draw(identity, conditions).std() > 3

    def test_draws_are_seeded_and_within_two_spreads(self):
        many = [random_identity(np.random.RandomState(seed)) for seed in range(300)]
        assert many[0] == random_identity(np.random.RandomState(0))
        spacing = np.array([identity.eye_distance for identity in many])
        assert len(set(spacing)) > 270 and abs(spacing.mean() - Identity().eye_distance) < 0.3
        assert np.abs(spacing - Identity().eye_distance).max() <= 2 * 1.6 + 1e-9
        occlusions = [random_conditions(np.random.RandomState(seed)).occlusion for seed in range(300)]
        assert 0.6 < occlusions.count("none") / 300 < 0.85 and len(set(occlusions)) == 6


class TestAlignment:
    def test_the_mean_face_lies_on_the_template(self):
        assert np.abs(landmarks(Identity(), FRONTAL) - TEMPLATE).max() < 2.5

    def test_any_face_is_aligned_as_least_squares_would(self):
        for seed in range(20):
            rng = np.random.RandomState(seed)
            slip = dict(roll=0.0, shift_x=0.0, shift_y=0.0, scale=1.0)
            found = landmarks(random_identity(rng), dataclasses.replace(random_conditions(rng), **slip))
            rows = np.zeros((10, 4))
            rows[0::2] = np.stack([found[:, 0], -found[:, 1], np.ones(5), np.zeros(5)], 1)
            rows[1::2] = np.stack([found[:, 1], found[:, 0], np.zeros(5), np.ones(5)], 1)
            best = np.linalg.lstsq(rows, TEMPLATE.ravel(), rcond=None)[0]
            assert np.allclose(best, (1, 0, 0, 0), atol=1e-6)

    def test_slip_moves_the_landmarks(self):
        straight = landmarks(Identity(), FRONTAL)
        moved = landmarks(Identity(), dataclasses.replace(FRONTAL, shift_x=3.0, roll=0.1, scale=1.1))
        turn = 1.1 * np.array([(np.cos(0.1), -np.sin(0.1)), (np.sin(0.1), np.cos(0.1))])
        assert np.allclose(moved, (straight - (56, 72)) @ turn.T + (59, 72))

    @pytest.mark.parametrize("yaw", [0.0, 0.4])
    def test_the_irises_are_drawn_where_the_landmarks_say(self, yaw):
        conditions = dataclasses.replace(FRONTAL, yaw=yaw)
        pictures = [draw(Identity(iris_hue=hue, skin_tone=0.0), conditions) for hue in (0.0, 1.0)]
        change = np.abs(pictures[0].astype(float) - pictures[1]).sum(2)
        for x, y in landmarks(Identity(), conditions)[:2]:
            rows, columns = np.mgrid[int(y) - 8:int(y) + 9, int(x) - 8:int(x) + 9]
            weight = change[rows, columns]
            assert weight.max() > 20
            assert abs((weight * columns).sum() / weight.sum() - x) < 1.2
            assert abs((weight * rows).sum() / weight.sum() - y) < 1.5


class TestSplits:
    def test_the_seed_decides(self):
        first, again, other = (render_identity(seed, "training", 0, 2) for seed in (1, 1, 2))
        assert np.array_equal(first[0], again[0]) and first[1] == again[1]
        assert difference(first[0][0], other[0][0]) > 5 and difference(first[0][0], first[0][1]) > 5

    def test_no_identity_is_in_two_splits(self):
        seen = {random_identity(np.random.RandomState([0, split, number])).eye_distance
                for split in range(len(SPLITS)) for number in range(50)}
        assert len(seen) > 0.9 * 50 * len(SPLITS)  # a few lie on the edge of the range together

    def test_pixels_alone_do_not_verify(self):
        features, labels = [], np.repeat(np.arange(50), 4)
        for number in range(50):
            for image in render_identity(0, "verification", number, 4)[0]:
                grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (28, 28), interpolation=cv2.INTER_AREA)
                features.append(grey.ravel() - grey.mean())
        features = np.array(features) / np.linalg.norm(features, axis=1, keepdims=True)
        first, second = np.triu_indices(len(features), 1)
        scores, same = (features @ features.T)[first, second], labels[first] == labels[second]
        thresholds = np.linspace(-1, 1, 201)
        accuracy = max((scores[same] > t).mean() + (scores[~same] <= t).mean() for t in thresholds) / 2
        assert 0.5 < accuracy < 0.67


class TestWrittenSet:
    def test_the_number_of_workers_does_not_matter(self, demo):
        files = [sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()) for folder in demo]
        assert files[0] == files[1] and len(files[0]) == 4 + 2 + 18 + 5
        for name in files[0]:
            assert (demo[0] / name).read_bytes() == (demo[1] / name).read_bytes(), name

    def test_training_set(self, demo):
        training = TrainingSet(demo[0])
        assert len(training) == 20 and training.num_classes == training.num_identities == 5
        image, label = training.read(7)
        drawn, quality = render_identity(3, "training", 1, 4)
        assert label == 1
        expected = cv2.imencode(".jpg", drawn[3][:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality[3]])[1]
        assert image == expected.tobytes()

    def test_pack(self, demo):
        pack = load_pack(demo[0] / "rendered.bin")
        assert pack.decode(0, 200).shape == (200, 3, 112, 112)
        folds = np.reshape(pack.issame, (10, 10))
        assert (folds[:, :5]).all() and not folds[:, 5:].any()
        images = [set(pack.images[start:start + 20]) for start in range(0, 200, 20)]
        assert sum(map(len, images)) == len(set.union(*images))  # folds share no image
        pairs = {frozenset(pack.images[2 * i:2 * i + 2]) for i in range(100)}
        assert len(pairs) == 100 and all(len(pair) == 2 for pair in pairs)

    def test_pairs_are_labelled_right(self, demo):
        pack = load_pack(demo[0] / "rendered.bin")
        identity_of = {image: number for number in range(20)
                       for image in rendered._jpegs((3, "verification", number, rendered.VERIFICATION_IMAGES))}
        for i, same in enumerate(pack.issame):
            assert (identity_of[pack.images[2 * i]] == identity_of[pack.images[2 * i + 1]]) == same

    def test_identification(self, demo):
        folder = demo[0] / "identification"
        for name, depth, count in (("facescrub", 2, 18), ("megaface", 3, 5)):
            entries = (folder / f"{name}_lst").read_text().splitlines()
            assert len(set(entries)) == count
            for entry in entries:
                assert len(entry.split("/")) == depth
                assert cv2.imread(str(folder / name / entry)).shape == (112, 112, 3)
        people = {entry.split("/")[0] for entry in (folder / "facescrub_lst").read_text().splitlines()}
        assert len(people) == 3

    @pytest.mark.parametrize("wrong", [dict(pairs=30), dict(pairs=0), dict(identities=1), dict(images_per_identity=0),
                                       dict(seed=-1)])
    def test_numbers_that_cannot_be_met(self, tmp_path, wrong):
        with pytest.raises(UserError, match="expected"):
            write_demo(tmp_path / "demo", progress=False, **wrong)
        assert not (tmp_path / "demo").exists()


class TestCommand:
    def test_sheet(self, tmp_path):
        write_sheet(tmp_path / "sheet.png", identities=2, images_per_identity=3)
        sheet = cv2.imread(str(tmp_path / "sheet.png"))[:, :, ::-1]
        assert np.array_equal(sheet[112:, :112], render_identity(0, "training", 1, 1)[0][0])
        assert sheet.shape == (224, 336, 3)

    def test_wrong_flags_get_one_line(self, tmp_path):
        done = subprocess.run([sys.executable, str(ROOT / "datasets" / "render.py"), "--pairs", "7", "--output",
                               str(tmp_path / "demo")], cwd=str(tmp_path), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, universal_newlines=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "multiple of 20" in done.stderr
        assert not list(tmp_path.iterdir())
