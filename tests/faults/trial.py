"""One trial: a command run in a fork of this process, which has everything imported, and what came of it.

A fork takes 30 ms where a new interpreter takes seconds to import MXNet. The parent must not have used MXNet.
"""
import atexit
import base64
import faulthandler
import fcntl
import importlib
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NamedTuple, Optional

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 2 << 30  # bytes that a command may ask the system for beyond what it begins with
CPU, WALL = 40, 300  # seconds
GROWTH = 300 << 20  # bytes by which a damage may raise the memory that is used
_STOPPED = 130  # a command's exit code after Ctrl-C


_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVQIHWP4DwABAQEANl9ngAAAAABJRU5ErkJggg=="  # a PNG


class Trial(NamedTuple):
    """What a command did. code: its exit code, None where it was ended or crashed; signal: which ended it; out, err:
    text; changed: paths below the box's parent that are new, changed or gone; memory: bytes used at most; seconds: it
    took."""

    code: Optional[int]
    signal: int
    out: str
    err: str
    changed: list
    memory: int
    seconds: float = 0.0


def import_all():
    """Import what commands import as they go, so that no fork has to; and let pictures take no seconds to draw."""
    sys.path.insert(0, str(ROOT))
    for path in sorted(ROOT.glob("[a-z]*/*.py")):
        if path.parent.name in ("common", "symbols", "datasets", "eval", "recognition"):
            importlib.import_module(f"{path.parent.name}.{path.stem}")
    from matplotlib.backends import backend_agg, backend_svg  # noqa: F401
    from matplotlib.figure import Figure

    Figure.savefig = _draw_nothing


def _draw_nothing(figure, target, format, **settings):
    """What stands in for `Figure.savefig`: all that a picture's reader needs is written as before."""
    nothing = base64.b64decode(_PIXEL) if format == "png" else "<svg></svg>"
    if hasattr(target, "write"):
        target.write(nothing)
    else:
        Path(target).write_bytes(nothing)


class Running:
    """A trial under way in a child process.

    box: the folder that the command runs in, whose `programs` are found before those of the system; words: script,
    relative to the clone, and flags. file_size: of the largest file that it may write, bytes; stdout: where its output
    goes; cpu: seconds that it may compute; wall: that it may take; until: words of its output, after which it gets
    Ctrl-C, as a server must to end well.
    """

    def __init__(self, box, words, file_size=None, stdout=None, cpu=CPU, wall=WALL, until=None):
        self.box, self.before, self.started = Path(box), snapshot(Path(box).parent), time.monotonic()
        pipes = [_pipe(), _pipe()]  # no files: these would count among those that must not grow too large
        self.streams, self.said = [reading for reading, _ in pipes], b""
        self.wall, self.until, self.stopped = wall, until, False
        self.pid = os.fork()
        if not self.pid:
            out, err = (writing for _, writing in pipes)
            _be_command(self.box, words, os.open(stdout, os.O_WRONLY) if stdout else out, err, (file_size, cpu))
        for _, writing in pipes:
            os.close(writing)

    def poll(self):
        """The Trial, or None while it runs."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if not pid:
            self._watch()
            return None
        seconds, after = time.monotonic() - self.started, snapshot(self.box.parent)
        changed = sorted(name for name in self.before.keys() | after.keys() if self.before.get(name) != after.get(name))
        out, err = map(_drain, self.streams)
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = None if ended else os.WEXITSTATUS(status)
        return Trial(0 if self.stopped and code == _STOPPED else code, ended, self.said.decode(errors="replace") + out,
                     err, changed, usage.ru_maxrss << 10, seconds)

    def _watch(self):
        """End the command where its time is up, or where it has said that it is ready."""
        if time.monotonic() - self.started > self.wall:
            os.kill(self.pid, signal.SIGKILL)
        if self.until and not self.stopped:
            try:
                self.said += os.read(self.streams[0], 1 << 16)
            except BlockingIOError:  # nothing was said
                pass
            if self.until.encode() in self.said:
                self.stopped = True
                os.kill(self.pid, signal.SIGINT)


def _pipe():
    """A pipe that holds a megabyte."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 1 << 20)
    os.set_blocking(ends[0], False)
    return ends


def _drain(stream):
    """All that is in a pipe, as text; the pipe is closed."""
    parts = []
    with open(stream, "rb", buffering=0) as file:
        while not parts or parts[-1]:
            parts.append(file.read(1 << 20) or b"")  # None where a process still holds the other end
    return b"".join(parts).decode(errors="replace")


def snapshot(folder):
    """What is below a folder: path -> what tells a change."""
    found = {}
    for where, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(where, name)
            stat = os.lstat(path)
            is_folder = name in folders and not os.path.islink(path)
            found[os.path.relpath(path, folder)] = is_folder or (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return found


def fork(function, folder):
    """Call a function in a child process in a folder; raises RuntimeError where it fails."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.chdir(folder)
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(f"{function}: the input could not be made")


def fresh(source, target):
    """A copy of the folder `source` as `target`, which is replaced."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)


def _be_command(box, words, out, err, limits):
    """What the child does: the command, as if it had been started anew."""
    code = 1
    try:
        _redirect(out, err)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
        os.environ["PATH"] = f"{box / 'programs'}{os.pathsep}{os.environ['PATH']}"
        os.chdir(box)
        _limit(*limits)
        code = _run(words)
        threading._shutdown()  # waits for threads, as the interpreter does at its end
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stderr.flush()
        os._exit(code)


def _redirect(out, err):
    for number, stream in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    faulthandler.enable(open(2, "w", closefd=False))


def _limit(file_size, cpu):
    data = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (data + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size,) * 2)


def _run(words):
    from common import cli

    script, *flags = words
    sys.argv = [str(ROOT / script), *flags]
    module = importlib.import_module(script[:-len(".py")].replace("/", "."))
    try:
        cli.run(module.main)
    except SystemExit as end:
        return end.code or 0
    except BaseException:  # what the interpreter would do
        traceback.print_exc()
        return 1
    return 0
