"""Weights of PyTorch's `iresnet` (arcface_torch and the many that copied it) as parameters of our `fresnet`.

The two are the same network, but for three differences that go into the parameters without loss:

* pixels: x/127.5 − 1 outside of the graph there, (x − 127.5)/128 inside here: the first weight is multiplied by
  128/127.5 (padding is 0 in both);
* batch norm divides by √(v + 1e-5) there, by √(v + 2e-5) here: γ is multiplied by √((v + 2e-5)/(v + 1e-5));
* the last batch norm (`features`) has a scale there and none here: scale and the factor above go into `fc`, whose
  mean is scaled likewise.
"""
import re

import numpy as np

from common.errors import DataError
from common.mxnet_setup import mx
from symbols import get_symbol
from symbols.fresnet import DEPTHS

_THEIR_EPS, _OUR_EPS = 1e-5, 2e-5
_PIXEL_FACTOR = 128 / 127.5
_UNIT = {"bn1": "bn1", "conv1": "conv1", "bn2": "bn2", "prelu": "relu1", "conv2": "conv2", "bn3": "bn3",
         "downsample.0": "conv1sc", "downsample.1": "sc"}
_OUTSIDE_OF_UNITS = {"conv1": "conv0", "bn1": "bn0", "prelu": "relu0", "bn2": "bn1", "fc": "pre_fc1", "features": "fc1"}
_LAYER = re.compile(r"layer(\d)\.(\d+)\.(.+)")
_STATISTICS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}


def _find_depth(tensors, path):
    """num_layers of the fresnet with as many units as a state dict has. path: for messages.

    Raises DataError for another network, and for iresnet200 and 2060, whose units no fresnet has.
    """
    units = [1 + max((int(found[2]) for found in map(_LAYER.fullmatch, tensors) if found and int(found[1]) == stage),
                     default=-1) for stage in (1, 2, 3, 4)]
    if 0 in units:
        raise DataError(f"{path}: not the weights of an iresnet: no arrays layer1.0... to layer4.0...; the first names "
                        f"are: {', '.join(list(tensors)[:6])}")
    depths = [depth for depth, counts in DEPTHS.items() if list(counts) == units]
    if not depths:
        raise DataError(f"{path}: an iresnet of {units} units in its stages; no network here has them (r18, r34, r50 "
                        "and r100 are the same in both)")
    return 50 if 50 in depths else depths[0]


def convert(tensors, path):
    """Turn the state dict of an iresnet into a fresnet.

    tensors: dict name -> array, see `torch_weights.read_tensors`; path: for messages. Returns (network name, symbol,
    arg_params, aux_params). Raises DataError, naming what is missing, left over or of another shape.
    """
    depth, arrays = _find_depth(tensors, path), {}
    emb_size = tensors["fc.weight"].shape[0] if "fc.weight" in tensors else 512
    symbol = get_symbol(f"r{depth}", emb_size=emb_size)
    left = {name: array for name, array in tensors.items() if not name.endswith("num_batches_tracked")}
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in left):
        parts = {name.rpartition(".")[2]: left[name] for name in left if name.rpartition(".")[0] == layer}
        if "weight" not in parts:
            raise DataError(f"{path}: layer {layer!r} has no weight")
        arrays.update(_layer(_our_name(layer, path), parts))
    _scale(arrays, path)
    return f"r{depth}", symbol, *_checked(symbol, arrays, path)


def _our_name(layer, path):
    found = _LAYER.fullmatch(layer)
    known, name = (_UNIT, found[3]) if found else (_OUTSIDE_OF_UNITS, layer)
    if name not in known:
        raise DataError(f"{path}: has a layer {layer!r}, which no iresnet of this form has (squeeze and excitation?)")
    return f"stage{found[1]}_unit{int(found[2]) + 1}_{known[name]}" if found else known[name]


def _layer(name, parts):
    """A layer's arrays, float64, under our names: of a batch norm, of a PReLU (slopes), or weight and bias."""
    names = _STATISTICS if "running_var" in parts else {"weight": "gamma"} if parts["weight"].ndim == 1 else {}
    return {f"{name}_{names.get(part, part)}": array.astype(np.float64) for part, array in parts.items()}


def _scale(arrays, path):
    """Put the differences of the two networks into the arrays, in place."""
    below = [name for name, array in arrays.items() if name.endswith("_moving_var") and (array < 0).any()]
    if below:
        raise DataError(f"{path}: what becomes {below[0]!r} here, a variance, is below 0; is the file damaged?")
    try:
        arrays["conv0_weight"] *= _PIXEL_FACTOR
        for name in [name for name in arrays if name.endswith("_moving_var")]:
            arrays[name.replace("_moving_var", "_gamma")] *= np.sqrt((arrays[name] + _OUR_EPS)
                                                                    / (arrays[name] + _THEIR_EPS))
        scale = arrays["fc1_gamma"].copy()
        arrays["pre_fc1_weight"] *= scale[:, np.newaxis]
        for name in ("pre_fc1_bias", "fc1_moving_mean"):
            arrays[name] *= scale
        arrays["fc1_gamma"][:] = 1
    except (KeyError, ValueError) as error:  # missing, or of another shape
        raise DataError(f"{path}: not the whole of an iresnet: {error}") from error


def _checked(symbol, arrays, path):
    """(arg_params, aux_params) as NDArrays of float32, held against the symbol."""
    arg_shapes, _, aux_shapes = symbol.infer_shape(data=(1, 3, 112, 112))
    arguments = {name: shape for name, shape in zip(symbol.list_arguments(), arg_shapes) if name != "data"}
    states = dict(zip(symbol.list_auxiliary_states(), aux_shapes))
    for name, shape in {**arguments, **states}.items():
        if name not in arrays:
            raise DataError(f"{path}: lacks what becomes {name!r} here")
        if arrays[name].shape != shape:
            raise DataError(f"{path}: what becomes {name!r} here has shape {arrays[name].shape}; expected {shape}")
        if not np.abs(arrays[name]).max() <= np.finfo(np.float32).max:
            raise DataError(f"{path}: what becomes {name!r} here has numbers that are not finite; is the file damaged?")
    over = set(arrays) - set(arguments) - set(states)
    if over:
        raise DataError(f"{path}: has what no network here has: {', '.join(sorted(over)[:6])}")
    return tuple({name: mx.nd.array(arrays[name], dtype=np.float32) for name in names} for names in (arguments, states))
