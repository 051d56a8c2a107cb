"""Stops of all kinds: signals at any place, kills, full disks, folders that vanish. Nothing saved is lost."""
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.resume import SMALL, killed_and_compared, write_faces
from recognition import experiment, training_state
from recognition.train import parse_args

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "m05-arcface-faces"
_STUCK = """
import ctypes, sys, threading
sys.path.insert(0, {root!r})
from recognition.signals import StopSignals
before = threading.active_count()
with StopSignals() as stopped:
    print("ready", flush=True)
    if {stuck}:  # a mutex that is locked twice: a call that no signal ends, and no Python code runs in
        mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
        lock(mutex), lock(mutex)
    while not stopped():
        pass
assert threading.active_count() == before
print("at the end", flush=True)
stopped.end()
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with rendered faces and a pack in faces/."""
    folder = tmp_path_factory.mktemp("work")
    write_faces(folder / "faces")
    return folder


def command(work, root, *flags):
    """The words of a training of eight images a step."""
    return [sys.executable, ROOT / "recognition/train.py", *SMALL, "--dataset", work / "faces", "--models-root", root,
            *map(str, flags)]


def start(words, **how):
    return subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=dict(os.environ, OMP_NUM_THREADS="1"), **how)


def wait_for(condition):
    until = time.time() + 120
    while not condition():
        assert time.time() < until, "it never came"
        time.sleep(0.01)


class TestSignals:
    def start(self, stuck):
        process = start([sys.executable, "-c", _STUCK.format(root=str(ROOT), stuck=stuck)])
        assert process.stdout.readline() == "ready\n"
        return process

    @pytest.mark.parametrize("number, code", [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
    def test_the_first_asks(self, number, code):
        process = self.start(False)
        process.send_signal(number)
        said, errors = process.communicate(timeout=60)
        assert said == "at the end\n" and errors.startswith(f"{signal.Signals(number).name}: stopping after this step")
        assert process.returncode in (code, -number) and ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)

    @pytest.mark.parametrize("first, second", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
    def test_the_second_ends_at_once(self, first, second):
        """Though the process hangs in a call that never returns."""
        process = self.start(True)
        process.send_signal(first)
        assert "a second one exits at once" in process.stderr.readline()
        process.send_signal(second)
        assert process.communicate(timeout=60) == ("", "") and process.returncode == 128 + second

    def test_what_is_ignored_stays_so(self):
        process = start([sys.executable, "-c", "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
                         + _STUCK.format(root=str(ROOT), stuck=False)])
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[1].startswith("SIGTERM") and process.returncode == 143


def in_process(work, root, *flags):
    """Train by a call; returns the folder."""
    settings, _ = parse_args([*SMALL, "--dataset", str(work / "faces"), "--models-root", str(root), *map(str, flags)])
    return experiment.train(settings, resume=True).parent


def left(folder):
    """(The last state's bytes, the models' bytes, what the log says of steps) of a training."""
    events = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    return (training_state.find_states(folder / "model")[-1][1].read_bytes(),
            {path.name: path.read_bytes() for path in folder.glob("*.params")},
            [{key: value for key, value in event.items() if key not in ("time", "samples_per_second", "path")}
             for event in events if event["event"] not in ("start", "resume")])


class Impatient:
    """In place of the signals: a training is asked to stop when it has asked so many times whether it is."""

    asks = 4

    def __init__(self):
        self._asked = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __call__(self):
        self._asked += 1
        return self._asked >= self.asks

    def end(self):
        raise KeyboardInterrupt


def test_asked_to_stop_again_and_again(work, tmp_path, monkeypatch):
    """After steps, at ends of epochs, in the midst of verifications: what is left is what one run leaves."""
    alone = left(in_process(work, tmp_path / "alone", "--max-steps", 7, "--verbose", 3))
    monkeypatch.setattr(experiment, "StopSignals", Impatient)
    stops = []
    while True:
        try:
            folder = in_process(work, tmp_path / "stopped", "--max-steps", 7, "--verbose", 3)
            break
        except KeyboardInterrupt:
            log = (tmp_path / "stopped" / FOLDER / "train.log").read_text()
            stops.append(re.search(r"stopped after step (\d+); --resume goes on from there$", log)[1])
    assert len(stops) > 2 and left(folder) == alone
    log = (folder / "train.log").read_text()
    assert re.search(r"goes on after step (\d) .*\n.*\[faces\]\[\1\]XNorm", log)  # a verification was done again


def test_a_signal_to_the_command(work, tmp_path):
    folder = tmp_path / FOLDER
    process = start(command(work, tmp_path, "--report", 1, "--max-steps", 1000))
    wait_for(lambda: (folder / "train.jsonl").exists() and '"progress"' in (folder / "train.jsonl").read_text())
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 143 and len(errors.splitlines()) == 1 and errors.startswith("SIGTERM: stopping")
    state, _ = training_state.load_latest(folder / "model")
    step = state.numbers["step"]
    assert f"stopped after step {step}; --resume goes on from there" in said and (folder / "report.html").exists()
    process = start(command(work, tmp_path, "--resume", "--max-steps", step + 1))
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f"goes on after step {step} of the training in {folder}" in said
    assert training_state.load_latest(folder / "model")[0].numbers["step"] == step + 1


def test_a_full_disk(work, tmp_path):
    """Files may grow to 100 kB, less than a model: one warning of each kind, all steps, what was saved is there yet."""
    done = start(command(work, tmp_path, "--max-steps", 2))
    done.communicate(timeout=120)
    folder = tmp_path / FOLDER
    before = {path: path.read_bytes() for path in folder.glob("model*")}
    process = start(command(work, tmp_path, "--resume", "--max-steps", 6, "--verbose", 3, "--state-every", 1),
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and len(errors.splitlines()) == 1 and "File too large" in errors
    assert said.count("warning: the state is not saved") == 1 and "the training goes on" in said
    assert "Batch [6/6]" in said and "model is not saved" in said
    assert before == {path: path.read_bytes() for path in folder.glob("model*")} and not list(folder.glob(".*"))
    assert training_state.load_latest(folder / "model")[0].numbers["step"] == 2


def test_a_folder_that_is_removed(work, tmp_path):
    folder = tmp_path / FOLDER
    process = start(command(work, tmp_path, "--state-every", 1, "--max-steps", 5000))
    wait_for(lambda: training_state.find_states(folder / "model"))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # what was written between
    wait_for(lambda: training_state.find_states(folder / "model") and (folder / "train.log").exists())
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143 and len(errors.splitlines()) == 1
    state, lines = training_state.load_latest(folder / "model")
    assert not lines and f"stopped after step {state.numbers['step']}" in (folder / "train.log").read_text()


def test_nothing_is_left_behind(work, tmp_path):
    """Threads and open files after two trainings are as many as after one."""
    found = []
    for number in range(2):
        in_process(work, tmp_path / str(number), "--max-steps", 2)
        found.append((threading.active_count(), len(os.listdir("/proc/self/fd"))))
    assert found[0] == found[1]


def test_killed_at_random_moments(tmp_path):
    """Three of the fifty of benchmarks/resume.py, whose results are in results/resume.csv."""
    write_faces(tmp_path / "faces")
    rows = killed_and_compared(tmp_path, 3, 20, tell=lambda row: None)
    assert len(rows) == 4 and all(row["equal"] for row in rows), rows
