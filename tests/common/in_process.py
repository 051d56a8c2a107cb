"""A command run in this process, where a new interpreter would take seconds to import MXNet."""
import contextlib
import io
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from common.cli import run

ROOT = Path(__file__).resolve().parents[2]


def run_here(script, *flags, cwd=None):
    """A CompletedProcess, as `subprocess.run` with captured text gives. script: relative to the clone."""
    main = import_module(script[:-len(".py")].replace("/", ".")).main
    words, out, err = [str(ROOT / script), *map(str, flags)], io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr("sys.argv", words)
        patch.chdir(cwd or ".")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run(main)
    return CompletedProcess(words, end.value.code or 0, out.getvalue(), err.getvalue())
