"""ONNX models of symbols: every operator against MXNet in float64, and what the file says of itself."""
import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from common.errors import UserError
from common.mxnet_setup import mx
from recognition.onnx_graph import IR_VERSION, OPSET, convert, normalised
from symbols import get_symbol

SIZE = (8, 9)
DATA = mx.sym.Variable("data")


def flat(symbol):
    """An embedding out of any map."""
    return mx.sym.Flatten(symbol, name="fc1")


def conv(filters=4, **settings):
    return mx.sym.Convolution(DATA, name="conv", num_filter=filters, **dict(dict(kernel=(3, 3)), **settings))


def fixed_norm(symbol, fix_gamma=True, **settings):
    return mx.sym.BatchNorm(symbol, name="bn", fix_gamma=fix_gamma, **settings)


def prelu(symbol):
    return mx.sym.LeakyReLU(symbol, act_type="prelu", name="relu")


def pooled(**settings):
    return flat(mx.sym.Pooling(DATA, name="pool", **settings))


WINDOW = dict(kernel=(3, 2), stride=(2, 1), pad=(1, 0))
CASES = {
    "convolution": flat(conv(stride=(2, 1), pad=(1, 0))),
    "convolution without bias": flat(conv(no_bias=True, dilate=(2, 2))),
    "depthwise convolution": flat(conv(3, num_group=3)),
    "batch norm": flat(fixed_norm(DATA, fix_gamma=False, eps=2e-5)),
    "batch norm that fixes gamma": flat(fixed_norm(DATA)),
    "batch norm of vectors": fixed_norm(mx.sym.FullyConnected(DATA, num_hidden=5, name="fc")),
    "fully connected, flattening": mx.sym.FullyConnected(conv(), num_hidden=5, name="fc"),
    "fully connected without bias": mx.sym.FullyConnected(DATA, num_hidden=5, name="fc", no_bias=True),
    "PReLU": flat(prelu(conv())),
    "PReLU of vectors": prelu(mx.sym.FullyConnected(DATA, num_hidden=5, name="fc")),
    "PReLU of one slope": flat(mx.sym.LeakyReLU(DATA, mx.sym.Variable("a_gamma", shape=(1,)), act_type="prelu")),
    "leaky ReLU": flat(mx.sym.LeakyReLU(DATA - 9, slope=0.1)),
    **{kind: flat(mx.sym.Activation(DATA * 0.1, act_type=kind))
       for kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign")},
    "max pool": pooled(pool_type="max", **WINDOW),
    "average pool": pooled(pool_type="avg", **WINDOW),
    "average pool without padding": pooled(pool_type="avg", count_include_pad=False, **WINDOW),
    "global average pool": pooled(pool_type="avg", kernel=(7, 7), global_pool=True),
    "global max pool": pooled(pool_type="max", kernel=(7, 7), global_pool=True),
    "scalars": flat(3 - (DATA - 127.5) * 0.0078125 / 2 + 1),
    "sum and concatenation": flat(mx.sym.add_n(mx.sym.Concat(DATA, DATA + 1, dim=1),
                                               mx.sym.Concat(DATA, DATA, dim=1), DATA.tile(reps=(1, 2, 1, 1)))),
    "elementwise": flat((DATA + 1) * DATA - mx.sym.relu(DATA) / (DATA + 2)),
    "broadcast": flat(mx.sym.broadcast_mul(DATA, mx.sym.Pooling(DATA, pool_type="avg", global_pool=True,
                                                                  kernel=(1, 1)))),
    "cut": flat(mx.sym.slice_axis(mx.sym.slice(DATA, begin=(None, None, 1, 2), end=(None, None, None, 8)), axis=1,
                                  begin=1, end=None)),
    "pad": flat(mx.sym.Pad(DATA, mode="constant", pad_width=(0, 0, 0, 0, 1, 0, 2, 3), constant_value=7)),
    "reshape": mx.sym.Reshape(DATA, shape=(0, -1)),
    "clip": flat(mx.sym.clip(DATA, 3, 100)),
    "cast and copy": flat(mx.sym.identity(mx.sym.Cast(DATA, dtype="float32"))),
    "L2 normalisation": normalised(mx.sym.FullyConnected(DATA, num_hidden=5, name="fc1")),
    "lengths and the batch's mean": flat(mx.sym.broadcast_div(mx.sym.mean(DATA), mx.sym.sqrt(mx.sym.sum(
        DATA * DATA, axis=1, keepdims=True)))),
}


def drawn(symbol, size):
    """Parameters of a symbol, two dicts name -> float32 array; scales that are fixed at 1 are not 1."""
    arguments, _, states = symbol.infer_shape(data=(1, 3, *size))
    random = np.random.RandomState(0)

    def draw(name, shape):
        values = random.uniform(0.5, 2, shape) if name.endswith(("gamma", "var")) else random.standard_normal(shape)
        return values.astype(np.float32)
    parts = (symbol.list_arguments(), arguments), (symbol.list_auxiliary_states(), states)
    return tuple({name: draw(name, shape) for name, shape in zip(names, shapes) if name != "data"}
                 for names, shapes in parts)


def by_mxnet(symbol, params, images):
    """In float64, in which MXNet takes no oneDNN path."""
    kinds = dict.fromkeys(symbol.list_inputs(), np.float64)
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", type_dict=kinds, data=images.shape)
    for arrays, values in zip((executor.arg_dict, executor.aux_dict), params):
        for name, value in values.items():
            arrays[name][:] = mx.nd.array(value, dtype=np.float64)
    executor.arg_dict["data"][:] = mx.nd.array(images, dtype=np.float64)
    return executor.forward(is_train=False)[0].asnumpy()


def converted(symbol, params, size=SIZE, metadata=None):
    return convert(symbol, *({name: mx.nd.array(value) for name, value in part.items()} for part in params), size,
                   metadata)


def by_onnx(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"data": images.astype(np.float32)})[0]


@pytest.mark.parametrize("name", CASES)
def test_operators(name):
    symbol = CASES[name]
    params = drawn(symbol, SIZE)
    model = converted(symbol, params)
    for count in (1, 3):
        images = np.random.RandomState(count).randint(0, 256, (count, 3, *SIZE))
        expected = by_mxnet(symbol, params, images)
        found = by_onnx(model, images)
        assert found.shape == expected.shape and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_what_the_file_says():
    """The number of images is free, weights are no inputs, names are those of the symbol."""
    symbol = get_symbol("y1", emb_size=8, net_blocks=(1, 1, 1, 1))
    model = converted(symbol, drawn(symbol, (112, 112)), (112, 112), dict(pixels="raw"))
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == IR_VERSION and [found.version for found in model.opset_import] == [OPSET]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"pixels": "raw"}
    shapes = [[size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
              for value in (*model.graph.input, *model.graph.output)]
    assert shapes == [["N", 3, 112, 112], ["N", 8]]
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["data", "fc1_output"]
    stored = {array.name for array in model.graph.initializer}
    assert stored >= set(symbol.list_inputs()) - {"data"}
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    # so does InsightFace's package know that pixels are scaled inside
    assert {"_minus", "_mulsc"} <= {name[:6] for name in names[:8]}


@pytest.mark.parametrize("symbol, message", [
    (mx.sym.Dropout(DATA, name="d"), "operators that cannot be exported: Dropout; known are: .*BatchNorm, Cast"),
    (flat(mx.sym.BatchNorm(DATA, axis=2, name="bn")), r"layer 'bn' \(BatchNorm\): axis 2 has no form"),
    (flat(mx.sym.LeakyReLU(DATA, act_type="elu", name="e")), "layer 'e' .*act_type elu"),
    (flat(mx.sym.slice(DATA, begin=(None, 0), end=(None, 3), step=(1, 2), name="s")), "layer 's' .*step"),
    (pooled(pool_type="lp", kernel=(2, 2), p_value=2), "layer 'pool' .*pool_type lp"),
    (pooled(pool_type="max", kernel=(2, 2), pooling_convention="full"), "pooling_convention full"),
    (flat(mx.sym.Pad(DATA, mode="edge", pad_width=(0, 0, 0, 0, 1, 1, 1, 1), name="p")), "layer 'p' .*mode edge"),
    (mx.sym.Reshape(DATA, shape=(1, -1), name="r"), r"layer 'r' .*shape \(1, -1\)"),
    (flat(mx.sym.FullyConnected(DATA, num_hidden=4, flatten=False, name="fc")), "not flattened"),
    (flat(mx.sym.mean(DATA, axis=1, name="m")), "layer 'm' .*axis 1"),
    (flat(mx.sym.L2Normalization(DATA, mode="channel", name="n")), "layer 'n' .*mode channel"),
    (flat(mx.sym.Cast(DATA, dtype="int32", name="c")), "layer 'c' .*dtype int32"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_has_no_form(symbol, message):
    with pytest.raises(UserError, match=message):
        converted(symbol, drawn(symbol, SIZE))


def test_an_attribute_that_a_damaged_file_leaves_out():
    found = json.loads(flat(DATA * 2).tojson())
    found["nodes"][1]["attrs"] = {}
    with pytest.raises(UserError, match=r"the network: layer '_mulscalar\d*' .* leave out the attribute 'scalar'"):
        converted(mx.sym.load_json(json.dumps(found)), ({}, {}))
