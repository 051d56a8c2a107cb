"""The one place that sets MXNet up; every room takes it from here: `from common.mxnet_setup import mx`.

Threads are set before MXNet is imported, for afterwards it is too late: left alone, MXNet takes half the cores.
"""
import ctypes
import importlib
import os
import platform
import re
import sys
from contextlib import contextmanager
from pathlib import Path

from common.cores import cpu_count
from common.errors import DataError, UserError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt


class SetupError(UserError, ImportError):
    """MXNet cannot be used here. The message says what to install."""


def _set_environment():
    os.environ.setdefault("OMP_NUM_THREADS", str(cpu_count()))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        # A thread that waits spins for about a millisecond, then sleeps: at once asleep, it costs small networks two
        # thirds of their speed at batch 1, and with a tenth of it they are now and then as slow; for ever spinning, it
        # takes the core from other processes.
        os.environ.update(OMP_WAIT_POLICY="ACTIVE", GOMP_SPINCOUNT="100000")
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # no line for every graph that is bound
    # The OpenBLAS inside the wheel (0.3.13) falls back to SSE2 on processors newer than itself.
    if platform.machine() == "x86_64" and _has_avx2():
        os.environ.setdefault("OPENBLAS_CORETYPE", "HASWELL")


def _keep_freed_memory():
    """Let glibc keep what is freed. MXNet's arrays on the CPU are its memory; given back to the system, the next batch
    costs a page fault for each 4 kB, which took a sixth of the time of reading images."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(_M_TRIM_THRESHOLD, 256 << 20)
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes


def _has_avx2():
    try:
        return " avx2 " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _numpy():
    try:
        numpy = importlib.import_module("numpy")
    except ImportError as error:
        raise SetupError(f"NumPy cannot be imported ({error}): pip install 'numpy<2'") from error
    if int(numpy.__version__.split(".")[0]) >= 2:
        raise SetupError(f"NumPy {numpy.__version__} is too new for MXNet 1.9.1: pip install 'numpy<2'")
    # MXNet 1.9.1 still uses the aliases that NumPy 1.24 dropped. Looked up in __dict__, since hasattr warns.
    for name, kind in dict(bool=bool, int=int, float=float, object=object, complex=complex, str=str).items():
        if name not in numpy.__dict__:
            setattr(numpy, name, kind)


def _import_mxnet():
    if not (3, 8) <= sys.version_info[:2] <= (3, 12):
        raise SetupError(f"MXNet 1.9.1 needs Python 3.8 to 3.12; this is {platform.python_version()}")
    try:
        return importlib.import_module("mxnet")
    except OSError as error:  # a shared library is missing
        raise SetupError(_missing_library(str(error))) from error
    except (ImportError, RuntimeError) as error:  # RuntimeError: MXNet's own, for a wheel without its library
        if getattr(error, "name", None) == "distutils":
            raise SetupError("MXNet 1.9.1 on Python 3.12 needs setuptools: pip install setuptools") from error
        raise SetupError(f"MXNet cannot be imported ({error}): pip install 'mxnet==1.9.1' on a machine without "
                         "a GPU, or one of the CUDA wheels in the README") from error


def _missing_library(message):
    packages = {"libgomp": "apt-get install libgomp1", "libquadmath": "apt-get install libquadmath0",
                "libstdc++": "apt-get install libstdc++6",
                "libcuda.so": "install the NVIDIA driver, or mxnet==1.9.1 (the CPU wheel)"}
    advice = next((advice for name, advice in packages.items() if name in message), "see the README, 'Install'")
    return f"MXNet cannot load a system library ({message}): {advice}"


def empty_on_host(shape, dtype):
    """A new NDArray in the CPU's memory, and a NumPy array that is the same memory: (array, view).

    What is written to the view is in the array, without MXNet's copy, which takes bytes one by one. The view keeps the
    array alive; it must not be written to any longer once the array is handed on.
    """
    import numpy as np

    array, address = mx.nd.empty(shape, mx.cpu(), dtype), ctypes.c_void_p()
    array.wait_to_read()
    mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(address)))
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_char * size).from_address(address.value)
    memory.owner = array
    return array, np.frombuffer(memory, dtype).reshape(shape)


def reason(error):
    """What an error of MXNet's says is wrong, as one line without the stack that comes before it."""
    text = str(error).strip() or type(error).__name__
    found = re.findall(r"MXNetError: (.*)", text)
    return (found or text.splitlines())[-1].strip()


@contextmanager
def naming(model):
    """Tell what MXNet refuses of a network, as a DataError with the model's name."""
    try:
        yield
    except RuntimeError as error:  # MXNetError is one; binding a graph raises a plain one
        raise DataError(f"{model}: MXNet cannot run this network: {reason(error)}") from error


_numpy()
_set_environment()
_keep_freed_memory()
mx = _import_mxnet()
