"""A training that an earlier version began goes on, or is told why not. States of each version lie in states/.

version1.state is what FLAGS left after two steps when version 1 was the newest.
"""
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from datasets.training_set import write_training_set
from recognition import experiment, training_state
from recognition.train import parse_args

STATES = Path(__file__).parent / "states"
FLAGS = ("--network m05 --net-multiplier 0.04 --emb-size 8 --loss curricularface --per-batch-size 4 --devices cpu "
         "--lr 0.05 --frequent 1 --report 0").split()


@pytest.fixture
def dataset(tmp_path):
    """The data set of the stored states, the same bytes wherever it is made: bitmaps, whose coding leaves no choice."""
    random = np.random.RandomState(0)
    folder = tmp_path / "bitmaps"
    write_training_set(folder, [[cv2.imencode(".bmp", random.randint(0, 256, (112, 112, 3)).astype(np.uint8))[1]
                                 .tobytes() for _ in range(4)] for _ in range(3)])
    return folder


def train(dataset, steps, *flags):
    settings, _ = parse_args([*FLAGS, "--dataset", str(dataset), "--models-root", str(dataset.parent), "--max-steps",
                              str(steps), *flags])
    return experiment.train(settings, resume=True)


def put(dataset, name, step=2):
    """Put a stored state where the training looks for it."""
    path = training_state.state_path(dataset.parent / f"m05-curricularface-{dataset.name}" / "model", step)
    path.parent.mkdir()
    return Path(shutil.copy(STATES / name, path))


@pytest.mark.parametrize("version", [1])
def test_goes_on(dataset, version, capsys):
    stored = put(dataset, f"version{version}.state")
    before = training_state.read_state(stored)
    prefix = train(dataset, 4)
    assert "goes on after step 2 of the training" in capsys.readouterr().out
    after, lines = training_state.load_latest(prefix)
    assert after.numbers["step"] == 4 and after.numbers["version"] == training_state.VERSION and not lines
    assert before.arrays.keys() == after.arrays.keys()
    moved = [name for name in before.arrays if not np.array_equal(before.arrays[name], after.arrays[name])]
    assert {"arg:fc7_weight", "mom:fc7_weight", "arg:fc7_target_mean_state", "aux:fc1_moving_mean"} <= set(moved)
    losses = [event["loss"] for event in map(json.loads, (prefix.parent / "train.jsonl").read_text().splitlines())
              if event["event"] == "progress"]
    assert len(losses) == 2 and np.isfinite(losses).all()


def test_a_newer_one_is_refused(dataset, monkeypatch):
    stored = put(dataset, "version1.state").read_bytes()
    monkeypatch.setattr(training_state, "VERSION", 0)
    with pytest.raises(UserError, match=r"00000002.state: written by a newer version .* \(state version 1, this one"):
        train(dataset, 4)
    folder, = dataset.parent.glob("m05*")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"model-00000002.state": stored}


def test_a_folder_from_before_there_were_states(dataset, capsys):
    """It is kept, and the line says why nothing is gone on with."""
    prefix = train(dataset, 2, "--state-keep", "0")
    assert not training_state.find_states(prefix)
    train(dataset, 1)
    said = capsys.readouterr().out
    assert f"--resume: no saved state in {prefix.parent}" in said and f"is kept in {prefix.parent}.earlier-1" in said
    assert (prefix.parent.with_name(f"{prefix.parent.name}.earlier-1") / "model-0001.params").exists()
