"""Networks run in float64, in which MXNet takes no oneDNN path: the reference for what `common` makes of them."""
import json
import zlib

import numpy as np

from common import graph
from common.mxnet_setup import mx


def draw(symbol, data_shape, seed=0):
    """Parameters of `symbol`, as two dicts name -> float32 array: weights keep the scale, all else is near its start.

    Slopes of PReLU lie in -0.5 to 1.5, so that every kind of it is met.
    """
    nodes = json.loads(symbol.tojson())["nodes"]
    slopes = {nodes[node["inputs"][1][0]]["name"] for node in nodes
              if node["op"] == "LeakyReLU" and len(node["inputs"]) > 1}
    arguments, _, states = symbol.infer_shape(data=data_shape)
    parts = (symbol.list_arguments(), arguments), (symbol.list_auxiliary_states(), states)
    return tuple({name: _draw(name, shape, name in slopes, seed)
                  for name, shape in zip(names, shapes) if name != "data"} for names, shapes in parts)


def _draw(name, shape, is_slope, seed):
    random = np.random.RandomState(zlib.crc32(name.encode()) ^ seed)
    if name.endswith("_weight"):
        drawn = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif is_slope:
        drawn = random.uniform(-0.5, 1.5, shape)
    elif name.endswith(("_gamma", "_var")):
        drawn = random.uniform(0.8, 1.2, shape)
    else:
        drawn = random.uniform(-0.1, 0.1, shape)
    return drawn.astype(np.float32)


def ndarrays(params):
    """The dicts of `draw` with NDArrays in them."""
    return tuple({name: mx.nd.array(value, dtype=value.dtype) for name, value in part.items()} for part in params)


def images(shape, seed=0):
    """Random images (N, 3, H, W) uint8, smooth as photographs are: a coarse pattern with some noise on it."""
    random = np.random.RandomState(seed)
    coarse = random.randint(0, 220, (*shape[:2], shape[2] // 8, shape[3] // 8))
    return (coarse.repeat(8, axis=2).repeat(8, axis=3) + random.randint(0, 36, shape)).astype(np.uint8)


def without_dropout(symbol):
    """The same symbol with dropout of rate 0, for comparisons in training: the masks of two graphs differ."""
    nodes = json.loads(symbol.tojson())
    for node in nodes["nodes"]:
        if node["op"] == "Dropout":
            node["attrs"]["p"] = "0"
    return mx.sym.load_json(json.dumps(nodes))


def _plain_prelu(builder, node, inputs, shape_of):
    if node["op"] != "LeakyReLU" or node["attrs"]["act_type"] != "prelu":
        return None
    builder.nodes[inputs[1][0]]["attrs"]["__shape__"] = str(shape_of(1))
    positive = builder.add("relu", f"{node['name']}_a", [inputs[0]])
    negative = builder.add("relu", f"{node['name']}_b", [builder.add("negative", f"{node['name']}_c", [inputs[0]])])
    slope = builder.add("Reshape", f"{node['name']}_d", [inputs[1]], shape=(1, -1, 1, 1))
    scaled = builder.add("broadcast_mul", f"{node['name']}_e", [negative, slope])
    return builder.add("elemwise_sub", node["name"], [positive, scaled])


def plain(symbol, data_shape):
    """`symbol` with its PReLU as max(x, 0) - g max(-x, 0).

    MXNet's own rounds to float32, and writes over its input: the slopes' gradients are then off by the slope.
    """
    return graph.rewrite(symbol, [_plain_prelu], data=data_shape)


class Bound:
    """A symbol bound with gradients for everything. dtype: of all arrays; data: images, of the data's own dtype."""

    def __init__(self, symbol, params, data, dtype=np.float64):
        kinds = {name: dtype for name in symbol.list_inputs()}
        self.executor = symbol.simple_bind(mx.cpu(), grad_req="write", type_dict=dict(kinds, data=data.dtype),
                                           data=data.shape)
        for arrays, values in zip((self.executor.arg_dict, self.executor.aux_dict), params):
            for name, value in values.items():
                arrays[name][:] = mx.nd.array(value, dtype=dtype)
        self.executor.arg_dict["data"][:] = mx.nd.array(data, dtype=data.dtype)
        self._dtype = dtype

    def infer(self):
        """The first output, (N, ...), as in inference."""
        return self.executor.forward(is_train=False)[0].asnumpy()

    def train(self, head_seed=1):
        """The output in training, and dict name -> gradient or moving statistic; the head gradient is random."""
        output = self.executor.forward(is_train=True)[0].asnumpy()
        head = np.random.RandomState(head_seed).standard_normal(output.shape)
        self.executor.backward([mx.nd.array(head, dtype=self._dtype)])
        mx.nd.waitall()  # asked for at once, a moving statistic may be that of before the step
        arrays = {**self.executor.grad_dict, **self.executor.aux_dict}
        return output, {name: array.asnumpy() for name, array in arrays.items()}


def embed(symbol, params, data):
    """Embeddings (N, D) of uint8 images in inference, computed in float64."""
    return Bound(plain(symbol, data.shape), params, data.astype(np.float64)).infer()
