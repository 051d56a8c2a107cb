"""Embeddings of the original's networks, for parameters drawn by the rule of the golden files."""
import functools
import json
import zlib

import numpy as np
import pytest

from common import graph
from common.mxnet_setup import mx
from symbols import get_symbol
from symbols.blocks import IMAGE_SHAPE

FILES = ["r100", "r100fc", "r18", "r18-input0", "r18-outF", "r18-outFC", "r18-outG", "r18-outGAP", "r18-outGDC",
         "r18-outGNAP_emb1024", "r18-outGNAP_emb256", "r18-outH", "r18-outI", "r18-outJ", "r18-relu", "r18-se",
         "r18-unit1", "r18-unit1_se", "r18-unit2", "r50", "r50v1", "r50v1-gain2", "y1", "y1-GNAP", "y1-gain2", "d121",
         "d121-gain2", "d121-relu", "d169", "d169-gain2", "m1", "m1-E", "m1-E-gain2", "m1-gain2", "mnas", "mnas-gain2",
         "mnas-relu", "mnas025", "mnas025-gain2", "vargfacenet", "vargfacenet-gain2"]


@functools.lru_cache(maxsize=None)  # networks share most of their parameters
def _draw(name, shape, gain, is_slope):
    random = np.random.RandomState((zlib.crc32(name.encode()) ^ 727) & 0xffffffff)
    if name.endswith("_weight"):
        drawn = random.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
    elif is_slope:
        drawn = random.uniform(0.10, 0.40, shape)
    elif name.endswith(("_gamma", "_var")):
        drawn = random.uniform(0.80, 1.20, shape)
    else:
        limit = 0.05 if name.endswith("_bias") else 0.10
        drawn = random.uniform(-limit, limit, shape)
    return drawn.astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def _forget_parameters():
    yield
    _draw.cache_clear()


def _parameters(symbol, gain):
    nodes = json.loads(symbol.tojson())["nodes"]
    slopes = {nodes[node["inputs"][1][0]]["name"] for node in nodes if node["op"] == "LeakyReLU"}
    arguments, _, states = symbol.infer_shape(data=(1, *IMAGE_SHAPE))
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    return {name: _draw(name, shape, gain, name in slopes)
            for name, shape in zip(names, arguments + states) if name != "data"}


def _images(number):
    n, c, i, j = np.indices((number, *IMAGE_SHAPE))
    return (7 * i + 13 * j + 29 * c + 31 * n + (i * j) % 17 + ((i // 8) * (j // 8) * 11) % 97) % 256


def _embed(symbol, parameters, images):
    """Embeddings as a device gives them; bound for training, so that no fused inference path is taken."""
    runnable = graph.for_device(symbol, mx.cpu(), data=images.shape)
    requests = {name: "write" if name == "data" else "null" for name in runnable.list_arguments()}
    executor = runnable.simple_bind(mx.cpu(), grad_req=requests, data=images.shape)
    for arrays in (executor.arg_dict, executor.aux_dict):
        for name, array in arrays.items():
            array[:] = images if name == "data" else parameters[name]
    return executor.forward(is_train=False)[0].asnumpy()


def test_every_golden_file_is_compared(golden):
    assert {path.stem for path in (golden / "numeric").iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_embedding_is_the_original_s(golden, name):
    reference = np.load(golden / "numeric" / f"{name}.npz")
    overrides = dict(text.split("=") for text in json.loads(str(reference["overrides"])))
    symbol = get_symbol(str(reference["network"]), **{key: json.loads(text) for key, text in overrides.items()})
    parameters = _parameters(symbol, float(reference["gain"]) if "gain" in reference.files else 1.0)
    assert list(parameters) == [*reference["arg_names"], *reference["aux_names"]]
    assert [zlib.crc32(array.tobytes()) for array in parameters.values()] == reference["param_crc"].tolist()
    expected = reference["embedding"]
    images = _images(len(expected))
    assert zlib.crc32(images.astype(np.float32).tobytes()) == int(reference["input_crc"])
    found = _embed(symbol, parameters, images)
    assert np.abs(found - expected).max() < 1e-4 * expected.std()
