"""Devices as a user types them."""
import pytest

from common.devices import get_devices
from common.errors import UserError
from common.mxnet_setup import mx


@pytest.fixture
def gpus(monkeypatch):
    """A machine with two GPUs, as far as MXNet says."""
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 2)


@pytest.fixture
def no_gpus(monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)


@pytest.mark.parametrize("text, expected", [
    ("cpu", [mx.cpu(0)]), ("cpu,cpu", [mx.cpu(0), mx.cpu(1)]), (" CPU , cpu", [mx.cpu(0), mx.cpu(1)]),
    ("cpu0", [mx.cpu(0)]), ("cpu7", [mx.cpu(0)]), ("cpu0,cpu0", [mx.cpu(0), mx.cpu(1)]), ("cpu(0)", [mx.cpu(0)]),
    ("cpu,", [mx.cpu(0)]), ("", [mx.cpu(0)]), (" , ", [mx.cpu(0)]), ("cpu,cpu,cpu", [mx.cpu(0), mx.cpu(1), mx.cpu(2)]),
])
def test_processors(no_gpus, text, expected):
    assert get_devices(text) == expected


@pytest.mark.parametrize("text, expected", [
    ("gpu0", [mx.gpu(0)]), ("gpu0,gpu1", [mx.gpu(0), mx.gpu(1)]), ("1,0", [mx.gpu(1), mx.gpu(0)]), ("0", [mx.gpu(0)]),
    ("GPU1", [mx.gpu(1)]), ("gpu(1)", [mx.gpu(1)]), ("", [mx.gpu(0), mx.gpu(1)]), ("cpu", [mx.cpu(0)]),
    ("gpu01", [mx.gpu(1)]),
])
def test_gpus(gpus, text, expected):
    assert get_devices(text) == expected


def test_contexts_as_mxnet_writes_them(gpus):
    for devices in ([mx.cpu(0), mx.cpu(1)], [mx.gpu(1), mx.gpu(0)]):
        assert get_devices(",".join(map(str, devices))) == devices


@pytest.mark.parametrize("text, message", [
    ("gpu2", "device 'gpu2': this machine shows MXNet 2 GPU"), ("gpu0,17", "device '17': this machine shows"),
    ("gpu0,gpu0", "--devices gpu0,gpu0: a GPU is named twice"), ("0,gpu0", "a GPU is named twice"),
    ("tpu", "unknown device 'tpu'; expected names such as cpu or gpu0"), ("gpu", "unknown device 'gpu'"),
    ("-1", "unknown device '-1'"), ("cpux", "unknown device 'cpux'"), ("cpu cpu", "unknown device 'cpu cpu'"),
    ("gpu0;gpu1", "unknown device 'gpu0;gpu1'"),
])
def test_refusals(gpus, text, message):
    with pytest.raises(UserError, match=message) as refused:
        get_devices(text)
    assert "\n" not in str(refused.value)


def test_a_gpu_where_there_is_none(no_gpus):
    with pytest.raises(UserError, match=r"shows MXNet 0 GPU\(s\); use --devices cpu"):
        get_devices("gpu0")
