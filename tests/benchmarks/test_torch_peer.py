"""The PyTorch peer is the same network: same embeddings from the same parameters."""
import json

import numpy as np
import pytest

from common.mxnet_setup import mx
from symbols import get_symbol

torch = pytest.importorskip("torch", reason="PyTorch is not installed; only the speed comparison needs it")


@pytest.mark.parametrize("network", [
    "y1", "r18", "m1", "m2", "mnas025", "vargfacenet", "d121", "p68", "s10", "i1", "n1", "x1"])
def test_same_embeddings(network):
    from benchmarks.torch_peer import SymbolModule
    from common.embedder import Embedder

    symbol, random = get_symbol(network, emb_size=8), np.random.RandomState(0)
    module = SymbolModule(symbol).eval()
    shapes = symbol.infer_shape(data=(1, 3, 112, 112))
    args = {name: random.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32) if "weight" in name
            else random.uniform(0.1, 0.9, shape).astype(np.float32)
            for name, shape in zip(symbol.list_arguments(), shapes[0]) if name != "data"}
    auxs = {name: random.uniform(0.5, 1.5, shape).astype(np.float32)
            for name, shape in zip(symbol.list_auxiliary_states(), shapes[2])}
    nodes = json.loads(symbol.tojson())["nodes"]
    for node in nodes:  # the symbol holds these at 1, PyTorch has no such switch
        if node["op"] == "BatchNorm" and node.get("attrs", {}).get("fix_gamma") != "False":
            args[nodes[node["inputs"][1][0]]["name"]][:] = 1
    values = [{**args, **auxs}[name] for name in module.parameter_names()]
    with torch.no_grad():
        for tensor, value in zip(module.tensors(), values):
            tensor.copy_(torch.from_numpy(value))
    images = random.randint(0, 256, (2, 3, 112, 112)).astype(np.uint8)
    embed = Embedder.from_params(symbol, {k: mx.nd.array(v) for k, v in args.items()},
                                 {k: mx.nd.array(v) for k, v in auxs.items()})
    expected = embed(images)
    with torch.no_grad():
        found = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
