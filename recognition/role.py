"""Runs one process of a training on several machines, on its machine, for `recognition/launch.py`.

Its input is the launcher's hold on it, over ssh as well: a line of JSON says what to run, then every byte says that the
launcher is still there. Where the bytes end, by silence or by the connection's, the process and all that it started are
stopped. So nothing goes on running that no launcher watches.
"""
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cores import cpu_count

ALIVE, INTERRUPT, STOP = b".", b"i", b"s"  # what the launcher writes
SILENCE = 60  # seconds without a byte, after which the launcher is taken for gone
GRACE = 5  # seconds to end in after SIGTERM
_PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent is gone


def start(job):
    """Start the process that a job, a dict, describes: command, folder, environment, and sharing, the number of
    processes that compute on this machine. It leads a group of its own. Returns the Popen."""
    environment = {**os.environ, **job["environment"]}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // job["sharing"])))
    libc = ctypes.CDLL(None)
    return subprocess.Popen(job["command"], cwd=job["folder"], env=environment, stdin=subprocess.DEVNULL,
                            start_new_session=True, preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))


def watch(process):
    """Wait until the process ends, by itself or because the launcher says so or is gone. Returns its exit code."""
    silence = 0  # in tenths of a second, counted here: by the clock, one who was suspended would find a long one
    while process.poll() is None and silence < 10 * SILENCE:
        if not select.select([0], [], [], 0.1)[0]:
            silence += 1
            continue
        said, silence = os.read(0, 4096), 0
        if INTERRUPT in said:
            send(process, signal.SIGINT)
        if STOP in said or not said:
            break
    send(process, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        pass
    send(process, signal.SIGKILL)
    return process.wait()


def send(process, number):
    """Send a signal to a process's whole group."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:  # it has ended, and all that it started
        pass


def read_job():
    """The job that the standard input's first line describes, unbuffered, so that `select` sees all that follows."""
    try:
        job = json.loads(sys.stdin.buffer.raw.readline())
        return {name: job[name] for name in ("command", "folder", "environment", "sharing")}
    except (ValueError, KeyError, TypeError, RecursionError):
        print("error: standard input: expected a job, as recognition/launch.py writes it, which starts this command",
              file=sys.stderr)
        sys.exit(2)


def main():
    job = read_job()
    try:
        code = watch(start(job))
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        code = 127
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
