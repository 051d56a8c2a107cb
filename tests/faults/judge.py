"""What a trial is worth: a clear line, a success for which there is a reason, or a failure."""
import re
from pathlib import Path

from trial import GROWTH

LONGEST = 1000  # characters of a line
FINDING = "the doctor reports a finding: exit code 1"
CLEAR, ACCEPTED, FAILED = "clear", "accepted", "failed"


def judge(trial, memory, files=(), output=(), accepted=None, canary=None, codes=()):
    """(CLEAR, ACCEPTED or FAILED, why).

    memory: bytes that the good run took; files: relative to the box, of which a message must name one; output: what may
    change; accepted: why success is right, None where it is not; canary: what code in a file would make; codes: exit
    codes beside 0 that count as success.
    """
    for what in (_crash(trial), _mess(trial, output, canary), _memory(trial, memory)):
        if what:
            return FAILED, what
    if trial.code == 2:
        what = unclear(trial.err, [file for file in files if file])
        return (FAILED, what) if what else (CLEAR, trial.err.strip().splitlines()[-1])
    if trial.code in codes:
        return ACCEPTED, FINDING
    if trial.code == 0:
        return (ACCEPTED, accepted) if accepted else (FAILED, "no word of it")
    return FAILED, f"exit code {trial.code}: {_last(trial.err)}"


def _crash(trial):
    if trial.signal:
        return f"ended by signal {trial.signal}: {_last(trial.err)}"
    return f"traceback: {_last(trial.err)}" if "Traceback" in trial.err or "Exception" in trial.err else None


def _mess(trial, output, canary):
    """What was changed that should not have been."""
    if canary is not None and Path(canary).exists():
        return "code in the file was run"
    wrong = [name for name in trial.changed
             if not _is_output(name, output) or trial.code == 2 and name.endswith(".tmp")]
    return f"changed: {', '.join(wrong[:3])}" if wrong else None


def _is_output(name, output):
    return any(name == f"box/{part}" or name.startswith((f"box/{part}/", f"box/{part}.missing")) for part in output)


def _memory(trial, memory):
    grown = trial.memory - memory
    return f"memory: {grown >> 20} MiB more than with good input" if grown > GROWTH else None


def unclear(text, files=()):
    """What is wrong with the words of an error, None where there is one clear line that names one of the files."""
    lines = [line for line in re.split("[\n\r]", text) if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if len(errors) != 1 or lines[-1] != errors[0]:
        return f"{len(errors)} lines of error: {_last(text)}"
    if not errors[0].isprintable():
        return f"not printable: {errors[0]!r}"
    if len(errors[0]) > LONGEST:
        return f"a line of {len(errors[0])} characters"
    if files and not any(name in errors[0] for file in files for name in names(file)):
        return f"does not name the file: {errors[0]}"
    return None


def names(file):
    """How a message may call a file: its name, a folder that it is in, the prefix of a checkpoint."""
    path = Path(file)
    found = [path.name, *(str(parent) for parent in path.parents if str(parent) != ".")]
    prefix = re.fullmatch(r"(.+)-(symbol\.json|\d{4}\.params)", file)
    return found + ([prefix[1]] if prefix else [])


def _last(text):
    return (text.strip().splitlines() or ["no output"])[-1][:300]
