"""Flags that commands share which run a network."""
from argparse import ArgumentTypeError

BACKENDS = ("mxnet", "onnxruntime")


def add_device_flags(parser):
    """Add --gpu, as the original has it, --devices, and --backend, for `common.checkpoint.on_backend`."""
    parser.add_argument("--gpu", type=int, help="number of the GPU to use, -1 for the CPU; the same as --devices gpuN")
    parser.add_argument("--devices", default="", help="devices with commas between, such as gpu0,gpu1 or cpu; empty: "
                        "all GPUs, else the CPU")
    parser.add_argument("--backend", choices=BACKENDS, default="mxnet", help="what runs the network; onnxruntime: "
                        "PREFIX-EPOCH.onnx of recognition/export.py, on the CPU (any --model that ends in .onnx is "
                        "run by it)")


def device_names(args):
    """The devices that the flags name, as text for `common.devices.get_devices`. --devices goes before --gpu."""
    if args.devices or args.gpu is None:
        return args.devices
    return f"gpu{args.gpu}" if args.gpu >= 0 else "cpu"


def positive(text):
    """An argparse type: a whole number from 1 on."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r}: expected a whole number from 1 on")
    return int(text)
