"""Where a figure was measured: the machine, the versions, the state of the code."""
import platform
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from common.cores import cpu_count
from common.mxnet_setup import mx

_CLONE = Path(__file__).resolve().parents[1]


def machine():
    """One line on where a figure was measured."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {cpu_count()} cores, Python {platform.python_version()}, MXNet {mx.__version__}, " \
           f"NumPy {np.__version__}"


def versions():
    """The versions of what figures hang on: name -> version."""
    found = {"Python": platform.python_version(), "MXNet": mx.__version__, "NumPy": np.__version__,
             "OpenCV": cv2.__version__}
    if "onnxruntime" in sys.modules:  # where it ran the network
        found["onnxruntime"] = sys.modules["onnxruntime"].__version__
    return found


def commit():
    """The commit of this clone, with a + where files were changed since; empty outside of a git clone."""
    try:
        def git(*args):
            return subprocess.run(["git", "-C", str(_CLONE), *args], check=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True).stdout.strip()

        return git("rev-parse", "--short=12", "HEAD") + "+" * bool(git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.CalledProcessError):
        return ""
