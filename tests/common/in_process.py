"""A command run in this process, where a new interpreter would take seconds to import MXNet."""
import contextlib
import io
import os
import sys
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess

from common.cli import run

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def _in_folder(folder):
    before = os.getcwd()
    os.chdir(folder or before)
    try:
        yield
    finally:
        os.chdir(before)


def run_here(script, *flags, cwd=None):
    """A CompletedProcess, as `subprocess.run` with captured text gives. script: relative to the clone."""
    main = import_module(script[:-len(".py")].replace("/", ".")).main
    before, sys.argv = sys.argv, [str(ROOT / script), *map(str, flags)]
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _in_folder(cwd):
            run(main)
    except SystemExit as end:
        return CompletedProcess(sys.argv, end.code or 0, out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
