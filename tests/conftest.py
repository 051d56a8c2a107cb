"""Fixtures of all tests: the rooms importable, real faces and golden values where they are at hand."""
import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background; what the tests start must hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "common")]  # the rooms; the reference that their tests share

from common.cores import cpu_count

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # the processes of the tests, and what they start, share the cores
    share = cpu_count() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


def _folder(variable, default, what):
    path = Path(os.environ.get(variable, ROOT.parent / "shared" / default))
    if not path.is_dir():
        pytest.skip(f"no {what} at {path}; set {variable} to the folder that holds them")
    return path


@pytest.fixture(scope="session")
def face_data():
    """The folder of real faces and public models; the test is skipped where it is absent."""
    return _folder("FACE_DATA", "data", "real faces")


@pytest.fixture(scope="session")
def golden():
    """The folder of reference values taken from the original; the test is skipped where it is absent."""
    return _folder("FACE_GOLDEN", "golden", "golden values")
