"""Every network against the original's: names, shapes, operators, cost; and what is refused."""
import json

import numpy as np
import pytest

from common.errors import UserError
from common.mxnet_setup import mx
from symbols import fmobilefacenet, fresnet, get_symbol, network_names, network_settings
from symbols.blocks import IMAGE_SHAPE
from symbols.flops import flops
from symbols.outputs import OPTIONS

TABLE = ["r18", "r34", "r50", "r50v1", "r100", "r100fc", "r152", "y1", "y2", "m1", "m05", "mnas", "mnas05", "mnas025",
         "d121", "d161", "d169", "d201", "vargfacenet"]
DEPTHS = ["r49", "r74", "r90", "r98", "r99", "r101", "r124", "r134", "r136", "r140", "r160", "r200", "r269"]
VARIANTS = ["r18-emb256", "r18-input0", "r18-input2", "r18-outF", "r18-outFC", "r18-outG", "r18-outGAP", "r18-outGDC",
            "r18-outGNAP", "r18-outGNAP_emb1024", "r18-outGNAP_emb256", "r18-outH", "r18-outI", "r18-outJ",
            "r18-outSFC", "r18-relu", "r18-se", "r18-unit1", "r18-unit1_input0", "r18-unit1_se", "r18-unit2",
            "r18-unit2_se", "y1-E", "y1-FC", "y1-GAP", "y1-GNAP", "y1-SFC", "y1-emb512", "y1-relu", "y2-emb128",
            "d121-GDC", "d121-drop", "d121-relu", "m1-E", "m1-GAP", "mnas-E", "mnas-relu", "vargfacenet-relu",
            "vargfacenet-se"]
TREE_2018 = ["r18", "r34", "r50", "r100", "r101", "r152", "r18-outA", "r18-outAX", "r18-outB", "r18-outC", "r18-outCX",
             "r18-outD", "y1-GDC", "y1-GNAP", "m1", "m1-mult05-GAP", "m2", "d121", "d161", "d169", "d201", "p68", "p92",
             "p107", "p131", "s20", "s36", "s60", "s64", "s104", "i1", "n1"]
FILES = (TABLE + [f"depths/{name}" for name in DEPTHS] + [f"variants/{name}" for name in VARIANTS]
         + [f"src2018/{name}" for name in TREE_2018])
COMPARED_ELSEWHERE = {  # what the original could not build, and where it is looked at
    "variants/m1-input0": "test_fmobilenet.py", "variants/r18-memonger": "tests/common/test_graph.py",
    "variants/r18-outA": "src2018/r18-outA", "variants/r18-outB": "src2018/r18-outB",
    "variants/r18-outZ": "test_every_output_trains", "variants/r18-unit4": "test_refusals",
    "src2018/x1": "test_fxception.py",
}


def test_every_golden_file_is_compared(golden):
    found = {path.relative_to(golden).with_suffix("").as_posix() for path in golden.rglob("*.json")}
    assert found == {*FILES, *COMPARED_ELSEWHERE} and len(FILES) == len(set(FILES))


def _symbol(reference):
    """The symbol that a golden file describes."""
    network = reference["network"].split("-")[0]
    if "config" in reference:
        return get_symbol(network, **reference["overrides"])
    options = {key.replace("version_", "net_"): value for key, value in reference["args"].items()}
    settings = {key: value for key, value in options.items() if key in network_settings(network)}
    if network.startswith("s"):
        del settings["net_output"]  # the original ends these in H whatever is asked
    if network.startswith("d"):
        settings.update(release=2018, densenet_dropout=0.2)
    if network in ("r101", "r152"):
        settings["bottleneck"] = True
    return get_symbol(network, **settings)


def _layers(symbol):
    nodes = json.loads(symbol.tojson())["nodes"]
    return [[node["op"], node["name"], node.get("attrs", {})] for node in nodes if node["op"] != "null"]


def _expected_layers(reference):
    """The original's layers; where it ends in another node than `fc1`, an identity of that name stands behind."""
    layers = reference["layers"]
    if reference["network"] == "n1":  # another framework's way of saying 0.9
        layers = [[op, name, dict(attrs, momentum="0.9") if op == "BatchNorm" else attrs] for op, name, attrs in layers]
    if layers[-1][1] != "fc1":
        layers = [[op, "fc1_bn" if name == "fc1" else name, attrs] for op, name, attrs in layers]
        layers.append(["_copy", "fc1", {}])
    return layers


@pytest.mark.parametrize("name", FILES)
def test_network_is_the_original(golden, name):
    reference = json.loads((golden / f"{name}.json").read_text())
    symbol, embedding = _symbol(reference), reference["embedding"]
    arguments, outputs, states = symbol.infer_shape(data=(1, *IMAGE_SHAPE))
    assert _pairs(symbol.list_arguments(), arguments) == embedding["arguments"]
    assert _pairs(symbol.list_auxiliary_states(), states) == embedding["auxiliary_states"]
    assert _pairs(symbol.list_outputs(), outputs) == [["fc1_output", embedding["outputs"][0][1]]]
    assert _layers(symbol) == _expected_layers(reference)
    if reference.get("flops"):
        assert flops(symbol) == reference["flops"]


def _pairs(names, shapes):
    return [[name, list(shape)] for name, shape in zip(names, shapes)]


@pytest.mark.parametrize("name", TABLE + ["depths/r101", "depths/r269"])
def test_settings_are_the_original_s(golden, name):
    reference = json.loads((golden / f"{name}.json").read_text())
    settings = json.loads(json.dumps(network_settings(reference["network"])))
    assert settings.pop("bottleneck", False) is False and settings.pop("release", 2019) == 2019  # keys of ours
    assert settings == {key: reference["config"][key] for key in settings}


def test_prelu_slopes_start_at_a_quarter(golden):
    for network in ("r18", "y1"):
        reference = json.loads((golden / f"{network}.json").read_text())["training_arcface_10"]["variable_attrs"]
        attributes = get_symbol(network).attr_dict()
        slopes = {name for name, attrs in reference.items() if "relu" in name and "__init__" in attrs}
        assert slopes and {name: attributes[name]["__init__"] for name in slopes} == {
            name: reference[name]["__init__"] for name in slopes}


def test_output_d_starts_like_the_others():
    attributes = get_symbol("r18", net_output="D").attr_dict()
    starts = {name: json.loads(attributes[name]["__init__"])[0].lower()
              for name in ("fc1_moving_mean", "fc1_moving_var", "fc1_relu_gamma")}
    assert starts == {"fc1_moving_mean": "zero", "fc1_moving_var": "one", "fc1_relu_gamma": "constant"}


def test_flops_of_outputs_the_original_cannot_count(golden):
    pooled = json.loads((golden / "src2018" / "r18-outA.json").read_text())["flops"]
    assert flops(get_symbol("r18", net_output="GAP")) == pooled + 2 * 512 * 512
    assert flops(get_symbol("r18", net_output="D")) == pooled + 2 * 512 * 512


def test_flops_of_small_layers_by_hand():
    data = mx.sym.Variable("data")
    plain = mx.sym.Convolution(data, num_filter=8, kernel=(3, 3), name="plain")  # 4x6 -> 2x4
    assert flops(plain, (1, 3, 4, 6)) == 2 * 27 * 8 * 8
    grouped = mx.sym.Convolution(data, num_filter=4, num_group=2, kernel=(1, 1), no_bias=True, name="grouped")
    assert flops(grouped, (1, 4, 3, 3)) == (2 * 4 - 1) * 9 * 4 // 2
    assert flops(mx.sym.FullyConnected(plain, num_hidden=5, no_bias=True, name="fc"), (1, 3, 4, 6)) == (
        2 * 27 * 8 * 8 + 2 * 64 * 5 - 5)


def test_same_call_same_symbol():
    first = {name: get_symbol(name).tojson() for name in ("r18", "y1")}
    loose = mx.sym.Variable("a") + 1  # moves the process's own counters
    get_symbol("r34", net_output="GNAP", net_se=1) + get_symbol("y2") + loose
    assert {name: get_symbol(name).tojson() for name in first} == first
    assert fresnet.get_symbol(num_layers=18).tojson() == first["r18"]
    with mx.name.Prefix("other_"):
        assert get_symbol("y1").tojson() == first["y1"]


def test_settings_can_be_given_back():
    for network in network_names():
        assert get_symbol(network, **network_settings(network)).tojson() == get_symbol(network).tojson()


def test_settings_as_lists_and_truth_values():
    assert get_symbol("y1", net_blocks=[2, 8, 16, 4], emb_size=256).tojson() == get_symbol("y2").tojson()
    assert get_symbol("r18", net_se=True).tojson() == get_symbol("r18", net_se=1).tojson()


@pytest.mark.parametrize("paper, network, settings", [
    ("LResNet100E-IR", "r100", {}), ("LResNet34E-IR", "r34", {}), ("SE-LResNet50E-IR", "r50", dict(net_se=1)),
    ("ResNet50D_v1", "r50v1", dict(net_input=0, net_output="D")), ("SE-LResNet50BX_v3", "r50", dict(
        net_se=1, net_output="BX")), ("LResNet18E_v2", "r18", dict(net_unit=2)),
    ("SE-ResNet152E_v3", "r152", dict(net_se=1, net_input=0, bottleneck=True)),
    ("LMobileNetE", "m1", dict(emb_size=512, net_output="E")),
    ("MobileNetGAP", "m1", dict(emb_size=512, net_output="GAP", net_input=0)), ("LMobileNetV2E", "m2", {}),
    ("LDenseNet161E", "d161", dict(release=2018, densenet_dropout=0.2)), ("LDPN92E", "p92", {}),
    ("Inception-ResNetGAP", "i1", dict(net_input=0, net_output="GAP")), ("LXceptionE", "x1", {}),
    ("NASNetE", "n1", dict(net_input=0)), ("MobileFaceNet", "y1", {}), ("VarGFaceNet", "vargfacenet", {})])
def test_names_of_the_papers(paper, network, settings):
    assert network_settings(paper) == network_settings(network, **settings)
    assert get_symbol(paper).tojson() == get_symbol(network, **settings).tojson()


@pytest.mark.parametrize("net_output", OPTIONS)
@pytest.mark.parametrize("network", ["r18", "y1"])
def test_every_output_trains(network, net_output):
    """One step of forward and backward: a finite embedding of the promised size, and a gradient in the image."""
    emb_size = 25088 if net_output == "Z" else 512
    symbol = get_symbol(network, net_output=net_output, emb_size=emb_size)
    assert symbol.list_outputs() == ["fc1_output"] and symbol.get_internals()["fc1_output"].name == "fc1"
    assert symbol.infer_shape(data=(3, *IMAGE_SHAPE))[1] == [(3, emb_size)]
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", (2, *IMAGE_SHAPE))], for_training=True, inputs_need_grad=True)
    mx.random.seed(0)
    module.init_params(mx.init.Xavier())
    images = mx.nd.array(np.random.RandomState(0).randint(0, 256, (2, *IMAGE_SHAPE)))
    module.forward(mx.io.DataBatch([images]), is_train=True)
    embedding = module.get_outputs()[0]
    module.backward([embedding])
    gradient = module.get_input_grads()[0].asnumpy()
    assert np.isfinite(embedding.asnumpy()).all()
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize("network, settings, message", [
    ("r17", {}, "unknown network 'r17'; known are: d121, d161, "),
    ("LResNet50E", {}, "unknown network 'LResNet50E'"),
    ("LResNetE-IR", {}, "unknown network 'LResNetE-IR'"),
    ("LMobileNet50E", {}, "unknown network 'LMobileNet50E'"),
    ("SE-LDPN92E", {}, "unknown network 'SE-LDPN92E'"),
    ("LMobileNetE-IR", {}, "unknown network 'LMobileNetE-IR'"),
    ("ResNet152E_v1", {}, "net_unit 1 has no bottleneck form"),
    ("LResNet51E-IR", {}, "unknown num_layers 51; known are: 100, 101"),
    ("r18", dict(num_layers=20), "unknown num_layers 20; known are: 100, 101"),
    ("r18", dict(net_units=3), "network r18 has no setting 'net_units'; its settings are: bn_mom, bottleneck, "),
    ("y1", dict(net_se=1), "network y1 has no setting 'net_se'; its settings are: bn_mom, "),
    ("r18", dict(net_name="fmobilenet"), "network r18 has net_name 'fresnet', not 'fmobilenet'"),
    ("r18", dict(net_unit=4), "net_unit 4 is a name without a network"),
    ("r18", dict(net_unit=5), "unknown net_unit 5; known are: 1, 2, 3"),
    ("r18", dict(net_unit=2, bottleneck=True), "net_unit 2 has no bottleneck form"),
    ("r18", dict(net_input=3), "unknown net_input 3; known are: 0, 1, 2"),
    ("r18", dict(net_se=2), "unknown net_se 2; known are: 0, 1"),
    ("r18", dict(net_act="swish"), "unknown net_act 'swish'; known are: prelu, relu"),
    ("r18", dict(net_output="K"), "unknown net_output 'K'; known are: A, AX, "),
    ("r18", dict(net_output="EX"), "unknown net_output 'EX'"),
    ("r18", dict(net_output="GDC", net_input=0), "needs a 7x7 map, but this network ends in 4x4"),
    ("y1", dict(net_output="A"), "own 512 features, not emb_size 128; set emb_size to 512"),
    ("r18", dict(net_output="Z"), "own 25088 features, not emb_size 512; set emb_size to 25088"),
    ("r18", dict(emb_size=0), "emb_size 0: expected a positive whole number"),
    ("r18", dict(emb_size=12.5), "emb_size 12.5: expected a positive whole number"),
    ("r18", dict(bn_mom=1.5), "bn_mom 1.5: expected"),
    ("y1", dict(net_blocks=(1, 4, 6)), r"net_blocks \(1, 4, 6\): expected four"),
    ("y1", dict(net_blocks=(0, 4, 6, 2)), r"net_blocks \(0, 4, 6, 2\): expected four"),
    ("y1", dict(net_blocks=3), "net_blocks 3: expected four"),
])
def test_refusals(network, settings, message):
    with pytest.raises(UserError, match=message) as refused:
        get_symbol(network, **settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("family", [fresnet, fmobilefacenet])
def test_a_family_needs_no_table(family):
    settings = dict(num_layers=18) if family is fresnet else {}
    assert family.get_symbol(**settings).list_outputs() == ["fc1_output"]


@pytest.mark.parametrize("net_multiplier", [1 / 64, 0.25, 0.5, 2])
def test_width_of_fresnet(net_multiplier):
    """Only the numbers of channels change, and all of them alike; with a gate down to one channel."""
    def shapes(symbol):
        return dict(zip(symbol.list_arguments(), symbol.infer_shape(data=(1, 3, 112, 112))[0]))

    plain = shapes(fresnet.get_symbol(18, net_se=1))
    thin = shapes(fresnet.get_symbol(18, net_se=1, net_multiplier=net_multiplier))
    assert list(plain) == list(thin)
    for name in (name for name in plain if name.endswith("conv2_weight") and "se_" not in name):
        (filters, inputs, *kernel), (count, *_) = plain[name], thin[name]
        assert thin[name] == (filters * net_multiplier, inputs * net_multiplier, *kernel)
        gate = thin[name.replace("conv2_weight", "se_conv1_weight")]
        assert gate == (max(1, count // 16), count, 1, 1)
