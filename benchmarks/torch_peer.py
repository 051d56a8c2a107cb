"""The PyTorch peer: a module that does what an embedding symbol says, node by node, so that it is the same network.

PyTorch is no dependency of the project; this file needs it, and only benchmarks use this file.
"""
import ast
import json
import math

import torch
from torch import nn
from torch.nn import functional

from common.errors import UserError


class SymbolModule(nn.Module):
    """An embedding symbol as a PyTorch module: images (N, 3, H, W), any type, RGB 0..255 -> (N, emb_size)."""

    def __init__(self, symbol, data_shape=(1, 3, 112, 112)):
        super().__init__()
        graph = json.loads(symbol.tojson())
        shapes = dict(zip(symbol.list_arguments(), symbol.infer_shape(data=data_shape)[0]))
        self._nodes, self._last = graph["nodes"], graph["heads"][0][0]
        self._operators = nn.ModuleDict()
        for number, node in enumerate(self._nodes):
            inputs = [shapes.get(self._nodes[source[0]]["name"]) for source in node["inputs"][1:]]
            module = _module(node["op"], _attributes(node), inputs)
            if module is not None:
                self._operators[str(number)] = module

    def parameter_names(self):
        """The symbol's names of `tensors`: for each operator its parameters, then its moving mean and variance."""
        return [self._nodes[source[0]]["name"] for number in self._operators
                for source in self._nodes[int(number)]["inputs"][1:]]

    def tensors(self):
        """Parameters and moving statistics, in the order of `parameter_names`."""
        return [tensor for module in self._operators.values()
                for tensor in [*module.parameters(), *module.buffers()] if tensor.dim()]

    def forward(self, images):
        values = {0: images.float()}
        for number, node in enumerate(self._nodes):
            inputs = [values.get(source[0]) for source in node["inputs"]]
            if str(number) in self._operators:
                values[number] = self._operators[str(number)](inputs[0])
            elif node["op"] != "null":
                values[number] = _plain(node["op"], _attributes(node), inputs)
        return values[self._last]


class ArcFace(nn.Module):
    """The ArcFace head and its loss in PyTorch (s 64, m 0.5): embeddings (N, D), labels (N,) -> mean cross entropy."""

    def __init__(self, num_classes, emb_size):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, emb_size) * 0.01)

    def forward(self, embedding, label):
        logits = functional.linear(functional.normalize(embedding), functional.normalize(self.weight))
        cosine = logits.gather(1, label[:, None])
        sine = (1 - cosine * cosine).clamp(min=1e-12).sqrt()
        logits = logits.scatter(1, label[:, None], cosine * math.cos(0.5) - sine * math.sin(0.5))
        return functional.cross_entropy(logits * 64, label)


def _attributes(node):
    found = {}
    for key, text in node.get("attrs", {}).items():
        try:
            found[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[key] = text
    return found


def _module(op, attributes, shapes):
    """The module of an operator with parameters; shapes: of its parameters. None for other operators."""
    if op == "Convolution":
        channels, inputs = shapes[0][:2]
        groups = attributes.get("num_group", 1)
        return nn.Conv2d(inputs * groups, channels, attributes["kernel"], attributes.get("stride", (1, 1)),
                         attributes.get("pad", (0, 0)), groups=groups, bias=not attributes.get("no_bias", False))
    if op == "BatchNorm":
        return _BatchNorm(shapes[0][0], eps=attributes.get("eps", 1e-3), momentum=1 - attributes.get("momentum", 0.9))
    if op == "FullyConnected":
        return nn.Sequential(nn.Flatten(), nn.Linear(shapes[0][1], shapes[0][0], not attributes.get("no_bias", False)))
    if op == "LeakyReLU":
        return nn.PReLU(shapes[0][0])
    if op == "Dropout":
        return nn.Dropout(attributes["p"])
    return None


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm of two- and four-dimensional data alike, as MXNet's."""

    def _check_input_dim(self, data):
        pass


def _plain(op, attributes, inputs):
    if op not in _PLAIN:
        raise UserError(f"the PyTorch peer does not know the operator {op}")
    return _PLAIN[op](attributes, *inputs)


def _pooling(attributes, data):
    if attributes.get("global_pool"):
        return functional.adaptive_avg_pool2d(data, 1)
    pool = dict(max=functional.max_pool2d, avg=functional.avg_pool2d)[attributes["pool_type"]]
    return pool(data, attributes["kernel"], attributes.get("stride", 1), attributes.get("pad", 0))


_PLAIN = {  # operators without parameters: (attributes, inputs) -> output
    "elemwise_add": lambda _, left, right: left + right,
    "add_n": lambda _, *maps: sum(maps[1:], maps[0]),
    "broadcast_mul": lambda _, left, right: left * right,
    "_minus_scalar": lambda attributes, data: data - attributes["scalar"],
    "_mul_scalar": lambda attributes, data: data * attributes["scalar"],
    "Activation": lambda attributes, data: getattr(torch, attributes["act_type"])(data),
    "Pooling": _pooling,
    "Concat": lambda _, *maps: torch.cat(maps, 1),
    "Flatten": lambda _, data: data.flatten(1),
    "slice_axis": lambda attributes, data: data[:, attributes["begin"]:attributes["end"]],
    "slice": lambda attributes, data: data[tuple(map(slice, attributes["begin"], attributes["end"]))],
    "Pad": lambda attributes, data: functional.pad(data, attributes["pad_width"][6:] + attributes["pad_width"][4:6]),
    "identity": lambda _, data: data,
    "_copy": lambda _, data: data,
}
