"""The cost of networks against the original's counts and the bytes of a real file; and the command."""
import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from common import checkpoint
from common.errors import UserError
from common.mxnet_setup import mx
from symbols import NETWORKS, get_symbol, network_names, summary
from symbols.blocks import IMAGE_SHAPE
from symbols.flops import layers, summarize

ROOT = Path(__file__).resolve().parents[2]


def _reference(golden, network):
    """The golden file of a network of the table; None where the original had none of this name."""
    paths = [golden / folder / f"{network}.json" for folder in ("", "depths", "src2018")]
    return next((json.loads(path.read_text()) for path in paths if path.is_file()), None)


def test_networks_cost_what_the_original_s_do(golden):
    compared = []
    for network in network_names():
        cost, reference = summarize(network), _reference(golden, network)
        assert cost["network"] == network and cost["family"] == NETWORKS[network][0].__name__.split(".")[-1]
        if not reference:
            continue
        embedding = reference["embedding"]
        assert (cost["parameters"], cost["emb_size"]) == (embedding["num_arg_params"], embedding["outputs"][0][1][1])
        assert cost["flops"] == reference.get("flops", cost["flops"])  # x1 the original cannot count
        numbers = 4 * (embedding["num_arg_params"] + embedding["num_aux_values"])
        assert numbers < cost["bytes"] < 1.05 * numbers  # the rest are names and headers
        if "config" in reference:
            assert cost["net_output"] == reference["config"]["net_output"]
            assert cost["net_input"] in (reference["config"]["net_input"], None)
        compared.append(network)
    assert {"r18", "r100", "r269", "y1", "y2"} <= set(compared)


def test_bytes_of_a_file(tmp_path):
    settings = dict(net_blocks=[1, 1, 1, 1], emb_size=8)
    symbol = get_symbol("y1", **settings)
    arguments, _, states = symbol.infer_shape(data=(1, *IMAGE_SHAPE))
    params = [{name: mx.nd.zeros(shape) for name, shape in zip(names, shapes) if name != "data"}
              for names, shapes in ((symbol.list_arguments(), arguments), (symbol.list_auxiliary_states(), states))]
    checkpoint.save(tmp_path / "m", 1, symbol, *params)
    assert summarize("y1", **settings)["bytes"] == (tmp_path / "m-0001.params").stat().st_size


@pytest.mark.parametrize("network", ["r18", "y1"])
def test_layers_are_the_original_s(golden, network):
    reference = _reference(golden, network)
    found = layers(get_symbol(network))
    assert [[layer.operator, layer.name] for layer in found] == [layer[:2] for layer in reference["layers"]]
    assert sum(layer.parameters for layer in found) == reference["embedding"]["num_arg_params"]
    assert sum(layer.flops for layer in found) == reference["flops"]


def test_a_shared_parameter_counts_once():
    data, weight = mx.sym.Variable("data"), mx.sym.Variable("w_weight")
    first = mx.sym.FullyConnected(data, weight, num_hidden=6, no_bias=True, name="first")
    both = mx.sym.FullyConnected(first, weight, num_hidden=6, name="second")
    assert [(layer.shape, layer.parameters, layer.flops) for layer in layers(both, (1, 6))] == [
        ((1, 6), 36, 2 * 36 - 6), ((1, 6), 6, 2 * 36)]


def _run(monkeypatch, capsys, *flags):
    monkeypatch.setattr(sys, "argv", ["summary.py", *flags])
    summary.main()
    return capsys.readouterr().out


def test_table(monkeypatch, capsys):
    lines = [line.split() for line in _run(monkeypatch, capsys).splitlines()]
    assert " ".join(lines[0]) == "network family parameters MB GFLOPs emb_size net_output net_input"
    assert [line[0] for line in lines[1:]] == network_names()
    rows = {line[0]: line for line in lines}
    assert rows["r100"] == ["r100", "fresnet", "65,156,160", "261.0", "24.170", "512", "E", "1"]
    assert rows["y1"] == ["y1", "fmobilefacenet", "1,003,264", "4.1", "0.440", "128", "GDC", "-"]


def test_chosen_networks_with_settings(monkeypatch, capsys):
    rows = json.loads(_run(monkeypatch, capsys, "--network", "y1, LResNet50E-IR", "--network", "r18", "--json",
                           "--set", "net_output=GAP", "--set", "emb_size=256"))
    assert rows == [summarize(network, net_output="GAP", emb_size=256) for network in ("y1", "LResNet50E-IR", "r18")]
    changed = _run(monkeypatch, capsys, "--network", "y1", "--json", "--set", "net_blocks=[2,8,16,4]",
                   "--set", "emb_size=256")
    assert json.loads(changed) == [dict(summarize("y2"), network="y1")]
    bottleneck = _run(monkeypatch, capsys, "--network", "r101", "--json", "--set", "bottleneck=True")
    assert json.loads(bottleneck) == [summarize("r101", bottleneck=True)]


def test_layer_table(monkeypatch, capsys):
    lines = [line.split() for line in _run(monkeypatch, capsys, "--layers", "y1").splitlines()]
    assert lines[0] == ["operator", "name", "output", "parameters", "flops"]
    assert lines[3] == ["Convolution", "conv_1_conv2d", "64x56x56", "1,728", "10,637,312"]
    assert lines[-2][:3] == ["BatchNorm", "fc1", "128"]
    assert lines[-1] == ["total", "1,003,264", "439,821,056"]


def test_command_in_any_folder(tmp_path):
    command = [sys.executable, str(ROOT / "symbols" / "summary.py"), "--network", "y1,r18", "--json"]
    done = subprocess.run(command + ["--csv", "out/table.csv"], cwd=tmp_path, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    rows = json.loads(done.stdout)
    assert rows == [summarize("y1"), summarize("r18")]
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {key: "" if value is None else str(value) for key, value in row.items()} for row in rows]


@pytest.mark.parametrize("flags, message", [
    (["--network", "r17"], "unknown network 'r17'; known are: "),
    (["--layers", "r17"], "unknown network 'r17'; known are: "),
    (["--network", "y1", "--set", "net_se=1"], "network y1 has no setting 'net_se'"),
    (["--network", "r18,y1", "--set", "num_layers=34"], "network y1 has no setting 'num_layers'"),
    (["--network", "r18", "--set", "bn_mom=high"], "--set bn_mom=high: r18 takes something like 0.9"),
    (["--network", "r18", "--set", "emb_size=1.5"], "--set emb_size=1.5: r18 takes something like 512"),
    (["--network", "r18", "--set", "net_output=1"], "--set net_output=1: r18 takes something like \"E\""),
    (["--network", "r18", "--set", "bottleneck=no"], "--set bottleneck=no: r18 takes something like false"),
    (["--layers", "y1", "--set", "net_blocks=4"], r"--set net_blocks=4: y1 takes something like \[1, 4, 6, 2\]"),
    (["--layers", "r18", "--set", "net_output=K"], "unknown net_output 'K'"),
    (["--network", "y1", "--csv", "/"], "/: cannot be written"),
])
def test_refusals(monkeypatch, capsys, flags, message):
    with pytest.raises(UserError, match=message) as refused:
        _run(monkeypatch, capsys, *flags)
    assert "\n" not in str(refused.value) and capsys.readouterr().out == ""


@pytest.mark.parametrize("flags, message", [
    (["--set", "net_output"], "expected KEY=VALUE"), (["--set", "=1"], "expected KEY=VALUE"),
    (["--layers", "y1", "--network", "r18"], "not allowed with")])
def test_bad_flags(monkeypatch, capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        _run(monkeypatch, capsys, *flags)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
