"""Which layer's numbers stopped being finite: what a training asks once it has to stop, so that no step pays for it."""
import ctypes
from itertools import groupby

import numpy as np

from common.mxnet_setup import mx

_AT_ONCE = 200  # arrays that MXNet's operator looks at in one call


def not_finite(arrays):
    """The names of those that hold a number that is not finite. arrays: dict name -> float NDArray, on any devices.

    One pass over each array where it lies; only flags come back, as long as everything is finite.
    """
    names = sorted(arrays, key=lambda name: str(arrays[name].context))
    for _, group in groupby(names, key=lambda name: arrays[name].context):
        group = list(group)
        parts = [[arrays[name] for name in group[start:start + _AT_ONCE]] for start in range(0, len(group), _AT_ONCE)]
        if not all(map(_all_finite, parts)):
            return [name for name in arrays if not _all_finite([arrays[name]])]
    return []


def _all_finite(arrays):
    return bool(mx.nd.multi_all_finite(*arrays, num_arrays=len(arrays)).asscalar())


def describe(broken, arrays, step):
    """What arrays that are not finite after a step tell, in words.

    broken: their names; arrays: all that were looked at, in order from the input to the loss.

    A gradient that is not finite spoils those of all layers before its own: where it began is the last one.
    """
    last = [name for name in arrays if name in set(broken)][-1]
    return (f"{len(broken)} of {len(arrays)} arrays are not finite after step {step}, of which {last} is the nearest "
            "to the loss, where gradients come from")


def find_operator(executors, forward, inputs):
    """Repeat a forward pass, operator by operator. Returns in words which one was the first to give what is not finite.

    executors: all that take part, bound for training; forward: callable that runs them; inputs: names of what is no
    parameter. The executors are slow afterwards.
    """
    found = []
    for executor in executors:
        executor.set_monitor_callback(_watch(executor._symbol, inputs, found))
    forward()
    mx.nd.waitall()
    return found[0] if found else "a second forward pass of the batch was finite (dropout drew another mask?)"


def _watch(symbol, inputs, found):
    order = symbol.get_internals().list_outputs()
    parameters = set(symbol.list_arguments()) - inputs

    def look(name, handle):
        array = mx.nd.NDArray(ctypes.cast(handle, mx.base.NDArrayHandle), writable=False)
        if found or not np.issubdtype(array.dtype, np.floating) or _all_finite([array]):
            return
        name, values = name.decode(), array.asnumpy()
        before = [other for other in order[:order.index(name)] if other in parameters] if name in order else []
        found.append(f"the first output that is not finite is {name}" + (f", behind {before[-1]}" if before else "")
                     + f": {np.count_nonzero(~np.isfinite(values))} of {values.size} values")
    return look
