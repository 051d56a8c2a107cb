"""The papers' trainings: every recipe resolves, its schedule follows the batch, and what is typed goes over it."""
import numpy as np
import pytest
from test_train_command import SMALL, dataset, fails, run  # noqa: F401

from common.errors import UserError
from recognition import recipes
from recognition.train import parse_args


def parse(name, folder, *flags):
    start = ["--pretrained", "a/model"] if recipes.get_recipe(name).begins_with else []
    return parse_args(["--recipe", name, "--dataset", str(folder), "--devices", "cpu", *start, *map(str, flags)])[0]


@pytest.mark.parametrize("name", recipes.recipe_names())
def test_every_recipe(name, dataset):  # noqa: F811
    recipe, text = recipes.get_recipe(name), "\n".join(recipes.describe(name))
    settings = parse(name, dataset, "--per-batch-size", 30)
    for key, value in recipe.settings.items():
        assert settings[key] == value or key in ("lr", "dataset")
    assert settings.recipe == name and "Should reach" in text and "\n  Costs " in text
    images = 32 if recipe.in_epochs else recipe.batch  # those of the data set
    drops = [int(step) for step in settings.lr_steps.split(",") if step]
    expected = np.array([*recipe.drops, recipe.end]) * images / 30
    np.testing.assert_allclose([*drops, settings.max_steps], expected, atol=0.5)
    assert drops == sorted(set(drops)) and settings.max_steps > max(drops, default=0)
    assert settings.lr == pytest.approx(recipe.settings["lr"] * 30 / recipe.batch)


def test_the_paper_s_own_batch(dataset):  # noqa: F811
    settings = parse("arcface_casia", dataset, "--per-batch-size", 128, "--devices", "cpu,cpu,cpu,cpu")
    assert (settings.lr, settings.lr_steps, settings.max_steps) == (0.1, "20000,28000", 32000)


def test_several_workers_share_a_batch(dataset, monkeypatch):  # noqa: F811
    monkeypatch.setenv("DMLC_NUM_WORKER", "4")
    settings = parse("arcface_casia", dataset, "--per-batch-size", 64, "--devices", "cpu,cpu", "--kvstore", "dist_sync")
    assert (settings.lr, settings.max_steps) == (0.1, 32000)


def test_flags_and_config_go_over_it(dataset, tmp_path):  # noqa: F811
    (tmp_path / "config.json").write_text('{"recipe": "cosface_casia", "lr_steps": "7", "wd": 0.25}')
    settings, _ = parse_args(["--config", str(tmp_path / "config.json"), "--dataset", str(dataset), "--network", "y1",
                              "--lr", "0.5", "--devices", "cpu", "--per-batch-size", "256"])
    assert (settings.network, settings.loss, settings.lr, settings.lr_steps, settings.wd, settings.max_steps) == (
        "y1", "cosface", 0.5, "7", 0.25, 60000)
    settings = parse("cosface_casia", dataset, "--loss", "arcface", "--epochs", 3)
    assert settings.loss_m3 == 0 and (settings.epochs, settings.max_steps) == (3, 0)  # CosFace's margin stays its own


def test_what_is_missing(dataset):  # noqa: F811
    for words, message in [(["arcface_casia"], "expected --dataset"), (["nowhere"], "known are: amsoftmax_casia"),
                           (["triplet", "--dataset", str(dataset)], "begins with a model .* name it by --pretrained"),
                           (["arcface_vgg2", "--dataset", str(dataset), "--per-batch-size", "999"], "nothing")]:
        with pytest.raises(UserError, match=message):
            parse_args(["--devices", "cpu", "--recipe", *words])


def test_the_command(dataset, tmp_path):  # noqa: F811
    flags = [*SMALL, "--recipe", "arcface_casia", "--models-root", tmp_path, "--max-steps", 2]
    assert fails(*flags).startswith("error: --recipe arcface_casia: expected --dataset")
    done = run(*flags, "--dataset", dataset)
    assert done.returncode == 0, done.stderr
    assert "recipe arcface_casia, made for steps of 512 images:\n  ArcFace on CASIA-WebFace" in done.stdout
    assert "learning rate 0.0015625, divided by ten after steps 1280000,1792000; 2 steps" in done.stdout
