"""SHA256SUMS: read by sha256sum itself, and right at every moment of a replacement."""
import os
import shutil
import subprocess

import numpy as np
import pytest

from common import checkpoint, files, sums
from common.errors import DataError
from common.mxnet_setup import mx

SYMBOL = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, no_bias=True, name="fc1")


def save(folder, value, epoch=1):
    checkpoint.save(folder / "model", epoch, SYMBOL, {"fc1_weight": mx.nd.full((3, 4), value)}, {})


def value(folder):
    _, arguments, _ = checkpoint.load(f"{folder}/model,1")
    return arguments["fc1_weight"].asnumpy()[0, 0]


def test_sha256sum_agrees(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    save(tmp_path, 3, epoch=2)
    done = subprocess.run(["sha256sum", "--strict", "-c", sums.NAME], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["model-0001.params: OK", "model-0002.params: OK", "model-symbol.json: OK"]


@pytest.mark.parametrize("name", ["model-0001.params", "model-symbol.json"])
def test_a_flipped_bit_is_found(tmp_path, name):
    save(tmp_path, 1)
    data = bytearray((tmp_path / name).read_bytes())
    if name.endswith("params"):
        data[data.index(np.float32(1).tobytes()) + 3] ^= 1  # a number, where nothing else could show it
    else:
        data = data.replace(b'"num_hidden": "3"', b'"num_hidden": "4"')
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name}: damaged, or replaced by something else: .* {sums.NAME}"):
        checkpoint.load(f"{tmp_path}/model,1")


def test_models_from_elsewhere_have_no_hash(tmp_path):
    save(tmp_path, 1)
    (tmp_path / sums.NAME).unlink()
    assert value(tmp_path) == 1


def test_a_line_removed(tmp_path):
    save(tmp_path, 1)
    other = tmp_path / "other"
    save(other, 5)
    shutil.copy(other / "model-0001.params", tmp_path)
    sums.forget(tmp_path, ["model-0001.params"])
    assert value(tmp_path) == 5


@pytest.mark.parametrize("known", [True, False])
def test_whenever_it_is_cut_short_the_model_is_whole(tmp_path, monkeypatch, known):
    """The save is broken off before each of its renames in turn, as by a kill; known: the old file's hash is."""
    real, outcomes = os.replace, []
    for allowed in range(6):
        folder, calls = tmp_path / str(allowed), []
        save(folder, 1)
        if not known:
            (folder / sums.NAME).unlink()

        def replace(source, target, calls=calls, allowed=allowed):
            calls.append(target)
            if len(calls) > allowed:
                raise KeyboardInterrupt
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        try:
            save(folder, 2)
        except KeyboardInterrupt:
            pass
        monkeypatch.setattr(os, "replace", real)
        outcomes.append(value(folder))
    assert outcomes == [1, 1, 1, 2, 2, 2]


def test_removed_checkpoints_are_forgotten(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, epoch=2)
    checkpoint.remove(tmp_path / "model", 1)
    assert sorted(sums.read(tmp_path)) == ["model-0002.params", "model-symbol.json"]


def test_a_file_of_anything_harms_nothing(tmp_path):
    save(tmp_path, 1)
    files.write_bytes(tmp_path / sums.NAME, b"\xff\xfe no sums\n\n")
    assert value(tmp_path) == 1


def test_hashes_of_files_that_are_moved_go_with_them(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(name.encode())
        sums.settle(tmp_path / name, {name: sums.hash_bytes(name.encode())})
    hashes = sums.take(tmp_path / "a")
    assert hashes == {"a": sums.hash_bytes(b"a")} and not (tmp_path / "a" / sums.NAME).exists()
    sums.announce(tmp_path / "b", hashes)
    (tmp_path / "a" / "a").rename(tmp_path / "b" / "a")
    sums.settle(tmp_path / "b", hashes)
    assert set(sums.read(tmp_path / "b")) == {"a", "b"}
    sums.announce(tmp_path / "a", {})
    assert not (tmp_path / "a" / sums.NAME).exists()
