"""Train with several workers, on this machine or on those of a file, through MXNet's parameter server.

    python recognition/launch.py --workers 2 --servers 2 -- --network r50 --loss arcface --kvstore dist_sync
    python recognition/launch.py --hosts hosts.txt -- --network r50 --loss arcface --kvstore dist_sync

What stands behind `--` goes to recognition/train.py. When one of the processes fails, all are stopped.
"""
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(ROOT)

from common.cli import ArgumentParser, run
from common.errors import UserError
from common.files import read_text
from common.flags import positive
from recognition.role import ALIVE, GRACE, INTERRUPT, STOP

# A connection that is lost is known after 45 seconds; no password can be asked for.
SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15",
       "-o", "ServerAliveCountMax=3")
_FORWARDED = ("LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MXNET_", "PS_")  # names, or how they begin
_HOST = re.compile(r"([\w.+\\-]+@)?\w[\w.-]{0,252}", re.ASCII)  # and the user before it
_INTERRUPTED = 60  # seconds in which workers may end their step, and save their state, after Ctrl-C
_USER_ERROR = 2  # what a command exits with that cannot do what it is asked, see common/cli.py
_ENDING = 30  # seconds in which scheduler and servers may end after the workers


class Role:
    """A process of the training, run by recognition/role.py here or on a host.

    name: what its lines and messages begin with; job: see `role.start`; host: of ssh, None for this machine.
    """

    def __init__(self, name, job, host=None, python=sys.executable):
        self.name, self.host = name, host
        self._command = [python, str(ROOT / "recognition" / "role.py")]
        if host:
            self._command = [*SSH, host, f"exec {shlex.join(self._command)}"]
        self._job = job

    def start(self):
        """Start it. Its lines are printed from now on, each behind its name."""
        try:  # in a session of its own: Ctrl-C comes to the launcher alone
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                             stderr=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            raise UserError(f"{self._command[0]}: cannot be run: {error.strerror}") from error
        self._readers = [threading.Thread(target=self._pass_on, args=streams, daemon=True) for streams in
                         ((self._process.stdout, sys.stdout), (self._process.stderr, sys.stderr))]
        for reader in self._readers:
            reader.start()
        self.say(json.dumps(self._job).encode() + b"\n")

    def _pass_on(self, source, target):
        for line in source:
            try:
                target.write(f"[{self.name}] {line.decode('utf-8', 'replace')}")
                target.flush()
            except OSError:  # nobody reads any longer; the process must not wait for that
                pass

    def say(self, data):
        """Write to the process that runs it."""
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:  # it has ended
            pass

    @property
    def code(self):
        """Its exit code, 128 + n where signal n ended it; None while it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def end(self, timeout):
        """Wait for its end, `timeout` seconds at most; it is killed then."""
        try:
            self._process.wait(max(0, timeout))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(1)

    def fate(self):
        """How it ended, in words."""
        where = f"{self.name} on {self.host}" if self.host else self.name
        if self.host and self.code == 255:
            return f"{where}: ssh ended with code 255: no connection, or it was lost"
        if self.code > 128:
            return f"{where} was ended by signal {self.code - 128}"
        return f"{where} ended with code {self.code}"


def supervise(roles, workers):
    """Start all roles and wait until the workers, some of them, are done. When one role fails all are stopped.

    Returns (exit code, what happened: a line, empty where all went well). KeyboardInterrupt and SystemExit first let
    the workers end by themselves; a second one, and whatever else raises, stops all at once.
    """
    begun = []
    try:
        for role in roles:
            role.start()
            begun.append(role)
        code, line = _wait(roles, workers)
    except (KeyboardInterrupt, SystemExit):
        for worker in workers:
            worker.say(INTERRUPT)
        _until(lambda: all(worker.code is not None for worker in workers), _INTERRUPTED, begun)
        raise
    finally:
        for role in begun:
            role.say(STOP)
        deadline = time.monotonic() + GRACE + 5
        for role in begun:
            role.end(deadline - time.monotonic())
    return code, line


def _wait(roles, workers):
    def failed():
        return [role for role in roles if role.code]

    _until(lambda: failed() or all(worker.code == 0 for worker in workers), None, roles)
    if not failed():
        _until(lambda: failed() or all(role.code == 0 for role in roles), _ENDING, roles)
    for role in failed():
        return role.code, f"{role.fate()}; all others were stopped"
    return 0, ""


def _until(condition, seconds, roles):
    """Wait until the condition is true, `seconds` at most, while the roles hear that somebody is there."""
    started = told = time.monotonic()
    while not condition() and (seconds is None or time.monotonic() - started < seconds):
        if time.monotonic() - told > 5:
            told = time.monotonic()
            for role in roles:
                role.say(ALIVE)
        time.sleep(0.1)


def make_roles(command, num_workers, num_servers, hosts=(), port=0, python=sys.executable):
    """The roles of a training: (all, the workers among them).

    command: list of str, which every role runs, MXNet making a scheduler or server of it by the variables DMLC_*.
    hosts: as ssh knows them, dealt out in turn, the first with the scheduler and the first worker; none: this machine,
    over the loopback interface. port: of the scheduler; 0: one that is free here.
    """
    addresses = _addresses(hosts)
    shared = dict(DMLC_PS_ROOT_URI=addresses[0], DMLC_PS_ROOT_PORT=str(port or _free_port()),
                  DMLC_NUM_WORKER=str(num_workers), DMLC_NUM_SERVER=str(num_servers))
    if hosts:
        shared.update((name, value) for name, value in os.environ.items() if name.startswith(_FORWARDED))
    places = len(addresses)

    def make(kind, number, count):
        place = number % places
        computing = [n for n in range(num_workers) if n % places == place]
        environment = dict(shared, DMLC_ROLE=kind, DMLC_NODE_HOST=addresses[place])
        if kind == "worker":
            environment["DMLC_WORKER_ID"] = str(number)
        job = dict(command=command, folder=os.getcwd(), environment=environment, sharing=max(1, len(computing)))
        return Role(f"{kind} {number}" if count > 1 else kind, job, hosts[place] if hosts else None, python)

    workers = [make("worker", number, num_workers) for number in range(num_workers)]
    servers = [make("server", number, num_servers) for number in range(num_servers)]
    return [*workers, make("scheduler", 0, 1), *servers], workers


def _addresses(hosts, where="--hosts"):
    """The address of each host, by which the others reach it; MXNet takes no names. where: what messages call them."""
    if not hosts:
        return ["127.0.0.1"]
    found = [_address(host, where) for host in hosts]
    inner = [address.startswith("127.") for address in found]
    if any(inner) and not all(inner):
        raise UserError(f"{where}: {hosts[inner.index(True)]} is {found[inner.index(True)]} here, where the other "
                        "machines cannot reach it; write its address in the network")
    return found


def _address(host, where):
    try:
        return socket.gethostbyname(host.rpartition("@")[2])
    except (OSError, UnicodeError) as error:  # UnicodeError: a part between dots that is empty or too long
        raise UserError(f"{where}: {host} has no address: {getattr(error, 'strerror', None) or error}") from error


def _free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def read_hosts(path):
    """The hosts of a file, one a line, `#` before a comment. Raises UserError or DataError where there are none."""
    lines = [line.partition("#")[0].split() for line in read_text(path).splitlines()]
    hosts = [words for words in lines if words]
    if not hosts or any(len(words) > 1 or words[0].startswith("-") or not _HOST.fullmatch(words[0]) for words in hosts):
        raise UserError(f"{path}: expected a host on each line, as ssh takes it, such as 10.0.0.5 or me@node1")
    return [words[0] for words in hosts]


def parse_args(args=None):
    """(the launcher's flags, the flags of train.py)."""
    args = sys.argv[1:] if args is None else args
    own, training = (args[:args.index("--")], args[args.index("--") + 1:]) if "--" in args else (args, [])
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=positive, help="processes that train; left out: one for each host")
    parser.add_argument("--servers", type=positive, help="processes that sum gradients; left out: one for each host")
    parser.add_argument("--hosts", default="", help="file with a host a line, as ssh takes it; empty: this machine")
    parser.add_argument("--port", type=int, default=0, help="of the scheduler, on the first host; 0: one free here")
    parser.add_argument("--restarts", type=int, default=0, help="times that a training which failed goes on from its "
                        "last state (--resume), unless a flag or a file was at fault")
    parser.add_argument("--python", default=sys.executable, help="Python on the hosts")
    flags = parser.parse_args(own)
    kinds = ArgumentParser(add_help=False)
    kinds.add_argument("--kvstore", default="")
    kinds.add_argument("--config", default="")
    found, _ = kinds.parse_known_args(training)
    if not found.kvstore.startswith("dist_") and not (found.config and not found.kvstore):
        parser.error("expected --kvstore dist_sync or dist_device_sync among the flags of train.py, behind --")
    return flags, training


def main():
    flags, training = parse_args()
    hosts = read_hosts(flags.hosts) if flags.hosts else []
    _addresses(hosts, flags.hosts)  # an error shows here, under the file's name
    workers, servers = flags.workers or len(hosts) or 1, flags.servers or len(hosts) or 1
    print(f"workers: {workers}, servers: {servers}, on {', '.join(hosts) or 'this machine'}", flush=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    command = [flags.python, str(ROOT / "recognition" / "train.py"), *training]
    return _train(command, flags.restarts,
                  lambda words: make_roles(words, workers, servers, hosts, flags.port, flags.python))


def _train(command, restarts, make):
    """Run a training, and go on with it where it fails. make: callable, command -> its roles. Returns the exit code."""
    for left in range(restarts, -1, -1):
        code, line = supervise(*make(command))
        if not line:
            break
        if not left or code == _USER_ERROR:
            print(f"error: {line}", file=sys.stderr)
            break
        print(f"warning: {line}; goes on with --resume, {left} times at most", file=sys.stderr, flush=True)
        command = command + ([] if "--resume" in command else ["--resume"])
    return code


if __name__ == "__main__":
    run(main)
