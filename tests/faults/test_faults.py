"""Bad inputs: a drawn sample of the table, and the checks of the table themselves, each of which can fail."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from commands import TABLE, WITHOUT_FILES
from damages import KINDS, damages
from judge import ACCEPTED, CLEAR, FAILED, LONGEST, judge
from outputs import PLACES
from text_forms import JSON, TEXT
from trial import GROWTH, Trial

GOOD = Trial(0, 0, "done", "", [], 100 << 20)


def test_a_sample():
    """Each command with good input, and of one file in three a damage."""
    done = subprocess.run([sys.executable, str(HERE / "table.py"), "--sample", "1", "--share", "0.33", "--seed", "1"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    assert re.search(rf"^{len(TABLE)} commands, \d{{2,}} trials: \d+ clear lines, \d+ go on for a reason, 0 failures$",
                     done.stdout, re.M), done.stdout


def test_every_command_is_in_the_table():
    commands = {path.relative_to(ROOT).as_posix() for room in ("common", "symbols", "datasets", "eval", "recognition")
                for path in (ROOT / room).glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert commands == {line.words.split()[0] for line in TABLE} | set(WITHOUT_FILES)


def test_no_line_is_there_twice():
    assert len({line.words for line in TABLE}) == len(TABLE)


@pytest.mark.parametrize("form, data", [(TEXT, b"a/b.jpg c/d.jpg 1\n" * 9), (JSON, b'{"a": [1, "b", {"c": null}]}')])
def test_damages(form, data, tmp_path):
    import numpy as np

    found, contents = damages(form, data, tmp_path / "canary", np.random.RandomState(0)), []
    assert {damage.kind for damage in found} == set(KINDS)
    assert sum(damage.kind == "truncated" for damage in found) == 20
    for damage in found:
        path = tmp_path / "file"
        path.write_bytes(data)
        damage.apply(str(path))
        contents.append(path.read_bytes() if path.is_file() else None)
        if path.is_dir():
            path.rmdir()
        elif path.is_symlink() or path.exists():
            path.unlink()
    assert data not in contents


@pytest.mark.parametrize("change, accepted, verdict, why", [
    ({}, "as it should", ACCEPTED, "as it should"),
    ({}, None, FAILED, "no word of it"),
    (dict(code=2, err="bar 3/9\rerror: a/b.bin: cut short\n"), None, CLEAR, "error: a/b.bin: cut short"),
    (dict(code=2, err="error: x/model,1: no array\n"), None, CLEAR, "x/model,1"),
    (dict(code=2, err="error: something is wrong\n"), None, FAILED, "does not name the file"),
    (dict(code=2, err="error: a/b.bin: one\nerror: a/b.bin: two\n"), None, FAILED, "2 lines of error"),
    (dict(code=2, err="error: a/b.bin\nand more\n"), None, FAILED, "1 lines of error"),
    (dict(code=2, err="3/9 error: a/b.bin\n"), None, FAILED, "0 lines of error"),
    (dict(code=2, err="error: a/b.bin \x1b[2J\n"), None, FAILED, "not printable"),
    (dict(code=2, err=f"error: a/b.bin {'x' * LONGEST}\n"), None, FAILED, "a line of"),
    (dict(code=1, err="Traceback (most recent call last):\nValueError: x\n"), "yes", FAILED, "traceback: ValueError"),
    (dict(code=None, signal=11), "yes", FAILED, "signal 11"),
    (dict(code=3), "yes", FAILED, "exit code 3"),
    (dict(memory=GOOD.memory + GROWTH + (1 << 20)), "yes", FAILED, "MiB more than"),
    (dict(changed=["box/a/b.bin"]), "yes", FAILED, "changed: box/a/b.bin"),
    (dict(changed=["escaped"]), "yes", FAILED, "changed: escaped"),
    (dict(changed=["box/outdir/x"]), "yes", ACCEPTED, "yes"),
    (dict(code=2, err="error: a/b.bin: x\n", changed=["box/outdir/.x.tmp"]), None, FAILED, "changed: box/outdir"),
])
def test_verdicts(change, accepted, verdict, why):
    found = judge(GOOD._replace(**change), GOOD.memory, ["a/b.bin", "x/model-0001.params"], ("outdir",), accepted)
    assert found[0] == verdict and why in found[1], found


def test_code_that_was_run_shows(tmp_path):
    (tmp_path / "canary").touch()
    assert judge(GOOD, GOOD.memory, canary=tmp_path / "canary", accepted="yes") == (FAILED, "code in the file was run")


_DRIVER = """
import sys, time, types
sys.path.insert(0, sys.argv[1])
import trial
sys.path.insert(0, str(trial.ROOT))
fake = sys.modules["fake"] = types.ModuleType("fake")
def crash():
    import ctypes; ctypes.string_at(0)
def loop():
    while True: pass
def fill():
    return len(bytearray(800 << 20)) * 0
def ask():
    return len(bytearray(1 << 40))
def write():
    open("../outside", "w").close()
def fail():
    from common.errors import UserError; raise UserError("x" + chr(10) + "y")
fake.main = globals()[sys.argv[3]]
running = trial.Running(sys.argv[2], ["fake.py"], cpu=1 if sys.argv[3] == "loop" else 20)
found = None
while found is None:
    found = running.poll(); time.sleep(0.01)
print(found.code, found.signal, found.memory >> 20, found.changed, found.err.strip().splitlines()[-1:])
"""


@pytest.mark.parametrize("what, told", [
    ("crash", r"None 11 "), ("loop", r"None 24 "), ("fill", r"0 0 (8|9)\d\d \[\]"), ("ask", r"1 0 .*MemoryError"),
    ("write", r"0 0 \d+ \['outside'\]"), ("fail", r"2 0 \d+ \[\] \['error: x y'\]")])
def test_trials_show_what_a_command_does(what, told, tmp_path):
    (tmp_path / "case" / "box").mkdir(parents=True)
    done = subprocess.run([sys.executable, "-c", _DRIVER, str(HERE), str(tmp_path / "case" / "box"), what],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert re.match(told, done.stdout), (done.stdout, done.stderr)


def test_outputs_are_all_tried():
    assert {"in a file", "in /proc", "a full device"} <= set(PLACES)
