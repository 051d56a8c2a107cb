"""What a training takes of its devices' memory, told before it is taken."""
from math import prod
from pathlib import Path

from common import graph
from common.errors import UserError
from common.mxnet_setup import mx

_KEPT = dict(cpu=0.7, gpu=0.95)  # of all outputs of a network's operators, what MXNet holds at once: 0.66 to 0.76 of
#                                  graphs rewritten for the CPU, 0.95 of others were measured
_MIRRORED = 0.5  # of that with --memonger
_LOGIT_COPIES = 2  # arrays as large as the logits that a head holds beside its weight: 0.8 (softmax) to 2 were measured
_WITHOUT_CENTRES = ("softmax", "lsoftmax", "centre")  # heads that do not normalise the class weight
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_GIB, _MIB = 1 << 30, 1 << 20


def network_bytes(embedding, device, batch_shape, memonger=False):
    """What a network takes on a device: {'network': weights, gradients and momenta; 'feature maps': what is kept
    between forward and backward, an estimate}. batch_shape: (N, 3, H, W) of this device."""
    symbol = graph.for_device(embedding, device, data=batch_shape)
    inner, inputs = symbol.get_internals(), {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    sizes = dict(zip(inner.list_outputs(), map(prod, inner.infer_shape(data=batch_shape)[1])))
    params = sum(size for name, size in sizes.items() if name in inputs and name != "data")
    maps = sum(size for name, size in sizes.items() if name not in inputs)
    kept = _KEPT[device.device_type] * (_MIRRORED if memonger else 1)
    return {"network": 3 * 4 * params, "feature maps": int(4 * maps * kept)}


def head_bytes(loss, rows, emb_size, batch_size, stored_rows=None, block=None):
    """What a head takes on a device.

    rows: of the class weight that a step uses; stored_rows: those that the device keeps, more than `rows` with
    PartialFC; block: those that are worked off at once, where they are fewer; batch_size: images whose logits the
    device computes. Returns {'class weight': ..., 'logits': ...}.
    """
    row, block = 4 * emb_size, block or rows
    centres = 0 if loss in _WITHOUT_CENTRES else 2  # the normalised rows and their gradient
    stored = rows if stored_rows is None else stored_rows
    sampled = 0 if stored == rows else 2 * rows * row  # the rows of the step, and a copy of their gradient
    return {"class weight": row * (2 * stored + rows + centres * block) + sampled,
            "logits": _LOGIT_COPIES * 4 * batch_size * block}


def free_bytes(device):
    """The free memory of a device in bytes; None where the system does not tell."""
    if device.device_type == "gpu":
        return mx.context.gpu_memory_info(device.device_id)[0]
    return min(filter(None, (_available(), *map(_limit, _LIMITS))), default=None)


def _available():
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))) * 1024
    except (OSError, StopIteration, ValueError):
        return None


def _limit(path):
    """A container's limit, in bytes; None where it has none."""
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # not there, or 'max'
        return None


def tell(needs, devices, free=free_bytes):
    """Lines on what is taken of each device. needs: dict of bytes, of one device; devices: list of mx.Context.

    Several cpu contexts share one memory. Raises UserError, with advice, where it cannot fit.
    """
    total, gpu = sum(needs.values()), devices[0].device_type == "gpu"
    share = 1 if gpu else len(devices)
    parts = ", ".join(f"{name} {_size(size)}" for name, size in needs.items())
    there = min((found for found in map(free, devices) if found is not None), default=None)
    line = f"memory, about, on each of {len(devices)} devices: {parts}; together {_size(total)}" \
           + (f" x {share} contexts of one memory" if share > 1 else "") \
           + ("" if there is None else f"; {_size(there)} free")
    if there is not None and total * share > there:
        raise UserError(f"{line}: this does not fit. What helps: a smaller --per-batch-size; --memonger for feature "
                        "maps; for the class weight --class-parallel on more devices, or --sample-rate 0.1")
    return [line]


def _size(size):
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / _MIB:.0f} MiB"
