"""The launcher with small commands in place of a training: what each gets, and that nothing is left when one ends."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import UserError
from recognition import launch

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from common.cli import run
from recognition import launch

def main():
    command, workers, servers, hosts = json.loads(sys.argv[1])
    roles, workers = launch.make_roles(command, workers, servers, hosts)
    code, line = launch.supervise(roles, workers)
    print("line:", line)
    return code

run(main)
"""
SSH = f"""#!{sys.executable}
# Stands in for ssh as far as the launcher can tell: the command runs in another session, and its input ends with this.
import subprocess, sys
host, command = sys.argv[-2:]
if host == "away":
    sys.exit(255)
print("to", host)
sys.stdout.flush()
remote = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, start_new_session=True)
try:
    while remote.poll() is None:
        data = sys.stdin.buffer.raw.read(100)
        if not data:
            remote.stdin.close()
            break
        remote.stdin.write(data)
        remote.stdin.flush()
except OSError:
    pass
sys.exit(remote.wait())
"""


def start(tmp_path, shell, workers=2, servers=1, hosts=()):
    """A launcher of a shell command, which is told where to write by $DIR. Returns the Popen."""
    return subprocess.Popen([sys.executable, "-c", LAUNCH, json.dumps([["sh", "-c", shell], workers, servers, hosts])],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
                            env={**os.environ, "DIR": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"})


def written(folder, count):
    """The numbers in files that the commands write, *.pid, once there are so many."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = [path.read_text().split() for path in folder.glob("*.pid")]
        if len(found) == count and all(found):
            return [int(number) for words in found for number in words]
        time.sleep(0.05)
    raise AssertionError(f"{len(found)} of {count} began")


def runs(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    except OSError:  # it has ended, perhaps since the file was opened
        return False


def all_gone(numbers, seconds=15):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(map(runs, numbers)):
            return True
        time.sleep(0.05)
    return False


BEGIN = 'sleep 1000 & echo $$ $! > $PWD/$DMLC_ROLE$DMLC_WORKER_ID$DMLC_SERVER_ID.$$.pid; '  # and a process of its own


@pytest.fixture
def ssh(tmp_path):
    (tmp_path / "ssh").write_text(SSH)
    (tmp_path / "ssh").chmod(0o755)
    return tmp_path / "ssh"


def test_what_each_role_is_told(tmp_path):
    done = start(tmp_path, 'echo "$DMLC_ROLE $DMLC_WORKER_ID of $DMLC_NUM_WORKER and $DMLC_NUM_SERVER at '
                           '$DMLC_PS_ROOT_URI $DMLC_NODE_HOST"; echo low >&2', servers=2)
    out, err = done.communicate(timeout=30)
    assert done.returncode == 0
    names = {"scheduler": "scheduler ", "server 0": "server ", "server 1": "server ", "worker 0": "worker 0",
             "worker 1": "worker 1"}
    assert sorted(out.splitlines()) == [*(f"[{name}] {told} of 2 and 2 at 127.0.0.1 127.0.0.1"
                                          for name, told in names.items()), "line: "]
    assert sorted(err.splitlines()) == [f"[{name}] low" for name in names]


def test_one_fails_and_all_are_stopped(tmp_path):
    """With what they have started, and where they do not heed SIGTERM."""
    done = start(tmp_path, BEGIN + 'trap "" TERM; while [ $DMLC_ROLE$DMLC_WORKER_ID != worker1 ] || '
                                   '[ $(ls *.pid | wc -l) -lt 4 ]; do sleep 0.1; done; exit 7')
    numbers = written(tmp_path, 4)
    out, _ = done.communicate(timeout=30)
    assert done.returncode == 7 and "line: worker 1 ended with code 7; all others were stopped" in out
    assert all_gone(numbers)


@pytest.mark.parametrize("victim, code, line", [
    ("worker0", 137, "worker 0 was ended by signal 9"), ("scheduler", 137, "scheduler was ended by signal 9")])
def test_a_role_is_killed(tmp_path, victim, code, line):
    done = start(tmp_path, BEGIN + "wait")
    numbers = written(tmp_path, 4)
    os.kill(int(next(tmp_path.glob(f"{victim}*.pid")).read_text().split()[0]), signal.SIGKILL)
    out, _ = done.communicate(timeout=30)
    assert done.returncode == code and f"line: {line}; all others were stopped" in out
    assert all_gone(numbers)


def test_the_launcher_is_killed(tmp_path):
    done = start(tmp_path, BEGIN + "wait")
    numbers = written(tmp_path, 4)
    done.kill()
    assert all_gone(numbers)
    done.communicate()


def test_ctrl_c_reaches_the_workers(tmp_path):
    done = start(tmp_path, 'trap "echo told; exit 130" INT; ' + BEGIN + "while true; do sleep 0.1; done")
    numbers = written(tmp_path, 4)
    done.send_signal(signal.SIGINT)
    out, err = done.communicate(timeout=30)
    assert done.returncode == 130 and "stopped" in err
    assert sorted(line for line in out.splitlines() if "told" in line) == ["[worker 0] told", "[worker 1] told"]
    assert all_gone(numbers)


def test_silence_of_the_launcher_ends_a_role(tmp_path):
    """A connection that is cut without a word."""
    role = subprocess.Popen([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
                             "from recognition import role\nrole.SILENCE = 1\nrole.main()"], stdin=subprocess.PIPE)
    role.stdin.write(b'{"command": ["sleep", "1000"], "folder": ".", "environment": {}, "sharing": 1}\n')
    role.stdin.flush()
    assert role.wait(15) == 128 + signal.SIGTERM


class TestHosts:
    HOSTS = ("me@127.0.0.1", "127.0.0.2", "127.0.0.3")

    def test_roles_are_dealt_out(self, tmp_path, ssh, monkeypatch):
        monkeypatch.setenv("MXNET_TEST", "there")
        done = start(tmp_path, 'echo "$DMLC_NODE_HOST of $DMLC_PS_ROOT_URI, $MXNET_TEST $PWD"', 4, 3, self.HOSTS)
        out, err = done.communicate(timeout=30)
        assert done.returncode == 0, err
        place = f"of 127.0.0.1, there {tmp_path}"
        for name, host in (("worker 0", "me@127.0.0.1"), ("worker 1", "127.0.0.2"), ("worker 2", "127.0.0.3"),
                           ("worker 3", "me@127.0.0.1"), ("scheduler", "me@127.0.0.1"), ("server 2", "127.0.0.3")):
            assert f"[{name}] to {host}" in out and f"[{name}] {host.split('@')[-1]} {place}" in out

    def test_code_of_a_remote_role(self, tmp_path, ssh):
        done = start(tmp_path, "[ $DMLC_ROLE = scheduler ] && exit 3; sleep 1000", hosts=self.HOSTS)
        out, _ = done.communicate(timeout=30)
        assert done.returncode == 3 and "scheduler on me@127.0.0.1 ended with code 3" in out

    def test_remote_processes_end_with_the_connection(self, tmp_path, ssh):
        done = start(tmp_path, BEGIN + "wait", hosts=self.HOSTS)
        numbers = written(tmp_path, 4)
        worker, = tmp_path.glob("worker1.*.pid")
        role = parent(int(worker.read_text().split()[0]))
        os.kill(parent(role), signal.SIGKILL)
        out, _ = done.communicate(timeout=30)
        assert done.returncode == 137 and "worker 1 on 127.0.0.2 was ended by signal 9" in out
        assert all_gone(numbers)

    def test_remote_processes_end_with_the_launcher(self, tmp_path, ssh):
        done = start(tmp_path, BEGIN + "wait", hosts=self.HOSTS)
        numbers = written(tmp_path, 4)
        done.kill()
        assert all_gone(numbers)
        done.communicate()

    def test_no_connection(self, tmp_path, ssh, monkeypatch):
        monkeypatch.setattr(launch, "_addresses", lambda hosts: ["127.0.0.1", "127.0.0.1"])
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        roles, workers = launch.make_roles(["sleep", "1000"], 2, 1, ["127.0.0.1", "away"])
        code, line = launch.supervise(roles, workers)
        assert code == 255 and line.startswith("worker 1 on away: ssh ended with code 255")

    def test_file(self, tmp_path):
        path = tmp_path / "hosts.txt"
        path.write_text("# ours\nme@node1  # the first\n\n10.0.0.5\n")
        assert launch.read_hosts(path) == ["me@node1", "10.0.0.5"]
        for text in ("", "# none", "one two", "-oProxyCommand=x", "one;two", "one\u00e9", "n" * 300):
            path.write_text(text)
            with pytest.raises(UserError, match="hosts.txt: expected a host on each line"):
                launch.read_hosts(path)

    @pytest.mark.parametrize("host, message", [("a..b", "a..b has no address"), ("no.such.invalid", "has no address")])
    def test_names_without_an_address(self, tmp_path, host, message):
        (tmp_path / "hosts.txt").write_text(f"10.0.0.5\n{host}\n")
        flags = ["--hosts", "hosts.txt", "--", "--kvstore", "dist_sync"]
        done = subprocess.run([sys.executable, ROOT / "recognition/launch.py", *flags], stderr=subprocess.PIPE,
                              text=True, cwd=tmp_path)
        assert done.returncode == 2 and re.fullmatch(f"error: hosts.txt: .*{re.escape(message)}.*\n", done.stderr)

    def test_an_address_that_only_this_machine_has(self):
        with pytest.raises(UserError, match="localhost is 127.0.0.1 here"):
            launch.make_roles([], 2, 1, ["localhost", "10.0.0.5"])


def parent(number):
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("flags, message", [
    ([], "expected --kvstore dist_sync"), (["--workers", "0", "--", "--kvstore", "dist_sync"], "from 1 on"),
    (["--", "--kvstore", "device"], "expected --kvstore dist_sync"), (["--network", "r50"], "--network"),
    (["--hosts", "nowhere.txt", "--", "--kvstore", "dist_sync"], "nowhere.txt: cannot be read")])
def test_bad_flags_are_one_line(tmp_path, flags, message):
    done = subprocess.run([sys.executable, ROOT / "recognition/launch.py", *flags], capture_output=True, text=True,
                          cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and message in done.stderr


@pytest.mark.parametrize("text", ["", "no job", "[]", "{}", "[" * 100000])
def test_a_role_without_a_launcher(text):
    done = subprocess.run([sys.executable, ROOT / "recognition/role.py"], input=text, capture_output=True, text=True)
    assert done.returncode == 2 and re.fullmatch("error: standard input: expected a job.*\n", done.stderr)
