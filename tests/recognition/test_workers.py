"""Several workers against one: sums by hand, then real trainings on the loopback interface."""
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_train_command import SMALL, dataset, run  # noqa: F401

from common import checkpoint
from common.errors import UserError
from common.mxnet_setup import mx
from recognition.training_state import find_states
from recognition.workers import Alone, Together, connect

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ["--report", "0", "--network", "s4", "--net-output", "H", "--emb-size", "48", "--lr", "0.02", "--seed", "3",
         "--loss-s", "16", "--ckpt-embedding", "0", "--data-color", "1"]  # without batch norm, which joins images


class Thread(Together):
    """A worker that is a thread. place: which of them it is, whatever its rank says."""

    def __init__(self, place, rank, size, values, barrier):
        self.place, self.rank, self.size, self._values, self._barrier = place, rank, size, values, barrier

    def pushpull(self, key, value, out=None, priority=0):
        self._values[key, self.place] = sum(array.asnumpy() for array in value)
        self._barrier.wait()
        total = sum(self._values[key, place] for place in range(self.size))
        self._barrier.wait()
        for array in value:
            array[:] = total


def together(function, ranks):
    """What function(worker) returns or raises in each of these workers."""
    values, barrier, found = {}, threading.Barrier(len(ranks)), [None] * len(ranks)

    def call(place):
        try:
            found[place] = function(Thread(place, ranks[place], len(ranks), values, barrier))
        except UserError as error:
            found[place] = str(error)
    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


class TestSums:
    def test_share_and_everyones(self):
        def act(worker):
            arrays = {"a": mx.nd.array([1.5, -2]) + worker.rank, "b": mx.nd.ones((2, 2)) * worker.rank}
            everyones = worker.everyones([arrays, {"a": arrays["a"] * 2}])
            kept = arrays["a"].asnumpy().tolist()
            worker.share(arrays)
            return kept, [part["a"].asnumpy().tolist() for part in everyones], \
                [array.asnumpy().tolist() for array in arrays.values()]

        for rank, (kept, everyones, shared) in enumerate(together(act, [0, 1, 2])):
            assert kept == [1.5 + rank, -2 + rank]
            assert everyones == [[1.5, -2], [3, -4], [2.5, -1], [5, -2], [3.5, 0], [7, 0]]
            assert shared == [[1.5, -2], [[0, 0], [0, 0]]]

    def test_gather(self):
        for found in together(lambda worker: worker.gather([-worker.rank / 3, 2 ** 40 + 1, np.nan]), [0, 1, 2]):
            np.testing.assert_array_equal(found, [[-rank / 3, 2 ** 40 + 1, np.nan] for rank in range(3)])
        assert Alone().gather([3, 4]).tolist() == [[3, 4]]

    def test_text(self):
        assert together(lambda worker: worker.tell(["ein Bär", "", "x"][worker.rank]), [0, 1, 2]) == ["ein Bär"] * 3

    def test_all_stop_after_the_same_call(self):
        def act(worker):
            calls = []
            asked = worker.agree(lambda: worker.rank == 1 and len(calls) == 4)
            while not asked():
                calls.append(None)
            return len(calls)
        assert together(act, [0, 1, 2]) == [6, 6, 6]

    def test_no_key_is_under_way_twice(self, monkeypatch):
        """MXNet would add up one worker's first sum of it with another's second."""
        under_way = []

        class Recording(Together):
            def pushpull(self, key, value, out=None, priority=0):
                assert key not in under_way
                under_way.append(key)

        monkeypatch.setattr(mx.nd, "waitall", under_way.clear)
        Recording().share({name: mx.nd.zeros(1) for name in ("arg:a", "arg:b", "mom:a", "mom:b", "device1/arg:a")})
        asked = Recording().agree(lambda: False)
        for _ in range(7):
            asked()
            del under_way[:-2]  # an answer is read two calls later

    def test_facts_that_differ(self):
        found = together(lambda worker: worker.check({"seed": 1, "images": 9 + (worker.rank == 1)}), [0, 1, 2])
        assert "worker 0 has images 9, worker 1 another" in found[0]
        assert "worker 1 has images 10, worker 0 another" in found[1]
        assert together(lambda worker: worker.check({"seed": 1, "steps": [2, 3]}), [0, 1]) == [None, None]

    def test_a_number_given_twice(self):
        assert together(lambda worker: worker.check({}), [0, 1, 1]) == [
            "of 3 workers, 2 have DMLC_WORKER_ID 1; expected 0 to 2, each once"] * 3


class TestConnect:
    @pytest.mark.parametrize("variables, kvstore, message", [
        ({"DMLC_NUM_WORKER": "2"}, "device", "DMLC_NUM_WORKER is 2, but --kvstore device .* add --kvstore dist_sync"),
        ({"HOROVOD_SIZE": "2"}, "local", "HOROVOD_SIZE is 2, but --kvstore local .* add --kvstore horovod"),
        ({}, "dist_sync", "DMLC_ROLE is not set; start .* with recognition/launch.py")])
    def test_not_started_for_it(self, monkeypatch, variables, kvstore, message):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=message), connect(kvstore):
            pass

    def test_horovod_that_is_not_there(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "horovod", None)
        with pytest.raises(UserError, match="many-machines.md says how Horovod is built"), connect("horovod"):
            pass


def launch(*flags, workers=2, servers=2, restarts=0):
    """Start a job on the loopback interface. Returns the Popen."""
    command = [sys.executable, ROOT / "recognition/launch.py", "--workers", workers, "--servers", servers,
               "--restarts", restarts, "--", *flags]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(job):
    """What a job that ends well printed, of one worker alone."""
    assert re.fullmatch(r"workers: 2, servers: \d, on this machine\n", job.stdout.readline())
    out, err = job.communicate(timeout=300)
    assert job.returncode == 0, err
    assert {line.split("]")[0] for line in out.splitlines()} == {"[worker 0"}
    return out


def horovodrun(*flags):
    if not importlib.util.find_spec("horovod"):
        pytest.skip("Horovod is not installed; docs/many-machines.md says how it is built")
    command = shlex.join(map(str, [sys.executable, ROOT / "recognition/train.py", *flags]))
    return subprocess.run([Path(sys.executable).with_name("horovodrun"), "--gloo", "-np", "2", "sh", "-c", command],
                          text=True, capture_output=True)


def params(folder, name, epoch=1):
    """All arrays of a checkpoint: name -> NumPy array."""
    _, arg_params, aux_params = checkpoint.load(f"{folder / name / 'model'},{epoch}")
    return {name: array.asnumpy() for name, array in {**arg_params, **aux_params}.items()}


def assert_equal(found, expected, least):
    """Equal within rounding, and not because nothing was learnt. least: how many arrays there are at least."""
    assert found.keys() == expected.keys() and len(found) >= least
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6 * max(1, np.abs(array).max()), err_msg=name)


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):  # noqa: F811
    """What one worker trains with the whole batch: (flags, what it printed, its arrays, those at the start)."""
    root = tmp_path_factory.mktemp("whole")
    flags = [*PLAIN, "--dataset", dataset, "--max-steps", 5, "--lr-steps", 4, "--frequent", 5]
    done = run(*flags, "--per-batch-size", 8, "--models-root", root)
    assert done.returncode == 0, done.stderr
    return flags, done.stdout, params(root, f"s4-arcface-{dataset.name}")


def loss(output):
    """The loss and the accuracy of the last line of progress."""
    return next(line for line in reversed(output.splitlines()) if "loss=" in line).split("\t")[2:4]


class TestTraining:
    def test_two_workers_of_half_the_batch_are_one_of_the_whole(self, whole, dataset, tmp_path):  # noqa: F811
        flags, printed, expected = whole
        output = finish(launch(*flags, "--per-batch-size", 4, "--models-root", tmp_path, "--kvstore", "dist_sync"))
        assert_equal(params(tmp_path, f"s4-arcface-{dataset.name}"), expected, 15)
        assert loss(output) == loss(printed) and "4 steps of 8 images an epoch on cpu(0) of each of 2 workers" in output

    def test_the_same_with_horovod(self, whole, dataset, tmp_path):  # noqa: F811
        flags, printed, expected = whole
        done = horovodrun(*flags, "--per-batch-size", 4, "--models-root", tmp_path, "--kvstore", "horovod")
        assert done.returncode == 0, done.stderr
        assert_equal(params(tmp_path, f"s4-arcface-{dataset.name}"), expected, 15)
        assert loss(done.stdout) == loss(printed)

    def test_two_workers_are_two_devices(self, dataset, tmp_path):  # noqa: F811
        """With batch norm and a head that has states, of both of which the means are saved."""
        name = f"y1-adaface-{dataset.name}"
        flags = [*SMALL, "--dataset", dataset, "--loss", "adaface", "--loss-s", "16", "--lr", "0.01", "--max-steps", 3,
                 "--per-batch-size", 4]
        done = run(*flags, "--models-root", tmp_path / "devices", "--devices", "cpu,cpu")
        assert done.returncode == 0, done.stderr
        finish(launch(*flags, "--models-root", tmp_path / "workers", "--kvstore", "dist_device_sync", servers=1))
        assert_equal(params(tmp_path / "workers", name), params(tmp_path / "devices", name), 100)

    def test_a_split_head_is_a_plain_one(self, whole, dataset, tmp_path):  # noqa: F811
        flags, _, _ = whole
        name = f"s4-arcface-{dataset.name}"
        done = run(*flags, "--per-batch-size", 8, "--models-root", tmp_path / "start", "--max-steps", 1)
        assert done.returncode == 0, done.stderr
        flags = [*flags, "--pretrained", tmp_path / "start" / name / "model", "--max-steps", 2]
        done = run(*flags, "--per-batch-size", 8, "--models-root", tmp_path / "plain")
        assert done.returncode == 0, done.stderr
        finish(launch(*flags, "--per-batch-size", 2, "--devices", "cpu,cpu", "--class-parallel", "--models-root",
                      tmp_path / "split", "--kvstore", "dist_sync", servers=1))
        assert_equal(params(tmp_path / "split", name), params(tmp_path / "plain", name), 15)


def process_of(job, worker):
    """The number of a worker's process."""
    roles = children(job.pid)
    for number in [child for role in roles for child in children(role)]:
        if f"DMLC_WORKER_ID={worker}" in Path(f"/proc/{number}/environ").read_text().split("\0"):
            return number


def children(number):
    return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def wait_for(job, condition):
    while not condition():
        assert job.poll() is None, job.communicate()
        time.sleep(0.05)


def test_a_job_that_is_stopped_and_one_whose_worker_is_killed_go_on(dataset, tmp_path):  # noqa: F811
    """To the same bits as without Ctrl-C, SIGKILL of a worker, and the launcher's restart; with dropout and states."""
    folder = tmp_path / f"y1-adaface-{dataset.name}"
    flags = [*SMALL, "--net-output", "F", "--dataset", dataset, "--loss", "adaface", "--loss-s", "16", "--lr", "0.002",
             "--per-batch-size", 4, "--verbose", 1000, "--state-every", 2, "--kvstore", "dist_sync"]

    def latest():
        return max([step for step, _ in find_states(folder / "model")], default=0)

    job = launch(*flags, "--models-root", tmp_path, servers=1)
    wait_for(job, latest)
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=120)
    stopped = latest()
    assert job.returncode == 130 and f"stopped after step {stopped}; --resume goes on" in out and "stopped" in err

    flags += ["--max-steps", stopped + 20]
    job = launch(*flags, "--models-root", tmp_path, "--resume", servers=1, restarts=1)
    wait_for(job, lambda: latest() >= stopped + 2)
    os.kill(process_of(job, 1), signal.SIGKILL)
    out, err = job.communicate(timeout=300)
    assert job.returncode == 0, err
    assert "warning: worker 1 was ended by signal 9; all others were stopped; goes on with --resume" in err
    assert f"goes on after step {stopped}" in out and out.count("goes on after step") == 2
    finish(launch(*flags, "--models-root", tmp_path / "whole", servers=1))
    expected, found = params(tmp_path / "whole", folder.name), params(tmp_path, folder.name)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], name)
