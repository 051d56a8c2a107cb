"""`--devices cpu,cpu` or `--devices gpu0,gpu1` as MXNet contexts."""
import re

from common.errors import UserError
from common.mxnet_setup import mx


def get_devices(text=""):
    """Turn a list of devices, as typed by a user, into contexts.

    text: device names with commas between: 'gpu0,gpu1' (or '0,1'), 'cpu', 'cpu,cpu' (two contexts that share the
        processor); empty: all GPUs, or the CPU where there is none. Returns a list of mx.Context.
    Raises UserError for a name that is no device and for a GPU that is not there.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    gpus = mx.context.num_gpus()
    if not names:
        return [mx.gpu(i) for i in range(gpus)] or [mx.cpu()]
    devices = [_device(name, position, gpus) for position, name in enumerate(names)]
    if len(set(devices)) < len(devices):
        raise UserError(f"--devices {text}: a GPU is named twice")
    return devices


def _device(name, position, gpus):
    found = re.fullmatch(r"(?:gpu)?\(?(\d+)\)?", name)
    if found:
        if int(found[1]) >= gpus:
            raise UserError(f"device {name!r}: this machine shows MXNet {gpus} GPU(s); use --devices cpu, or install "
                            "a CUDA wheel of MXNet (see the README)")
        return mx.gpu(int(found[1]))
    if re.fullmatch(r"cpu\(?\d*\)?", name):
        return mx.cpu(position)  # one context for each 'cpu', whatever number stands behind it
    raise UserError(f"unknown device {name!r}; expected names such as cpu or gpu0, with commas between")
