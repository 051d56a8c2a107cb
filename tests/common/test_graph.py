"""The rewritten graphs: same names, shapes, outputs and gradients as the graphs they stand for."""
import json
import re

import numpy as np
import pytest
import reference_graph as reference

from common import graph
from common.mxnet_setup import mx
from symbols import get_symbol

CPU_RULES = [graph.depthwise_prelu, graph.batchnorm_2d, graph.flat_fully_connected]
_SMALL = dict(emb_size=8, net_blocks=(1, 1, 1, 1))
CASES = [  # network, settings, shape of the images
    ("y1", dict(_SMALL, net_output="GDC"), (2, 3, 112, 112)),
    ("y1", dict(_SMALL, net_output="GNAP"), (3, 3, 32, 32)),
    ("y1", dict(_SMALL, net_output="GAP"), (3, 3, 32, 32)),
    ("y1", dict(_SMALL, net_output="FC", net_act="relu"), (3, 3, 32, 32)),
    ("r18", dict(emb_size=8, net_output="E", net_se=1), (3, 3, 32, 32)),
    ("mnas025", dict(emb_size=8, net_output="GAP"), (3, 3, 32, 32)),
    ("m05", dict(emb_size=8, net_output="GAP"), (3, 3, 32, 32)),
]


def _id(case):
    return "-".join([case[0], *map(str, case[1].values())])


def _shapes(symbol, data_shape):
    arguments, outputs, states = symbol.infer_shape(data=data_shape)
    return (dict(zip(symbol.list_arguments(), arguments)), dict(zip(symbol.list_auxiliary_states(), states)),
            dict(zip(symbol.list_outputs(), outputs)))


def _close(found, expected, what, tolerance):
    """Within `tolerance` of the expected array's largest number."""
    assert found.shape == expected.shape and found.dtype == expected.dtype, what
    assert np.isfinite(found).all(), what
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max(), what


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_outputs_and_gradients_are_unchanged(case):
    network, settings, shape = case
    symbol = reference.without_dropout(get_symbol(network, **settings))
    data, params = reference.images(shape), reference.draw(symbol, shape)
    doubles = data.astype(np.float64)
    expected = reference.Bound(reference.plain(symbol, shape), params, doubles)
    rewritten = reference.Bound(graph.rewrite(symbol, CPU_RULES, data=shape), params, doubles)
    on_cpu = reference.Bound(graph.for_device(symbol, mx.cpu(), data=shape), params, data, np.float32)
    as_built = reference.Bound(symbol, params, doubles)  # its PReLU computes in float32
    embedding = expected.infer()
    _close(rewritten.infer(), embedding, "inference", 1e-9)
    _close(as_built.infer(), embedding, "as built", 1e-5)
    for _ in range(3):
        _close(on_cpu.infer(), embedding.astype(np.float32), "inference in float32", 1e-4)
    output, arrays = expected.train()
    rewritten_output, found = rewritten.train()
    _close(rewritten_output, output, "training", 1e-9)
    single_output, singles = on_cpu.train()
    _close(single_output, output.astype(np.float32), "training in float32", 1e-3)
    assert set(found) == set(symbol.list_inputs())
    largest = max(np.abs(arrays[name]).max() for name in symbol.list_arguments())
    names = [name for name in symbol.list_arguments() if name != "data"]  # which is uint8, and has no gradient
    single, double = (np.concatenate([part[name].ravel() for name in names]) for part in (singles, arrays))
    assert np.linalg.norm(single - double) < 0.05 * np.linalg.norm(double)  # a kink met in the other piece counts much
    for name, array in found.items():
        np.testing.assert_allclose(array, arrays[name], rtol=1e-7, atol=1e-9 * largest, err_msg=name)


@pytest.mark.parametrize("device", [mx.cpu(), mx.gpu()], ids=str)
@pytest.mark.parametrize("network, settings", [
    ("r18", {}), ("r18", dict(net_se=1, net_output="GDC")), ("r50v1", dict(net_output="GAP")), ("y1", {}), ("y2", {}),
    ("y1", dict(net_output="SFC", net_act="relu")), ("r18", dict(net_output="GNAP", emb_size=256)),
    ("r18", dict(net_output="A")), ("r18", dict(net_output="D")), ("r18", dict(net_input=2, net_output="J"))])
def test_names_and_shapes_are_unchanged(network, settings, device):
    symbol, shape = get_symbol(network, **settings), (2, 3, 112, 112)
    rewritten = graph.for_device(symbol, device, data=(1, 3, 112, 112))
    assert rewritten.list_arguments() == symbol.list_arguments()
    assert rewritten.list_auxiliary_states() == symbol.list_auxiliary_states()
    assert _shapes(rewritten, shape) == _shapes(symbol, shape)
    types = dict(zip(rewritten.list_arguments(), rewritten.infer_type(data=np.uint8)[0]))
    assert types.pop("data") == np.uint8 and set(types.values()) == {np.float32}


def test_what_starts_an_array_is_kept():
    """Initial values, learning rates and the like hang on the variables."""
    symbol = get_symbol("r18", net_output="D")
    before = symbol.attr_dict()
    after = graph.for_device(symbol, mx.cpu(), data=(1, 3, 112, 112)).attr_dict()
    for name in symbol.list_inputs():
        added = {"__shape__", "__dtype__"}
        assert {key: value for key, value in after.get(name, {}).items() if key not in added} == before.get(name, {})


def test_a_symbol_is_not_changed_by_its_rewriting():
    symbol = get_symbol("y1")
    before = symbol.tojson()
    first, second = (graph.for_device(symbol, mx.cpu(), data=(1, 3, 112, 112)).tojson() for _ in range(2))
    assert symbol.tojson() == before and first == second


def test_operators_that_are_left():
    def operators(device):
        nodes = json.loads(graph.for_device(get_symbol("y1"), device, data=(1, 3, 112, 112)).tojson())["nodes"]
        return [node["op"] for node in nodes]

    assert operators(mx.cpu()).count("LeakyReLU") == 0
    original = [node["op"] for node in json.loads(get_symbol("y1").tojson())["nodes"]]
    on_gpu = operators(mx.gpu())
    on_gpu.remove("Cast")
    assert on_gpu == original


def _bound(symbol, arrays):
    executor = symbol.simple_bind(mx.cpu(), grad_req="write", **{name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        executor.arg_dict[name][:] = mx.nd.array(array)
    return executor


@pytest.mark.parametrize("slopes, channels", [
    ((0.25,) * 5, 5), ((0.0, 1.0, -1.0, 2.5, -3.0), 5), ((1e-6, -1e-6, 100.0, -100.0, 0.5), 5), ((0.7,), 1),
    ((0.7,), 4)], ids=str)
def test_prelu_in_float64(slopes, channels):
    """One slope for each channel, and one for the whole layer, as Gluon networks have it."""
    random = np.random.RandomState(3)
    data = random.standard_normal((3, channels, 4, 5)).astype(np.float32)
    data[:, :, 0, 0] = 0  # the kink itself
    head = random.standard_normal(data.shape).astype(np.float32)
    slope = np.array(slopes, np.float32)
    body = mx.sym.identity(mx.sym.Variable("data"))  # behind a node, MXNet's own slope gradient is wrong
    symbol = mx.sym.LeakyReLU(body, mx.sym.Variable("act_gamma", shape=slope.shape), act_type="prelu", name="act")
    rewritten = graph.rewrite(symbol, CPU_RULES, data=data.shape)
    assert "LeakyReLU" not in rewritten.tojson() and rewritten.list_outputs() == ["act_output"]
    executor = _bound(rewritten, dict(data=data, act_gamma=slope))
    x, g, dy = data.astype(np.float64), slope.astype(np.float64)[None, :, None, None], head.astype(np.float64)
    for is_train in (False, True):
        output = executor.forward(is_train=is_train)[0].asnumpy()
        _close(output, np.where(x > 0, x, g * x).astype(np.float32), "output", 1e-6)
    executor.backward([mx.nd.array(head)])
    _close(executor.grad_dict["data"].asnumpy(), (np.where(x > 0, 1, g) * dy).astype(np.float32), "dx", 2e-6)
    slope_gradient = (np.where(x > 0, 0, x) * dy).sum((0, 2, 3) if len(slopes) == channels else (0, 1, 2, 3))
    found = executor.grad_dict["act_gamma"].asnumpy()
    _close(found, slope_gradient.reshape(found.shape).astype(np.float32), "dgamma", 1e-5)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4)])
def test_prelu_of_other_forms_is_left_alone(shape):
    slope = mx.sym.Variable("slope", shape=(3,))
    symbol = mx.sym.LeakyReLU(mx.sym.Variable("data"), slope, act_type="prelu", name="act")
    assert json.loads(graph.rewrite(symbol, CPU_RULES, data=shape).tojson())["nodes"][-1]["op"] == "LeakyReLU"
    leaky = mx.sym.LeakyReLU(mx.sym.Variable("data"), act_type="leaky", slope=0.1)
    assert "leaky" in graph.rewrite(leaky, CPU_RULES, data=shape).tojson()


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_graph_for_inference(case):
    network, settings, shape = case
    symbol, data = get_symbol(network, **settings), reference.images(shape)
    params = reference.draw(symbol, shape)
    embedding = reference.embed(symbol, params, data)
    arrays = reference.ndarrays(params)
    folded, *folded_params = graph.for_inference(symbol, *arrays, data=shape)
    assert folded.list_outputs() == symbol.list_outputs()
    assert "Dropout" not in folded.tojson() and folded.tojson().count("BatchNorm") < symbol.tojson().count("BatchNorm")
    assert {*folded.list_inputs()} == {"data", *folded_params[0], *folded_params[1]}
    as_numbers = [{name: array.asnumpy() for name, array in part.items()} for part in folded_params]
    _close(reference.embed(folded, as_numbers, data), embedding, "folded, in float64", 1e-6)
    on_cpu = reference.Bound(graph.for_device(folded, mx.cpu(), data=shape), as_numbers, data, np.float32)
    for _ in range(2):
        _close(on_cpu.infer(), embedding.astype(np.float32), "folded, in float32", 1e-4)
    for before, after in zip(params, arrays):  # what was given is not changed
        assert all((before[name] == after[name].asnumpy()).all() for name in before)


def test_batchnorm_that_must_stay():
    """On a map that something else takes too, and on a weight that is shared."""
    data, weight = mx.sym.Variable("data"), mx.sym.Variable("weight")
    convs = [mx.sym.Convolution(data, weight, num_filter=3, kernel=(1, 1), no_bias=True, name=f"conv{i}")
             for i in range(2)]
    fork = mx.sym.FullyConnected(data, num_hidden=4, name="fc")
    symbol = mx.sym.Group([mx.sym.BatchNorm(convs[0], name="bn0"), convs[1], mx.sym.BatchNorm(fork, name="bn1"), fork])
    arrays = reference.ndarrays(reference.draw(symbol, (2, 3, 4, 4)))
    folded, arguments, _ = graph.for_inference(symbol, *arrays, data=(2, 3, 4, 4))
    assert folded.tojson() == graph.rewrite(symbol, [], data=(2, 3, 4, 4)).tojson()
    assert arguments == arrays[0]


@pytest.mark.parametrize("network, settings", [
    ("r18", dict(net_se=1, emb_size=8)), ("y1", dict(emb_size=8, net_output="E")),
    ("r18", dict(net_unit=2, net_act="relu", emb_size=8)), ("m05", dict(emb_size=8, net_output="E")),
    ("mnas025", dict(emb_size=8, net_output="E")), ("d121", dict(emb_size=8))], ids=str)
def test_mirrored_network_trains_the_same_in_less_memory(network, settings):
    shape = (8, 3, 48, 48)
    symbol = reference.without_dropout(get_symbol(network, **settings))
    params, data = reference.draw(symbol, shape), reference.images(shape)
    runs = {}
    for name, network in dict(plain=symbol, mirrored=graph.mirrored(symbol)).items():
        bound = reference.Bound(graph.for_device(network, mx.cpu(), data=shape), params, data, np.float32)
        memory = int(re.search(r"Total (\d+) MB", bound.executor.debug_str())[1])
        runs[name] = bound.infer(), *bound.train(), memory
    embedding, output, arrays, memory = runs["plain"]
    found_embedding, found_output, found, found_memory = runs["mirrored"]
    _close(found_embedding, embedding, "inference", 1e-5)
    _close(found_output, output, "training", 1e-5)
    names = [name for name in arrays if name != "data"]
    before, after = (np.concatenate([part[name].ravel() for name in names]) for part in (arrays, found))
    assert np.linalg.norm(after - before) < 1e-3 * np.linalg.norm(before)  # a kink met in the other piece counts much
    for name in symbol.list_auxiliary_states():
        np.testing.assert_allclose(found[name], arrays[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert found_memory < 0.75 * memory


def test_mirroring_marks_what_replaces_a_marked_node():
    nodes = json.loads(graph.for_device(graph.mirrored(get_symbol("y1")), mx.cpu(), data=(1, 3, 112, 112)).tojson())
    marked = {node["name"] for node in nodes["nodes"] if "__force_mirroring__" in node.get("attrs", {})}
    assert {"conv_1_relu_positive", "conv_1_conv2d", "fc1_4d"} < marked
    assert not {node["name"] for node in nodes["nodes"] if node["name"].startswith("_plus")} & marked
    assert not {"pre_fc1", "conv_1_conv2d_weight", "data"} & marked


@pytest.mark.parametrize("settings", [{}, dict(eps=2e-5, momentum=0.7), dict(fix_gamma=False, eps=1e-2),
                                      dict(fix_gamma=False, use_global_stats=True), dict(fix_gamma=False, axis=-1)],
                         ids=str)
def test_batchnorm_of_flat_data_in_float64(settings):
    random = np.random.RandomState(4)
    data, head = (random.standard_normal((6, 5)).astype(np.float32) * 3 for _ in range(2))
    gamma, beta, mean, var = (random.uniform(0.5, 1.5, 5).astype(np.float32) for _ in range(4))
    symbol = mx.sym.BatchNorm(mx.sym.Variable("data"), name="bn", **settings)
    executor = _bound(graph.rewrite(symbol, CPU_RULES, data=data.shape), dict(data=data, bn_gamma=gamma, bn_beta=beta))
    for name, value in dict(bn_moving_mean=mean, bn_moving_var=var).items():
        executor.aux_dict[name][:] = mx.nd.array(value)
    x, eps, momentum = data.astype(np.float64), settings.get("eps", 1e-3), settings.get("momentum", 0.9)
    scale = gamma.astype(np.float64) if settings.get("fix_gamma") is False else np.ones(5)
    moving = scale * (x - mean) / np.sqrt(var + eps) + beta
    _close(executor.forward(is_train=False)[0].asnumpy(), moving.astype(np.float32), "inference", 1e-5)
    output = executor.forward(is_train=True)[0].asnumpy()
    executor.backward([mx.nd.array(head)])
    mx.nd.waitall()  # asked for at once, a moving statistic may be that of before the step
    if settings.get("use_global_stats"):
        unit, expected = (x - mean) / np.sqrt(var + eps), moving
        dx = head * scale / np.sqrt(var + eps)
    else:
        unit = (x - x.mean(0)) / np.sqrt(x.var(0) + eps)
        expected = scale * unit + beta
        dx = scale / np.sqrt(x.var(0) + eps) * (head - head.mean(0) - unit * (head * unit).mean(0))
        moved = momentum * mean + (1 - momentum) * x.mean(0)
        _close(executor.aux_dict["bn_moving_mean"].asnumpy(), moved.astype(np.float32), "moving mean", 1e-5)
    _close(output, expected.astype(np.float32), "training", 1e-5)
    _close(executor.grad_dict["data"].asnumpy(), dx.astype(np.float32), "dx", 1e-4)
    _close(executor.grad_dict["bn_beta"].asnumpy(), head.sum(0), "dbeta", 1e-5)
    if settings.get("fix_gamma") is False:
        _close(executor.grad_dict["bn_gamma"].asnumpy(), (head * unit).sum(0).astype(np.float32), "dgamma", 1e-4)


@pytest.mark.parametrize("size", [1, 3])
def test_fully_connected_after_a_convolution_in_float64(size):
    """Bound for inference, where a 1x1 map makes MXNet fail without the Flatten."""
    random = np.random.RandomState(5)
    data = random.standard_normal((2, 4, size + 2, size + 2)).astype(np.float32)
    kernel, weight = (random.standard_normal(shape).astype(np.float32)
                      for shape in ((6, 4, 3, 3), (5, 6 * size * size)))
    body = mx.sym.Convolution(mx.sym.Variable("data"), name="conv", num_filter=6, kernel=(3, 3), no_bias=True)
    symbol = mx.sym.FullyConnected(body, name="fc", num_hidden=5, no_bias=True)
    rewritten = graph.rewrite(symbol, CPU_RULES, data=data.shape)
    assert rewritten.list_outputs() == ["fc_output"]
    executor = rewritten.simple_bind(mx.cpu(), grad_req="null", data=data.shape)
    executor.copy_params_from(dict(conv_weight=mx.nd.array(kernel), fc_weight=mx.nd.array(weight)))
    maps = sum(np.einsum("nchw,fc->nfhw", data[:, :, i:i + size, j:j + size].astype(np.float64), kernel[:, :, i, j])
               for i in range(3) for j in range(3))
    expected = maps.reshape(2, -1) @ weight.T.astype(np.float64)
    for _ in range(3):
        output = executor.forward(is_train=False, data=mx.nd.array(data))[0].asnumpy()
        _close(output, expected.astype(np.float32), "fc", 1e-5)


def test_fully_connected_over_the_last_axis_is_left_alone():
    symbol = mx.sym.FullyConnected(mx.sym.Variable("data"), name="fc", num_hidden=5, flatten=False)
    rewritten = graph.rewrite(symbol, CPU_RULES, data=(2, 3, 4, 7))
    assert _shapes(rewritten, (2, 3, 4, 7)) == _shapes(symbol, (2, 3, 4, 7))


@pytest.mark.parametrize("channels, groups, filters, copies", [
    (24, 1, 48, ["after"]), (48, 1, 24, ["before"]), (32, 4, 64, ["before", "after"]), (40, 5, 80, ["after"]),
    (32, 1, 48, []), (32, 32, 32, []), (24, 1, 24, []), (3, 1, 16, [])], ids=str)
def test_convolution_of_odd_blocks(channels, groups, filters, copies):
    """Between batch norms, the second of which has a gradient in blocks of 16: the same numbers, with copies."""
    body = mx.sym.BatchNorm(mx.sym.Variable("data"), name="first", fix_gamma=False)
    body = mx.sym.Activation(body, act_type="relu")
    body = mx.sym.Convolution(body, name="conv", num_filter=filters, num_group=groups, kernel=(3, 3), pad=(1, 1))
    body = mx.sym.Convolution(mx.sym.BatchNorm(body, name="second", fix_gamma=False), name="last", num_filter=16,
                              kernel=(1, 1))
    shape = (4, channels, 8, 8)
    params, data = reference.draw(body, shape), np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    rewritten = graph.rewrite(body, [graph.convolution_of_odd_blocks], data=shape)
    nodes = json.loads(rewritten.tojson())["nodes"]
    slices = {node["name"] for node in nodes if node["op"] == "slice_axis"} - {"last"}
    assert slices == {dict(before="conv_data", after="conv")[place] for place in copies}
    assert rewritten.list_inputs() == body.list_inputs()
    expected, arrays = reference.Bound(body, params, data.astype(np.float64)).train()
    output, found = reference.Bound(rewritten, params, data, np.float32).train()
    _close(output, expected.astype(np.float32), "output", 1e-5)
    largest = max(np.abs(array).max() for array in arrays.values())
    for name, array in arrays.items():  # a bias before a batch norm has none
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5 * largest, err_msg=name)


@pytest.mark.parametrize("channels", [(42, 42, 42, 42), (16, 20, 64), (32, 16)], ids=str)
def test_concatenation_can_be_trained(channels):
    """Whatever its maps' channels: oneDNN's own backward pass fails on (42, 42, 42, 42)."""
    data = mx.sym.Variable("data")
    maps = [mx.sym.Convolution(data, name=f"conv{number}", num_filter=filters, kernel=(1, 1))
            for number, filters in enumerate(channels)]
    body = mx.sym.Convolution(mx.sym.Concat(*maps, name="join"), name="last", num_filter=32, kernel=(3, 3), pad=(1, 1))
    shape = (2, 8, 16, 16)
    params, images = reference.draw(body, shape), reference.images(shape).astype(np.float32) / 255
    expected, arrays = reference.Bound(body, params, images.astype(np.float64)).train()
    rewritten = graph.rewrite(body, [graph.splittable_concat], data=shape)
    output, found = reference.Bound(rewritten, params, images, np.float32).train()
    _close(output, expected.astype(np.float32), "output", 1e-5)
    for name, array in arrays.items():
        _close(found[name], array.astype(np.float32), name, 1e-4)


def test_nodes_with_several_outputs():
    """A PReLU behind the second part of a split: its input's shape is found by the output, not by a name."""
    parts = mx.sym.split_v2(mx.sym.Variable("data"), indices_or_sections=(2,), axis=1)  # 2 and 4 channels
    symbol = mx.sym.Group([mx.sym.LeakyReLU(parts[1], act_type="prelu", name="act"), parts[0]])
    rewritten = graph.rewrite(symbol, CPU_RULES, data=(2, 6, 3, 3))
    assert rewritten.list_outputs() == symbol.list_outputs()
    assert "LeakyReLU" not in rewritten.tojson()
    data = np.random.RandomState(6).standard_normal((2, 6, 3, 3)).astype(np.float32)
    executor = _bound(rewritten, dict(data=data, act_gamma=np.array([2, -1, 0, 0.5], np.float32)))
    output, first = (array.asnumpy() for array in executor.forward())
    slope = np.array([2, -1, 0, 0.5])[None, :, None, None]
    np.testing.assert_allclose(output, np.where(data[:, 2:] > 0, data[:, 2:], slope * data[:, 2:]), atol=1e-6)
    np.testing.assert_array_equal(first, data[:, :2])


def test_nodes_of_the_same_name():
    """Two maps of one name and different size: each rule sees the shape of its own input."""
    data = mx.sym.Variable("data")
    small = mx.sym.Convolution(data, num_filter=3, kernel=(3, 3), name="twin")
    flat = mx.sym.FullyConnected(small, num_hidden=3, name="twin")
    symbol = mx.sym.BatchNorm(flat, name="bn")
    rewritten = json.loads(graph.rewrite(symbol, CPU_RULES, data=(1, 3, 5, 5)).tojson())
    operators = [node["op"] for node in rewritten["nodes"]]
    assert operators.count("Flatten") == 2 and operators.count("Reshape") == 1
