"""Numbers behind the pictures of losses against closed forms; toy trainings; the report and its command."""
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import checkpoint
from common.cli import run
from common.errors import UserError
from common.mxnet_setup import mx
from datasets.rendered import render_identity
from datasets.training_set import write_training_set
from recognition import draw_losses, embedding_pictures, heads, loss_pictures, loss_report
from recognition.loss_angles import (
    Case,
    checkpoint_angles,
    class_angles,
    head_logits,
    margins_of_angles,
    parse_cases,
    target_curve,
)
from recognition.toy_embeddings import Toy, read_faces, render_faces, toy_cases, train_toy
from symbols import get_symbol

DEGREES = np.linspace(0.5, 179.5, 180)
THETA = np.radians(DEGREES)


def falling(theta, m):
    """cos(θ + m), from θ + m = π on cos θ − m·sin m."""
    return np.where(theta + m < np.pi, np.cos(theta + m), np.cos(theta) - m * np.sin(m))


def psi(theta, m, weight=0.0):
    """A-Softmax (Liu et al., 2017, equation 7), annealed by `weight`."""
    k = np.minimum(np.floor(m * theta / np.pi), m - 1)
    return (weight * np.cos(theta) + (-1) ** k * np.cos(m * theta) - 2 * k) / (1 + weight)


CURVES = [  # loss, length of the embedding, target logit by its scale, at the papers' values
    ("softmax", 3, np.cos), ("centre", 3, np.cos), ("nsoftmax", 3, np.cos),
    ("arcface", 3, lambda t: np.cos(t + 0.5)), ("subcenter", 3, lambda t: np.cos(t + 0.5)),
    ("cosface", 3, lambda t: np.cos(t) - 0.35), ("combined", 3, lambda t: np.cos(t + 0.3) - 0.2),
    ("cm1", 3, lambda t: np.cos(t + 0.3) - 0.2), ("cm2", 3, lambda t: np.cos(0.9 * t + 0.4) - 0.15),
    ("sphereface135", 3, lambda t: np.cos(1.35 * t)), ("sphereface", 3, lambda t: psi(t, 4, 5)),
    ("lsoftmax", 3, lambda t: psi(t, 4, 5)), ("curricularface", 3, lambda t: falling(t, 0.5)),
    ("magface", 1, lambda t: falling(t, 0.45)), ("magface", 60, lambda t: falling(t, 0.625)),
    ("magface", 900, lambda t: falling(t, 0.8)),
    ("adaface", 900, lambda t: np.cos(np.maximum(t - 0.4, 1e-3)) - 0.8),
    ("adaface", 1, lambda t: np.cos(np.minimum(t + 0.4, np.pi - 1e-3))),
]


def shown(value):
    """A parameter in a test's name; pytest numbers functions, whose own text is another in every process."""
    return None if callable(value) else str(value)


class TestCurves:
    @pytest.mark.parametrize("loss, length, expected", CURVES)
    def test_closed_forms(self, loss, length, expected):
        heights, slope = target_curve(Case(loss, {}), DEGREES, length)
        np.testing.assert_allclose(heights, expected(THETA), rtol=0, atol=3e-5)
        exact = (expected(THETA - 1e-6) - expected(THETA + 1e-6)) / 2e-6
        smooth = np.abs(exact) < 10  # not where it jumps
        assert smooth.sum() >= 178
        np.testing.assert_allclose(slope[smooth], exact[smooth], rtol=0, atol=1e-2)

    @pytest.mark.parametrize("settings, expected", [
        (dict(loss_m2=0.2, loss_s=16.0), lambda t: np.cos(t + 0.2)),
        (dict(margin_start=10, margin_warmup=100), lambda t: np.cos(t + 0.5)),
        (dict(loss_beyond="line"), lambda t: falling(t, 0.5)),
        (dict(loss_beyond="easy"), lambda t: np.where(t < np.pi / 2, np.cos(t + 0.5), np.cos(t)))], ids=shown)
    def test_settings(self, settings, expected):
        heights, _ = target_curve(Case("arcface", settings), DEGREES)
        np.testing.assert_allclose(heights, expected(THETA), rtol=0, atol=3e-5)

    def test_the_picture_names_every_loss(self):
        axes = loss_pictures.curves_figure().axes
        legends = filter(None, (part.get_legend() for part in axes))
        shown = " ".join(text.get_text() for legend in legends for text in legend.get_texts())
        assert all(loss_pictures.NAMES.get(loss, loss) in shown for loss in heads.LOSSES)
        assert "ArcFace (1, 0.5, 0)\n= sub-centre ArcFace (1, 0.5, 0)" in shown  # the same curve is drawn once

    def test_a_new_loss_appears_by_itself(self, monkeypatch):
        monkeypatch.setitem(heads.LOSSES, "mine", dict(heads.LOSSES["arcface"], loss_m2=0.7))
        shown = loss_pictures.curves_figure().axes[-3].get_legend().get_texts()
        assert "mine (1, 0.7, 0)" in [text.get_text() for text in shown]
        assert "mine (1, 0.7, 0)" in [part.get_text() for axes in loss_pictures.boundaries_figure().axes
                                      for part in axes.texts]


class TestBoundaries:
    @pytest.mark.parametrize("case, boundary", [
        (("softmax", {}), lambda t: t), (("nsoftmax", {}), lambda t: t), (("arcface", {}), lambda t: t + 0.5),
        (("subcenter", {}), lambda t: t + 0.5), (("cosface", {}), lambda t: np.arccos(np.cos(t) - 0.35)),
        (("sphereface", dict(loss_lambda=0.0, loss_lambda_min=0.0)), lambda t: 4 * t),
        (("sphereface135", {}), lambda t: 1.35 * t),
        (("combined", {}), lambda t: np.arccos(np.cos(t + 0.3) - 0.2)),
        # a negative that is harder than the target counts (t + cos θ₂)·cos θ₂; t is 0.99 of 0.5 and some of the grid's
        (("curricularface", {}), lambda t: np.minimum(t + 0.5, np.arccos(np.sqrt(0.0625 + np.cos(t + 0.5)) - 0.25)))],
        ids=shown)
    def test_closed_forms(self, case, boundary):
        degrees = np.array([2.0, 10.0, 20.0])
        far = np.degrees(boundary(np.radians(degrees)))
        above = margins_of_angles(Case(*case), np.concatenate([degrees, far - 0.6, far + 0.6]))
        assert (np.diag(above[:3, 3:6]) < 0).all() and (np.diag(above[:3, 6:]) > 0).all()

    def test_unequal_weights_move_softmax_alone(self):
        grid = np.array([30.0, 50.0])
        for loss, moved in (("softmax", True), ("lsoftmax", True), ("nsoftmax", False), ("sphereface", False)):
            one, longer = (margins_of_angles(Case(loss, {}), grid, ratio=ratio) for ratio in (1, 1.3))
            assert np.allclose(one - longer, 0.3 * np.cos(np.radians(grid)) if moved else 0, atol=1e-5)

    def test_arcface_is_a_band_of_constant_width(self):
        """Deng et al., figure 5: between two lines, m apart."""
        axes = loss_pictures.boundaries_figure([Case("arcface", {})]).axes[0]
        points = np.concatenate([path.vertices for part in axes.collections if not part.get_fill()
                                 for path in part.get_paths()])
        assert len(points) > 100
        np.testing.assert_allclose(np.abs(points[:, 0] - points[:, 1]), np.degrees(0.5), atol=0.3)

    def test_regions(self):
        """ArcFace, centres 90° apart: an embedding between them is of class 1 up to (90 − 28.65)/2°, of 2 as near."""
        around = np.radians([0.0, 30.5, 30.9, 59.1, 59.5, 90.0])
        points = np.stack([np.cos(around), np.sin(around)], axis=1)
        own = [head_logits(Case("arcface", {}), points, np.full(6, label), np.eye(2)) for label in (0, 1)]
        assert (own[0][:, 0] > own[0][:, 1]).tolist() == [True, True, False, False, False, False]
        assert (own[1][:, 1] > own[1][:, 0]).tolist() == [False, False, False, False, True, True]
        assert len(loss_pictures.regions_figure([Case("arcface", {}), Case("adaface", {})]).axes) == 4


def at(*degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def test_class_angles():
    """Classes at 0, 90 and 180 degrees, of which the first has two centres; nothing is normalised."""
    centres = at(0, 300, 90, 90, 180, 180) * 5
    own, other = class_angles(at(310, 80, 170) * [[3], [1], [0.1]], np.array([0, 1, 2]), centres, 3)
    np.testing.assert_allclose((own, other), ((10, 10, 10), (130, 80, 80)), atol=1e-6)


@pytest.fixture(scope="module")
def faces():
    images, labels = render_faces(3, 16)
    assert images.shape == (48, 3, 32, 32) and images.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.repeat([0, 1, 2], 16))
    return images, labels


class TestToys:
    def test_cases(self):
        assert [loss_pictures.label(case) for case in toy_cases()] == [
            "softmax", *(f"SphereFace m1 = {m}" for m in (1, 2, 3, 4)), "ArcFace (1, 0.5, 0)"]

    @pytest.mark.parametrize("loss, emb_size", [("softmax", 2), ("sphereface", 2), ("arcface", 3), ("subcenter", 3)])
    def test_classes_come_apart(self, faces, loss, emb_size):
        toy = train_toy(Case(loss, {}), *faces, emb_size, steps=100)
        assert list(toy.moments) == ["start", "middle", "end"]
        embeddings, centres = toy.moments["end"]
        assert embeddings.shape == (48, emb_size) and centres.shape == (3 * toy.settings.get("loss_k", 1), emb_size)
        own, other = class_angles(embeddings, toy.labels, centres, 3)
        assert np.mean(own < other) > 0.95 and np.mean(other - own) > 20

    def test_seeded(self, faces):
        ends = [train_toy(Case("arcface", {}), *faces, 3, 4, seed).moments["end"][0] for seed in (3, 3, 4)]
        np.testing.assert_allclose(ends[0], ends[1], rtol=1e-4, atol=1e-5)
        assert np.abs(ends[0] - ends[2]).max() > 0.01

    def test_panels_say_how_well_they_were_trained(self, faces):
        """By hand: one of three embeddings is nearest to another centre."""
        toy = Toy(Case("sphereface", dict(loss_m1=2)), dict(loss_m1=2, loss_s=0.0), np.array([0, 1, 2]),
                  dict(end=(at(0, 90, 100), at(10, 90, 200))))
        titles = [axes.get_title() for axes in embedding_pictures.circle_figure([toy], faces[0][:3]).axes]
        assert "SphereFace m1 = 2\ntraining accuracy 66.7%\nθ: own class 36.7°, nearest other 60.0°" in titles

    def test_a_folder_of_ones_own(self, tmp_path):
        for person, count in (("ann", 2), ("bob", 5), ("cy", 3)):
            (tmp_path / person).mkdir()
            for number in range(count):
                image = np.full((40, 30, 3), (0, 9, 40 * count), np.uint8)
                cv2.imwrite(str(tmp_path / person / f"{number}.png"), image)
        (tmp_path / "bob" / "notes.txt").write_text("no image")
        images, labels = read_faces(tmp_path, identities=2, images=4)
        assert labels.tolist() == [0] * 4 + [1] * 3
        assert images[:, :, 0, 0].tolist() == [[200, 9, 0]] * 4 + [[120, 9, 0]] * 3  # RGB
        with pytest.raises(UserError, match="0 folders with images"):
            read_faces(tmp_path / "bob")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A data set of three identities, and checkpoints 1 to 5 of a small network with two centres a class."""
    folder = tmp_path_factory.mktemp("model")
    write_training_set(folder / "data", [[cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes()
                                          for image in render_identity(0, "training", number, 4)[0]]
                                         for number in range(3)], (112, 112))
    symbol = get_symbol("y1", net_blocks=(1, 1, 1, 1), emb_size=8)
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", (1, 3, 112, 112))], for_training=False)
    mx.random.seed(0)
    module.init_params(mx.init.Xavier())
    arg_params, aux_params = module.get_params()
    checkpoint.save(folder / "bare", 1, symbol, arg_params, aux_params)
    arg_params["fc7_weight"] = mx.nd.array(np.random.RandomState(0).standard_normal((6, 8)))
    for epoch in range(1, 6):
        checkpoint.save(folder / "model", epoch, symbol, arg_params, aux_params)
    return folder


class TestCheckpoints:
    def test_angles_of_all_images(self, model):
        (own, other), = checkpoint_angles([f"{model}/model,1"], model / "data", 0, progress=False)
        assert own.shape == other.shape == (12,)
        few, = checkpoint_angles([f"{model}/model,1"], model / "data", 5, seed=1, progress=False)
        chosen = np.sort(np.random.RandomState(1).choice(12, 5, replace=False))
        np.testing.assert_allclose(few, (own[chosen], other[chosen]), atol=0.02)

    @pytest.mark.parametrize("named, told", [("", [1, 3, 5]), (",2", [2]), (",4|1", [4, 1])])
    def test_moments(self, model, named, told):
        picture, = loss_report.draw(["angles"], model=f"{model}/model{named}", dataset=model / "data", progress=False)
        titles = [axes.get_title(loc="left") for axes in picture.figure.axes]
        assert [int(re.match(r"checkpoint (\d+): .* of 12 images", title)[1]) for title in titles] == told

    def test_refusals(self, model, tmp_path):
        with pytest.raises(UserError, match="bare,1: has no head .*--ckpt-embedding 0"):
            checkpoint_angles([f"{model}/bare,1"], model / "data", progress=False)
        image = cv2.imencode(".jpg", np.zeros((112, 112, 3), np.uint8))[1].tobytes()
        write_training_set(tmp_path, [[image]] * 4, (112, 112))
        with pytest.raises(UserError, match="6 centres, no multiple of the 4 classes"):
            checkpoint_angles([f"{model}/model,1"], tmp_path, progress=False)


class TestCommand:
    def call(self, monkeypatch, *flags):
        monkeypatch.setattr(sys, "argv", ["draw_losses.py", *map(str, flags)])
        with pytest.raises(SystemExit) as exit_:
            run(draw_losses.main)
        return exit_.value.code

    def test_page(self, monkeypatch, capsys, tmp_path):
        assert self.call(monkeypatch, "--losses", "arcface,cosface:loss_m3=0.2", "--steps", 2, "--output",
                         tmp_path / "losses") is None
        page = Path(capsys.readouterr().out.strip())
        assert page == tmp_path / "losses" / "losses.html"
        named = re.findall(r'<img src="(.*?)"', page.read_text(encoding="utf-8"))
        assert sorted(named + [page.name]) == sorted(path.name for path in page.parent.iterdir())
        assert len(named) == 6
        for name in named:
            image = cv2.imread(str(page.parent / name))
            assert min(image.shape[:2]) > 300 and image.std() > 5

    @pytest.mark.parametrize("flags, words", [
        (["--losses", "arkface"], "unknown loss 'arkface'; known are: adaface, arcface"),
        (["--losses", "arcface:loss_m9=1"], "unknown setting of loss arcface 'loss_m9'"),
        (["--losses", "arcface:loss_m2=much"], "loss_m2 is 'much'; expected something like 0.5"),
        (["circles"], "unknown picture 'circles'; known are: angles, boundaries"),
        (["angles"], "give --model and --dataset"), (["--steps", "0"], "--steps"),
        (["curves", "--losses", "sphereface:loss_m1=1.5"], "loss_m1 1.5"),
        (["embeddings", "--seed", "-1"], "seed -1"), (["embeddings", "--faces", "nowhere"], "nowhere: 0 folders")])
    def test_refusals(self, monkeypatch, capsys, tmp_path, flags, words):
        assert self.call(monkeypatch, *flags, "--output", tmp_path / "losses") == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and re.search(words, lines[0])
        assert not (tmp_path / "losses").exists()

    def test_cases(self):
        assert parse_cases("arcface, sphereface:loss_m1=3:loss_s=64,softmax:fc7_no_bias=true") == [
            Case("arcface", {}), Case("sphereface", dict(loss_m1=3, loss_s=64)),
            Case("softmax", dict(fc7_no_bias=True))]
        assert parse_cases("") == []
