"""State files: what is written comes back, whatever is damaged is named, and the one before it is used."""
import hashlib
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import DataError, UserError
from common.mxnet_setup import mx
from recognition import training_state

NUMBERS = {"step": 7, "metrics": [[0.1, 1 / 3]], "reader": {"epoch": 2, "waiting": [[1, 2, 3]]}, "text": "Ünïcode\n人"}
ARRAYS = {"arg:fc1_weight": np.arange(12, dtype=np.float32).reshape(3, 4) / 7, "mom:fc1_weight": -np.ones((3, 4), "f4"),
          "device1/aux:bn_moving_var": np.full(5, 1e-30, np.float32)}


def write(path, numbers=None, arrays=None):
    training_state.write_state(path, numbers or NUMBERS, {name: mx.nd.array(array, dtype=array.dtype) for name, array
                                                          in (arrays or ARRAYS).items()})


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_what_is_written_comes_back(tmp_path):
    path = training_state.state_path(tmp_path / "model", 7)
    write(path)
    state = training_state.read_state(path)
    assert state.numbers == dict(NUMBERS, version=training_state.VERSION)
    same(state.arrays, ARRAYS)


def test_the_format(tmp_path):
    """A line of JSON that fills up 64 bytes, arrays that MXNet itself can read, the SHA-256 of all that."""
    path = tmp_path / "model-00000007.state"
    write(path)
    data = path.read_bytes()
    head, _, rest = data.partition(b"\n")
    assert json.loads(head)["text"] == NUMBERS["text"] and (len(head) + 1) % 64 == 0
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    (tmp_path / "arrays").write_bytes(rest[:-32])
    same({name: array.asnumpy() for name, array in mx.nd.load(str(tmp_path / "arrays")).items()}, ARRAYS)


@settings(max_examples=30, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), lambda inner:
                    st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8),
       hnp.arrays(st.sampled_from(["f4", "i8", "u1"]), hnp.array_shapes(min_side=1)))
def test_any_numbers_and_arrays(tmp_path_factory, numbers, array):
    path = tmp_path_factory.mktemp("states") / "model-00000001.state"
    write(path, {"any": numbers}, {"arg:any": array})
    state = training_state.read_state(path)
    assert state.numbers["any"] == numbers
    same(state.arrays, {"arg:any": array})


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255), cut=st.booleans())
def test_every_damage_is_found(tmp_path_factory, place, change, cut):
    path = tmp_path_factory.mktemp("states") / "model-00000001.state"
    write(path)
    data = bytearray(path.read_bytes())
    place = int(place * len(data))
    if cut:
        del data[place:]
    else:
        data[place] ^= change
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: damaged or cut short: its SHA-256"):
        training_state.read_state(path)


def hashed(body):
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize("body", [b"", b"\n", b"no json\n", b"[1]\n", b'{"step": 1}\n'])
def test_whole_files_that_are_no_states(tmp_path, body):
    path = tmp_path / "model-00000001.state"
    path.write_bytes(hashed(body))
    with pytest.raises(DataError, match="not the state of a training"):
        training_state.read_state(path)


def test_arrays_that_are_none(tmp_path):
    path = tmp_path / "model-00000001.state"
    path.write_bytes(hashed(b'{"version": 1}\n' + b"x" * 100))
    with pytest.raises(DataError, match="not a parameter file"):
        training_state.read_state(path)


def test_a_newer_version_says_so_and_nothing_is_passed_over(tmp_path, monkeypatch):
    for step, version in ((1, 1), (2, 9)):
        monkeypatch.setattr(training_state, "VERSION", version)
        write(training_state.state_path(tmp_path / "model", step))
    monkeypatch.setattr(training_state, "VERSION", 1)
    with pytest.raises(training_state.NewerState, match="00000002.state.*state version 9, this one knows 1.*update"):
        training_state.load_latest(tmp_path / "model")


class TestLatest:
    def states(self, folder, *steps):
        for step in steps:
            write(training_state.state_path(folder / "model", step), {"step": step})

    def test_none(self, tmp_path):
        assert training_state.load_latest(tmp_path / "model") == (None, [])
        assert training_state.load_latest(tmp_path / "nowhere" / "model") == (None, [])

    def test_by_step_not_by_name(self, tmp_path):
        self.states(tmp_path, 5, 99_999_999, 100_000_000)
        (tmp_path / "model-best-00000009.state").write_bytes(b"")
        (tmp_path / ".model-00000300.state.abc.tmp").write_bytes(b"")
        state, lines = training_state.load_latest(tmp_path / "model")
        assert state.numbers["step"] == 100_000_000 and not lines

    def test_damaged_ones_are_named(self, tmp_path):
        self.states(tmp_path, 1, 2, 3)
        for step in (2, 3):
            path = training_state.state_path(tmp_path / "model", step)
            path.write_bytes(path.read_bytes()[:-1])
        state, lines = training_state.load_latest(tmp_path / "model")
        assert state.numbers["step"] == 1
        assert ["00000003.state" in lines[0], "00000002.state" in lines[1], len(lines)] == [True, True, 2]
        assert all("the one before it is used" in line for line in lines)

    def test_all_damaged(self, tmp_path):
        self.states(tmp_path, 1, 2)
        for path in tmp_path.iterdir():
            path.write_bytes(b"")
        with pytest.raises(UserError, match="none of the 2 saved states in .* is whole, the last is model-00000002"):
            training_state.load_latest(tmp_path / "model")

    @pytest.mark.parametrize("step, keep, left", [(5, 2, [4, 5]), (5, 9, [1, 2, 4, 5]), (3, 2, [1, 2]), (4, 1, [4])])
    def test_old_ones_are_removed(self, tmp_path, step, keep, left):
        self.states(tmp_path, 1, 2, 4, 5)
        (tmp_path / "model-0001.params").write_bytes(b"")
        training_state.remove_old(tmp_path / "model", step, keep)
        assert [number for number, _ in training_state.find_states(tmp_path / "model")] == left
        assert (tmp_path / "model-0001.params").exists()
