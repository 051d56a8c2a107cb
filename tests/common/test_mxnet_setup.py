"""What is set before MXNet is imported, and the one line for each thing that can be wrong with an installation."""
import ctypes
import importlib
import os
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common import check_python, mxnet_setup
from common.mxnet_setup import empty_on_host, mx

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
from common.cli import run
def main():
    from common.mxnet_setup import empty_on_host, mx
    print(mx.seen)
run(main)
"""
SEES = ("import os\nfrom numpy import bool, int, float, object, complex, str\n"
        "seen = ' '.join(os.environ.get(name, '-') for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'))\n")


def _command(folder, modules, **environment):
    """Run a command that needs MXNet in a Python that has `modules`, dict name -> source, in place of its own."""
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "OPENBLAS_"))}
    variables.update(environment, PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]))
    done = subprocess.run([sys.executable, "-W", "error::FutureWarning", "-c", COMMAND], env=variables,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    return done.returncode, done.stdout, done.stderr


def _refused(folder, modules, *texts):
    code, out, err = _command(folder, modules)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, err
    for text in texts:
        assert text in err
    return err


class TestThreads:
    def test_all_cores_where_nothing_is_said(self, tmp_path):
        cores = mxnet_setup.cpu_count()
        assert _command(tmp_path, dict(mxnet=SEES)) == (0, f"{cores} {cores}\n", "")

    def test_what_is_said_is_kept(self, tmp_path):
        assert _command(tmp_path, dict(mxnet=SEES), OMP_NUM_THREADS="1") == (0, "1 1\n", "")
        assert _command(tmp_path, {}, OMP_NUM_THREADS="3", OPENBLAS_NUM_THREADS="2") == (0, "3 2\n", "")

    @pytest.mark.parametrize("quota, cores", [
        ("max 100000\n", 6), ("200000 100000\n", 2), ("250000 100000\n", 2), ("50000 100000\n", 1),
        ("900000 100000\n", 6), ("", 6), ("what\n", 6), (None, 6)])
    def test_cores_of_a_container(self, monkeypatch, quota, cores):
        class Quota:
            def __init__(self, path):
                assert path == "/sys/fs/cgroup/cpu.max"

            def read_text(self):
                if quota is None:
                    raise FileNotFoundError(2, "No such file")
                return quota

        monkeypatch.setattr("common.cores.Path", Quota)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
        assert mxnet_setup.cpu_count() == cores

    def test_systems_without_affinity(self, monkeypatch):
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert mxnet_setup.cpu_count() == 1


class TestFaults:
    def test_numpy_2(self, tmp_path):
        _refused(tmp_path, dict(numpy="__version__ = '2.1.3'"), "NumPy 2.1.3 is too new", "pip install 'numpy<2'")

    def test_no_numpy(self, tmp_path):
        _refused(tmp_path, dict(numpy="raise ImportError('no numpy here')"), "no numpy here", "pip install 'numpy<2'")

    def test_no_mxnet(self, tmp_path):
        source = "raise ModuleNotFoundError(\"No module named 'mxnet'\", name='mxnet')"
        _refused(tmp_path, dict(mxnet=source), "No module named 'mxnet'", "pip install 'mxnet==1.9.1'", "CUDA wheels")

    def test_no_distutils(self, tmp_path):
        source = "raise ModuleNotFoundError('No module', name='distutils')"
        _refused(tmp_path, dict(mxnet=source), "pip install setuptools")

    def test_broken_mxnet(self, tmp_path):
        """Its own words for a wheel without its library, and an older MXNet's for a newer Python."""
        _refused(tmp_path, dict(mxnet="raise RuntimeError('Cannot find the MXNet library.\\nList:\\na')"),
                 "Cannot find the MXNet library.")
        _refused(tmp_path, dict(mxnet="from collections import Mappings"), "Mappings", "pip install 'mxnet==1.9.1'")

    @pytest.mark.parametrize("library, advice", [
        ("libgomp.so.1", "apt-get install libgomp1"), ("libquadmath.so.0", "apt-get install libquadmath0"),
        ("libstdc++.so.6", "apt-get install libstdc++6"), ("libcuda.so.1", "install the NVIDIA driver"),
        ("libcudnn.so.8", "see the README")])
    def test_missing_system_library(self, tmp_path, library, advice):
        message = f"{library}: cannot open shared object file: No such file or directory"
        _refused(tmp_path, dict(mxnet=f"raise OSError({message!r})"), message, advice)

    @pytest.mark.parametrize("version", [(3, 7, 9), (3, 13, 0), (4, 0, 0)])
    def test_other_pythons(self, monkeypatch, version):
        monkeypatch.setattr(sys, "version_info", version)
        with pytest.raises(mxnet_setup.SetupError, match="needs Python 3.8 to 3.12"):
            mxnet_setup._import_mxnet()


@pytest.mark.parametrize("text, line", [
    ("", "MXNetError"), ("  \n", "MXNetError"), ("one", "one"), ("first\nlast\n", "last"),
    ("Traceback:\n  File \"a.cc\", line 3\nMXNetError: [12:00] what is wrong\n\tmore\n", "[12:00] what is wrong"),
    ("MXNetError: MXNetError: twice", "MXNetError: twice")])
def test_reason(text, line):
    assert mxnet_setup.reason(mx.base.MXNetError(text)) == line


def test_reason_of_a_real_error():
    with pytest.raises(mx.base.MXNetError) as refused:
        mx.sym.Convolution(mx.sym.Variable("data"), num_filter=1, kernel=(9, 9)).infer_shape_partial(data=(1, 1, 3, 3))
    assert "kernel size exceed input" in mxnet_setup.reason(refused.value)


class TestCheckPython:
    """The file that any Python 3 must be able to run, before anything is installed."""

    def test_this_python(self):
        done = subprocess.run([sys.executable, str(ROOT / "common" / "check_python.py")], stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (0, b"")
        assert check_python.problem() is None

    @pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 7, 0), (3, 13, 1), (4, 0, 0)])
    def test_other_pythons(self, monkeypatch, capsys, version):
        monkeypatch.setattr(sys, "version_info", version)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "common" / "check_python.py"), run_name="__main__")
        captured = capsys.readouterr()
        assert ended.value.code == 2 and captured.out == "" and captured.err.count("\n") == 1
        assert captured.err.startswith("error: Python {}.{} ({}) found, ".format(*version[:2], sys.executable))
        assert "make demo PYTHON=" in captured.err

    @pytest.mark.parametrize("version", [(3, 8, 0), (3, 9, 2), (3, 12, 9)])
    def test_good_pythons(self, monkeypatch, version):
        monkeypatch.setattr(sys, "version_info", version)
        assert check_python.problem() is None

    @pytest.mark.parametrize("module", ["venv", "ensurepip"])
    def test_debian_without_its_venv(self, monkeypatch, module):
        real = importlib.import_module

        def lacking(name):
            if name == module:
                raise ImportError(name)
            return real(name)

        monkeypatch.setattr(sys, "version_info", (3, 11, 2))
        monkeypatch.setattr(importlib, "import_module", lacking)
        assert check_python.problem() == f"Python 3.11 lacks the module {module}: apt-get install python3.11-venv"

    def test_missing_libraries(self, monkeypatch):
        real = ctypes.CDLL

        def lacking(name):
            if name in missing:
                raise OSError(name)
            return real(name)

        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(ctypes, "CDLL", lacking)
        missing = ["libquadmath.so.0"]
        assert check_python.problem().endswith("apt-get install libquadmath0")
        missing = list(check_python.LIBRARIES)
        assert check_python.problem().endswith("apt-get install libgomp1 libquadmath0 libstdc++6")
        monkeypatch.setattr(sys, "platform", "darwin")
        assert check_python.problem() is None

    def test_syntax_of_an_old_python(self):
        """A Python that is too old must get as far as saying so."""
        import ast
        ast.parse((ROOT / "common" / "check_python.py").read_text(), feature_version=(3, 4))


def test_memory_that_numpy_and_mxnet_share():
    array, view = empty_on_host((3, 5), np.uint8)
    view[:] = np.arange(15).reshape(3, 5)
    assert array.dtype == np.uint8 and array.shape == (3, 5)
    np.testing.assert_array_equal(array.asnumpy(), view)
    np.testing.assert_array_equal((array.astype("float32") * 2).asnumpy(), 2.0 * view)
    del array  # the view alone keeps the memory
    others = [mx.nd.full((3, 5), 99, dtype=np.uint8) for _ in range(50)]
    mx.nd.waitall()
    np.testing.assert_array_equal(view, np.arange(15).reshape(3, 5))
    assert len(others) == 50


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_memory_of_freed_arrays_is_used_again():
    """A batch of 5 MB does not fault in its 1,200 pages anew."""
    def batch():
        array, view = empty_on_host((128, 3, 112, 112), np.uint8)
        view[:] = 1
        array.wait_to_read()

    for _ in range(3):
        batch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        batch()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 2000
