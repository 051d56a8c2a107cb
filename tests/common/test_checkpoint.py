"""Checkpoints: the form MXNet reads and writes, and what is said of a damaged one."""
import json
import os
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import reference_graph as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from common import checkpoint
from common.errors import DataError, UserError
from common.mxnet_setup import mx
from symbols import get_symbol

ROOT = Path(__file__).resolve().parents[2]
DTYPES = ["float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool"]
SHAPE = (1, 3, 8, 8)


def small_symbol(num_filter=2, emb_size=4):
    """A network of four layers with every kind of parameter; 22 to 30 numbers in it."""
    body = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=num_filter, kernel=(7, 7), name="conv")
    body = mx.sym.LeakyReLU(mx.sym.BatchNorm(body, name="bn"), act_type="prelu", name="relu")
    return mx.sym.BatchNorm(mx.sym.FullyConnected(body, num_hidden=emb_size, name="pre_fc1"), name="fc1")


@pytest.fixture
def model(tmp_path):
    """A saved checkpoint: (prefix, symbol, dicts of NDArray)."""
    symbol = small_symbol()
    params = reference.ndarrays(reference.draw(symbol, SHAPE))
    checkpoint.save(str(tmp_path / "model"), 1, symbol, *params)
    return str(tmp_path / "model"), symbol, params


def _equal(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name].asnumpy(), array.asnumpy())


def _one_line(refused, path):
    message = str(refused.value)
    assert str(path) in message and "\n" not in message, message
    return message


class TestRoundTrip:
    def test_mxnet_reads_what_is_saved(self, model):
        prefix, symbol, params = model
        found, arguments, states = mx.model.load_checkpoint(prefix, 1)
        assert found.tojson() == symbol.tojson()
        _equal(arguments, params[0])
        _equal(states, params[1])

    def test_what_mxnet_saves_is_read(self, model):
        prefix, symbol, params = model
        mx.model.save_checkpoint(prefix, 12, symbol, *params)
        found, arguments, states = checkpoint.load(f"{prefix},12")
        assert found.tojson() == symbol.tojson()
        _equal(arguments, params[0])
        _equal(states, params[1])

    def test_files_are_byte_for_byte_mxnet_s(self, tmp_path):
        symbol = get_symbol("y1")
        params = reference.ndarrays(reference.draw(symbol, (1, 3, 112, 112)))
        checkpoint.save(str(tmp_path / "ours"), 7, symbol, *params)
        mx.model.save_checkpoint(str(tmp_path / "theirs"), 7, symbol, *params)
        for end in ("-symbol.json", "-0007.params"):
            assert (tmp_path / f"ours{end}").read_bytes() == (tmp_path / f"theirs{end}").read_bytes()

    def test_arrays_of_other_devices_and_types(self, tmp_path):
        symbol = mx.sym.Variable("data")
        arrays = {dtype: mx.nd.array(np.array([[0, 1], [2, 3]]), mx.cpu(1), dtype=dtype) for dtype in DTYPES}
        checkpoint.save(str(tmp_path / "model"), 0, symbol, arrays, {})
        assert {name: array.context for name, array in mx.nd.load(str(tmp_path / "model-0000.params")).items()} == {
            f"arg:{dtype}": mx.cpu(0) for dtype in DTYPES}
        _equal(checkpoint.load(f"{tmp_path}/model,0")[1], arrays)

    def test_large_epochs_and_odd_prefixes(self, tmp_path, model):
        _, symbol, params = model
        prefix = str(tmp_path / "new folder, v1,2" / "mödel[1]*?")
        checkpoint.save(prefix, 123456, symbol, *params)
        _equal(checkpoint.load(f"{prefix},123456")[1], params[0])
        assert checkpoint.find_epochs(prefix) == [123456]
        with pytest.raises(UserError, match="epochs found for this prefix: 123456$"):
            checkpoint.load(f"{prefix},1")

    @settings(deadline=None, max_examples=60, derandomize=True)
    @given(st.dictionaries(st.text(max_size=12), st.tuples(
        st.sampled_from(DTYPES), st.lists(st.integers(1, 4), min_size=1, max_size=6)), max_size=5),
           st.integers(0, 2**32 - 1))
    def test_any_file_of_mxnet_s_is_read(self, table, seed):
        random = np.random.RandomState(seed)
        arrays = {name: mx.nd.array((random.standard_normal(shape) * 100).astype(dtype), dtype=dtype)
                  for name, (dtype, shape) in table.items() if "\0" not in name}
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/arrays"
            mx.nd.save(path, arrays)
            found = checkpoint.read_arrays(path)
            expected = mx.nd.load(path)
        assert set(found) == set(arrays) == set(expected or {})
        for name, array in found.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name].asnumpy())


def _file(arrays, names):
    """A file of arrays from their bytes."""
    names = b"".join(struct.pack("<Q", len(name)) + name for name in names)
    return struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays) + struct.pack("<Q", 2) + names


def _array(form, values):
    """An array as an MXNet of before 0.12 wrote it ('V1': from 0.11 on, 'legacy': before)."""
    if form == "V1":
        head = struct.pack(f"<Ii{values.ndim}q", 0xF993FAC8, values.ndim, *values.shape)
    else:
        head = struct.pack(f"<I{values.ndim}I", values.ndim, *values.shape)
    kind = dict(f=0, d=1, i=4)[values.dtype.char]
    return head + struct.pack("<iii", 1, 0, kind) + values.tobytes()


class TestOlderForms:
    @pytest.mark.parametrize("form", ["V1", "legacy"])
    def test_against_mxnet(self, tmp_path, form):
        values = [np.arange(6, dtype=np.float32).reshape(2, 3), np.linspace(0, 1, 4).reshape(1, 2, 1, 2)]
        path = tmp_path / "old"
        path.write_bytes(_file([_array(form, value) for value in values], [b"arg:a", b"aux:b"]))
        expected, found = mx.nd.load(str(path)), checkpoint.read_arrays(path)
        for name, value in zip(("arg:a", "aux:b"), values):
            np.testing.assert_array_equal(found[name], value)
            np.testing.assert_array_equal(expected[name].asnumpy(), value)
            assert found[name].dtype == value.dtype
        arguments, states = checkpoint.load_params(path)
        assert list(arguments) == ["a"] and list(states) == ["b"]

    def test_written_by_numpy_shaped_mxnet(self, tmp_path):
        """V3 can hold a number without dimensions, which in V2 is an array without a shape."""
        path = tmp_path / "v3"
        with mx.util.np_shape(True):
            arrays = dict(a=mx.nd.ones((2, 3)), s=mx.nd.ones(()) * 3, b=mx.nd.ones((1,)) * 5)
            mx.nd.save(str(path), arrays)
        found = checkpoint.read_arrays(path)
        assert {name: array.shape for name, array in found.items()} == dict(a=(2, 3), s=(), b=(1,))
        assert found["s"] == 3 and found["b"] == [5] and found["a"].sum() == 6

    def test_arrays_without_a_shape(self, tmp_path):
        path = tmp_path / "none"
        path.write_bytes(_file([struct.pack("<Iii", 0xF993FAC9, 0, 0), struct.pack("<I", 0)], [b"v2", b"legacy"]))
        assert {name: array.size for name, array in checkpoint.read_arrays(path).items()} == dict(v2=0, legacy=0)

    def test_public_checkpoint(self, face_data):
        path = face_data / "models" / "y1" / "model-0000.params"
        expected, found = mx.nd.load(str(path)), checkpoint.read_arrays(path)
        assert set(found) == set(expected)
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name].asnumpy())


class TestDamage:
    @pytest.fixture
    def small(self, tmp_path):
        """A parameter file of three arrays, in each of the three forms."""
        values = np.arange(6, dtype=np.float32).reshape(2, 3)
        arrays = [_array("V1", values), _array("legacy", values.astype(np.int32))]
        path = tmp_path / "small.params"
        mx.nd.save(str(path), {"x": mx.nd.array(values)})
        arrays.append(path.read_bytes()[24:-17])
        data = _file(arrays, [b"arg:a", b"aux:b", b"arg:c"])
        data = data.replace(struct.pack("<Q", 2) + struct.pack("<Q", 5), struct.pack("<QQ", 3, 5))
        path.write_bytes(data)
        assert len(checkpoint.read_arrays(path)) == 3
        return path, data

    def test_cut_off_anywhere(self, small):
        path, data = small
        for length in range(len(data)):
            path.write_bytes(data[:length])
            with pytest.raises(DataError, match="truncated|damaged") as refused:
                checkpoint.read_arrays(path)
            assert f"{length}" in _one_line(refused, path)

    def test_every_byte_changed(self, small):
        """Arrays, or a DataError; and never much more memory than the file takes."""
        path, data = small
        tracemalloc.start()
        try:
            for position in range(len(data)):
                for value in (0, 0x7F, 0xFF):
                    path.write_bytes(data[:position] + bytes([value]) + data[position + 1:])
                    self._read(path)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()

    @settings(deadline=None, max_examples=300, derandomize=True)
    @given(st.data())
    def test_several_bytes_changed(self, small_data, damage):
        folder, data = small_data
        path, changed = folder / "damaged", bytearray(data)
        for _ in range(damage.draw(st.integers(1, 4))):
            start = damage.draw(st.integers(0, len(changed)))
            changed[start:start + damage.draw(st.integers(0, 8))] = damage.draw(st.binary(max_size=9))
        path.write_bytes(changed)
        self._read(path)

    @pytest.fixture(scope="class")
    def small_data(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("damage")
        path = folder / "sound"
        mx.nd.save(str(path), {"arg:a": mx.nd.ones((2, 2)), "aux:b": mx.nd.ones((3,), dtype="int8")})
        return folder, path.read_bytes()

    @staticmethod
    def _read(path):
        try:
            arguments, states = checkpoint.load_params(path)
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert all(isinstance(array, mx.nd.NDArray) for array in [*arguments.values(), *states.values()])

    @pytest.mark.parametrize("shape", [(2**62, 2**62), (0, 2**62, 2**62), (-1, 5), (2**31, 2**31), (0, 3)])
    def test_impossible_shapes(self, tmp_path, shape):
        array = struct.pack(f"<Ii{len(shape)}q", 0xF993FAC8, len(shape), *shape) + struct.pack("<iii", 1, 0, 0)
        path = tmp_path / "shape"
        path.write_bytes(_file([array], [b"arg:a"]) + b"\0" * 64)
        with pytest.raises(DataError) as refused:
            checkpoint.read_arrays(path)
        _one_line(refused, path)

    def test_impossible_counts(self, tmp_path):
        path = tmp_path / "count"
        for data in (struct.pack("<QQQ", 0x112, 0, 2**63), struct.pack("<QQQQQ", 0x112, 0, 0, 1, 2**63)):
            path.write_bytes(data)
            with pytest.raises(DataError, match=f"damaged: {2**63} ") as refused:
                checkpoint.read_arrays(path)
            _one_line(refused, path)

    def test_something_behind_the_end(self, small):
        path, data = small
        path.write_bytes(data + b"more")
        with pytest.raises(DataError, match=f"its arrays end at byte {len(data)}, the file at {len(data) + 4}"):
            checkpoint.read_arrays(path)

    def test_other_files(self, tmp_path):
        path = tmp_path / "other"
        path.write_bytes(b"PK\3\4" + b"\0" * 100)
        with pytest.raises(DataError, match="not a parameter file: begins with 0x4034b50, expected 0x112"):
            checkpoint.read_arrays(path)
        mx.nd.save(str(path), {"arg:s": mx.nd.ones((2, 2)).tostype("row_sparse")})
        with pytest.raises(DataError, match="a sparse array"):
            checkpoint.read_arrays(path)
        mx.nd.save(str(path), [mx.nd.ones((2, 2))])
        with pytest.raises(DataError, match="0 names for 1 arrays"):
            checkpoint.read_arrays(path)
        bfloat16 = struct.pack("<IiqiiiH", 0xF993FAC8, 1, 1, 1, 0, 12, 0x3F80)
        path.write_bytes(_file([bfloat16], [b"arg:b"]))
        with pytest.raises(DataError, match="numbers of type 12"):
            checkpoint.read_arrays(path)
        with pytest.raises(UserError, match="cannot be read: Is a directory"):
            checkpoint.read_arrays(tmp_path)

    @pytest.mark.parametrize("name", ["weight", "arg:", "ARG:a", ":a", ""])
    def test_wrong_names(self, tmp_path, name):
        mx.nd.save(str(tmp_path / "names"), {name: mx.nd.ones((2,))})
        with pytest.raises(DataError, match=f"array '{name}': expected a name that begins with arg: or aux:"):
            checkpoint.load_params(tmp_path / "names")

    def test_two_arrays_of_one_name(self, tmp_path):
        values = np.ones((2, 2), np.float32)
        path = tmp_path / "twice"
        path.write_bytes(_file([_array("V1", values)] * 2, [b"arg:a", b"arg:a"]))
        with pytest.raises(DataError, match="1 names for 2 arrays"):
            checkpoint.read_arrays(path)


class TestNames:
    @pytest.mark.parametrize("text, expected", [
        ("m,1", ("m", 1)), ("./models/r100, 12 ", ("./models/r100", 12)), ("a,b,0003", ("a,b", 3)), ("/x y/m,0", (
            "/x y/m", 0))])
    def test_parse(self, text, expected):
        assert checkpoint.parse_model(text) == expected

    @pytest.mark.parametrize("text", [
        "", "m", ",1", "m,", "m,-1", "m,x", "m,1.5", "m;1", "m,²", "m,1,", "m," + "9" * 5000])
    def test_no_model(self, text):
        with pytest.raises(UserError, match="expected PREFIX,EPOCH"):
            checkpoint.parse_model(text)

    def test_epochs_of_this_prefix_alone(self, tmp_path):
        for name in ("m-0001", "m-0020", "m-12345", "m-arcface-0003", "m-0001-0004", "mm-0005", "m-06", "m-00007",
                     "m-0008.params", "m-000x"):
            (tmp_path / f"{name}.params").touch()
        assert checkpoint.find_epochs(tmp_path / "m") == [1, 20, 12345]
        assert all(checkpoint.params_path(tmp_path / "m", epoch).is_file() for epoch in (1, 20, 12345))
        assert checkpoint.find_epochs(tmp_path / "none") == checkpoint.find_epochs(tmp_path / "none" / "m") == []

    def test_unknown_epoch(self, model):
        prefix, symbol, params = model
        checkpoint.save(prefix, 14, symbol, *params)
        with pytest.raises(UserError, match=r"no file .*model-0002\.params; epochs found for this prefix: 1, 14$"):
            checkpoint.load(f"{prefix},2")
        with pytest.raises(UserError, match="epochs found for this prefix: none$"):
            checkpoint.load(f"{prefix}x,1")
        with pytest.raises(UserError, match="no file"):
            checkpoint.load("n" * 5000 + ",1")
        with pytest.raises(UserError, match="no file"):
            checkpoint.load(f"{prefix}-0001.params/model,1")


class TestSymbolFile:
    def test_missing(self, model):
        prefix, *_ = model
        os.remove(f"{prefix}-symbol.json")
        with pytest.raises(UserError, match="cannot be read: No such file") as refused:
            checkpoint.load(f"{prefix},1")
        _one_line(refused, f"{prefix}-symbol.json")

    @pytest.mark.parametrize("text", [
        "", "{", "[]", "null", "{}", '{"nodes": []}', '{"nodes": [1], "heads": []}',
        '{"nodes": [1], "heads": [[0, 0, 0]]}', '{"nodes": {"a": 1}, "heads": [[0, 0]]}',
        '{"nodes": "text", "heads": "text"}', "[" * 100000, "\udcff\0"])
    def test_no_symbol(self, tmp_path, text):
        path = tmp_path / "symbol.json"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(DataError) as refused:
            checkpoint.load_symbol(path)
        _one_line(refused, path)

    @pytest.mark.parametrize("change, message", [
        (lambda graph: graph["nodes"][-1]["inputs"][0].__setitem__(1, 7), "node 'pre_fc1' has no output 7"),
        (lambda graph: graph["nodes"][-1]["inputs"][0].__setitem__(0, 10**6), "cannot read this symbol"),
        (lambda graph: graph["nodes"][3]["inputs"][0].__setitem__(0, graph["heads"][0][0]), "cannot read this symbol"),
        (lambda graph: graph["heads"][0].__setitem__(1, 3), "node 'fc1' has no output 3"),
        (lambda graph: graph["heads"][0].__setitem__(0, 10**6), "cannot read this symbol"),
        (lambda graph: graph["nodes"][-1].__setitem__("inputs", []), "node 'fc1' has no inputs"),
        (lambda graph: graph["nodes"][-1].__setitem__("op", "BatchNorn"), "Operator BatchNorn is not registered"),
        (lambda graph: graph["nodes"][3]["attrs"].__setitem__("kernel", "(7"), "cannot read this symbol"),
    ])
    def test_graphs_that_lead_nowhere(self, tmp_path, change, message):
        """MXNet itself takes some of these, and crashes when the graph is used."""
        graph = json.loads(small_symbol().tojson())
        change(graph)
        path = tmp_path / "symbol.json"
        path.write_text(json.dumps(graph))
        with pytest.raises(DataError, match=message) as refused:
            checkpoint.load_symbol(path)
        _one_line(refused, path)

    def test_cut_off_anywhere(self, tmp_path):
        text, path = small_symbol().tojson(), tmp_path / "symbol.json"
        for length in range(0, len(text) - 1, 7):
            path.write_text(text[:length])
            with pytest.raises(DataError, match="not a symbol file"):
                checkpoint.load_symbol(path)

    @settings(deadline=None, max_examples=200, derandomize=True)
    @given(st.integers(0, 10**6), st.sampled_from(list(range(256)) + list(b'0123456789-[]{},"') * 10))
    def test_a_byte_changed(self, position, value):
        """A symbol whose outputs can be named and whose shapes can be asked for, or a DataError."""
        data = bytearray(small_symbol().tojson().encode())
        data[position % len(data)] = value
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "symbol.json")
            path.write_bytes(data)
            try:
                symbol = checkpoint.load_symbol(path)
            except DataError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                return
        assert symbol.get_internals().list_outputs() and symbol.list_outputs()
        try:
            symbol.infer_shape_partial(data=SHAPE)
        except mx.base.MXNetError:
            pass  # a sound graph of another network

    def test_missing_arrays(self, model):
        prefix, symbol, (arguments, states) = model
        checkpoint.save(prefix, 2, symbol, {"conv_weight": arguments["conv_weight"]}, states)
        with pytest.raises(DataError, match="8 arrays of the symbol are missing, the first is 'conv_bias'") as refused:
            checkpoint.load(f"{prefix},2")
        _one_line(refused, f"{prefix}-0002.params")
        checkpoint.save(prefix, 3, symbol, arguments, {})
        with pytest.raises(DataError, match="4 arrays of the symbol are missing, the first is 'bn_moving_mean'"):
            checkpoint.load(f"{prefix},3")


class TestSaving:
    def _whole(self, model):
        prefix, symbol, params = model
        assert sorted(os.listdir(os.path.dirname(prefix))) == ["SHA256SUMS", "model-0001.params", "model-symbol.json"]
        _equal(checkpoint.load(f"{prefix},1")[1], params[0])

    def test_failure_leaves_the_old_file(self, model, monkeypatch):
        prefix, symbol, (arguments, states) = model

        def refuse(source, target):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(UserError, match="cannot be written: No space left on device") as refused:
            checkpoint.save(prefix, 1, symbol, {name: array * 0 for name, array in arguments.items()}, states)
        _one_line(refused, os.path.dirname(prefix))
        monkeypatch.undo()
        self._whole(model)

    def test_failure_while_arrays_are_fetched(self, model):
        """An error of MXNet's shows when an array's values are asked for: in the midst of writing."""
        prefix, symbol, (arguments, states) = model
        broken = mx.nd.random.normal(scale=-1, shape=(4,))
        with pytest.raises(mx.base.MXNetError):
            checkpoint.save(prefix, 1, symbol, dict(arguments, pre_fc1_bias=broken), states)
        self._whole(model)

    def test_folder_that_cannot_be(self, model):
        prefix, symbol, params = model
        with pytest.raises(UserError, match="cannot be written") as refused:
            checkpoint.save(f"{prefix}-0001.params/model", 1, symbol, *params)
        _one_line(refused, prefix)
        self._whole(model)

    def test_full_disk(self, tmp_path):
        """The last bytes do not fit: a file that is cut off must not be there afterwards."""
        symbol, prefix = small_symbol(num_filter=200), str(tmp_path / "model")
        checkpoint.save(prefix, 1, symbol, *reference.ndarrays(reference.draw(symbol, SHAPE)))
        done = subprocess.run(
            [sys.executable, "-c", _FULL_DISK, prefix, str(os.path.getsize(f"{prefix}-0001.params"))],
            env=dict(os.environ, PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.decode() == f"{prefix}-0003.params: cannot be written: File too large\n"
        assert sorted(os.listdir(tmp_path)) == ["SHA256SUMS", "model-0001.params", "model-0002.params",
                                                "model-symbol.json"]


_FULL_DISK = """
import resource, signal, sys
from common import checkpoint
from common.errors import UserError
model, size = checkpoint.load(sys.argv[1] + ",1"), int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for epoch, limit in ((2, size), (3, size - 3)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoint.save(sys.argv[1], epoch, *model)
    except UserError as error:
        print(error)
"""


class TestPretrained:
    def test_as_saved(self, model):
        prefix, symbol, params = model
        for arguments, states in (checkpoint.load_pretrained(prefix, 1, symbol, SHAPE),
                                  checkpoint.load_pretrained(f"{prefix},1", 99, symbol, SHAPE)):
            _equal(arguments, params[0])
            _equal(states, params[1])

    def test_prefix_with_a_comma(self, tmp_path, model):
        _, symbol, params = model
        checkpoint.save(f"{tmp_path}/old, good/m", 4, symbol, *params)
        _equal(checkpoint.load_pretrained(f"{tmp_path}/old, good/m", 4, symbol, SHAPE)[0], params[0])

    def test_head(self, model):
        prefix, symbol, (arguments, states) = model
        whole = mx.sym.FullyConnected(symbol, num_hidden=10, name="fc7", no_bias=True)
        arguments["fc7_weight"] = mx.nd.ones((10, 4))
        checkpoint.save(prefix, 2, whole, arguments, states)
        found, _ = checkpoint.load_pretrained(prefix, 2, symbol, SHAPE, fc7_weight=(10, 4), fc7_bias=(10,))
        assert found["fc7_weight"].shape == (10, 4)
        with pytest.raises(UserError, match=r"array 'fc7_weight' has shape \(10, 4\), expected \(11, 4\)") as refused:
            checkpoint.load_pretrained(prefix, 2, symbol, SHAPE, fc7_weight=(11, 4))
        assert "leave the head out" in _one_line(refused, prefix)

    def test_whole_numbers(self, model):
        prefix, symbol, (arguments, states) = model
        checkpoint.save(prefix, 2, symbol, {name: array.astype("int32") for name, array in arguments.items()}, states)
        with pytest.raises(UserError, match=r"model,2: array 'conv_weight' is of int32; expected floats$"):
            checkpoint.load_pretrained(prefix, 2, symbol, SHAPE)

    def test_other_networks(self, model):
        prefix, *_ = model
        with pytest.raises(UserError, match=r"array 'conv_weight' has shape \(2, 3, 7, 7\), expected \(3, 3, 7, 7\)$"):
            checkpoint.load_pretrained(prefix, 1, small_symbol(num_filter=3), SHAPE)
        with pytest.raises(UserError, match=r"'pre_fc1_weight' has shape \(4, 8\), expected \(5, 8\)$"):
            checkpoint.load_pretrained(prefix, 1, small_symbol(emb_size=5), SHAPE)
        with pytest.raises(UserError, match="has no array 'conv0_weight'; is it of another network"):
            checkpoint.load_pretrained(prefix, 1, get_symbol("r18"), (1, 3, 112, 112))
        with pytest.raises(UserError, match="epochs found for this prefix: 1$"):
            checkpoint.load_pretrained(prefix, 3, small_symbol(), SHAPE)

    def test_names_of_2018(self, model):
        """Then the layer before the last batch norm was called fc1 as well."""
        prefix, symbol, (arguments, states) = model
        old = mx.sym.BatchNorm(mx.sym.FullyConnected(symbol.get_internals()["relu_output"], num_hidden=4, name="fc1"),
                               name="fc1")
        renamed = {name.replace("pre_fc1_", "fc1_"): array for name, array in arguments.items()}
        checkpoint.save(prefix, 2, old, renamed, states)
        found, _ = checkpoint.load_pretrained(prefix, 2, symbol, SHAPE)
        assert set(found) == set(arguments)
        for name, array in arguments.items():
            np.testing.assert_array_equal(found[name].asnumpy(), array.asnumpy())

    @pytest.mark.parametrize("net_output", ["F", "G", "H"])
    def test_networks_that_have_an_fc1_today(self, tmp_path, net_output):
        symbol, shape = get_symbol("y1", net_output=net_output, emb_size=8), (1, 3, 32, 32)
        params = reference.ndarrays(reference.draw(symbol, shape))
        checkpoint.save(str(tmp_path / "m"), 1, symbol, *params)
        found, _ = checkpoint.load_pretrained(str(tmp_path / "m"), 1, symbol, shape)
        assert "fc1_weight" in found and "fc1_bias" in found and "pre_fc1_weight" not in found
