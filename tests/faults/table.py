"""Run the table of bad inputs: every command, every file that it reads, damaged in every way.

    python tests/faults/table.py                     # all of it; writes results/faults*.csv
    python tests/faults/table.py --only align        # commands in whose words this is; writes nothing
    python tests/faults/table.py --sample 2          # of each file so many damages, drawn by --seed; writes nothing

Good input must succeed. Damaged input must give one clear line and exit code 2, in bounded time and memory, and change
nothing but the output; what may go on has a reason in `commands`. See docs/faults.md.
"""
import argparse
import os
import re
import shutil
import sys
import tempfile
import time
import zlib
from collections import Counter, namedtuple
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several trials run at once
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from damages import damages
from judge import ACCEPTED, CLEAR, FAILED, judge
from outputs import output_cases
from trial import Running, fork, fresh, import_all

OUTPUT = "output"  # kind of what is wrong with it
Case = namedtuple("Case", "command file kind name prepare words limits accepted told", defaults=({}, None, ()))
Case.__doc__ = """One trial. prepare: called with the box before the command; words: the command's; limits: of Running;
accepted: why it may succeed, or None; told: other names that a message may have."""


class Stand:
    """Where trials run: a folder with the good input of each command, and one for each trial."""

    def __init__(self, folder, jobs):
        self.folder, self.jobs, self.memory = Path(folder), jobs, {}
        self.canary = self.folder / "canary"

    def source(self, command):
        """The folder of a command's good input."""
        return self.folder / f"good-{zlib.crc32(command.words.encode()):08x}"

    def good(self, commands):
        """Make the input of each command and run it: yields as `run` does."""
        for command in commands:
            source = self.source(command)
            source.mkdir()
            fork(lambda command=command: [make() for make in command.make], source)
        cases = [Case(command, "", "good", "", None, command.words, accepted="the input is good")
                 for command in commands]
        for case, trial, verdict, why in self.run(cases):
            self.memory[case.command.words] = trial.memory
            yield case, FAILED if trial.code else verdict, why

    def run(self, cases):
        """Run the cases, several at once: yields (case, Trial, verdict, why)."""
        running, cases = {}, enumerate(cases)
        while True:
            while len(running) < self.jobs:
                number, case = next(cases, (None, None))
                if case is None:
                    break
                running[number] = case, self._start(number, case)
            if not running:
                return
            for number, (case, started) in list(running.items()):
                trial = started.poll()
                if trial is not None:
                    del running[number]
                    yield case, trial, *self._judge(case, trial)
                    shutil.rmtree(started.box.parent, ignore_errors=True)
            time.sleep(0.002)

    def _start(self, number, case):
        box = self.folder / f"case-{number}" / "box"
        fresh(self.source(case.command), box)
        if case.prepare:
            case.prepare(box)
        return Running(box, case.words.split(), **case.limits)

    def _judge(self, case, trial):
        memory = self.memory.get(case.command.words, trial.memory)
        found = judge(trial, memory, (case.file, *case.told), case.command.output, case.accepted, self.canary,
                      case.command.codes)
        self.canary.unlink() if self.canary.is_file() else self.canary.exists() and self.canary.rmdir()
        return found

    def cases(self, command, seed=0, sample=None):
        """The cases of a command: all damages of its files, or `sample` of each; and those of its output."""
        drawn = np.random.RandomState([seed, zlib.crc32(command.words.encode())])
        for reads in command.reads:
            path = next(self.source(command).glob(reads.path)).relative_to(self.source(command))
            data = (self.source(command) / path).read_bytes()
            found = damages(reads.form, data, self.canary, np.random.RandomState([seed, len(data)]))
            for number in sorted(drawn.permutation(len(found))[:sample]):
                damage = found[number]
                what = f"{damage.kind}: {damage.name}"
                accepted = next((reason for kind, reason in reads.accepts.items() if re.match(kind, what)),
                                damage.harmless)
                yield Case(command, str(path), damage.kind, damage.name,
                           lambda box, damage=damage, path=path: damage.apply(str(box / path)), command.words,
                           accepted=accepted, told=reads.told)
        found = list(output_cases(command))
        for number in sorted(drawn.permutation(len(found))[:sample]):
            name, place, words, prepare, limits, accepted = found[number]
            yield Case(command, place, OUTPUT, name, prepare, words, limits, accepted)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="commands in whose words this is")
    parser.add_argument("--kind", default="", help="damages of this kind alone")
    parser.add_argument("--sample", type=int, help="damages of each file; not given: all")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--jobs", type=int, default=2, help="trials at once")
    parser.add_argument("--log", default=os.devnull, help="file to write every trial to")
    return parser.parse_args()


@contextmanager
def scratch():
    """A folder for the time of the block. (A TemporaryDirectory would be removed by the first fork that ends.)"""
    folder = tempfile.mkdtemp(prefix="faults-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_table(commands, args, log):
    """Run the trials of commands, telling of each failure. Returns counts, (command's words, file, kind, verdict,
    reason) -> number, and how many commands failed with good input."""
    counts, bad = Counter(), 0
    with scratch() as folder:
        stand = Stand(folder, args.jobs)
        for case, verdict, why in stand.good(commands):
            print("good", verdict, case.words, why, sep="\t", file=log)
            if verdict == FAILED:
                bad += 1
                print(f"FAILED with good input: {case.words}: {why}", flush=True)
        cases = (case for command in commands for case in stand.cases(command, args.seed, args.sample)
                 if args.kind in case.kind)
        for case, _, verdict, why in stand.run(cases):
            reason = why if verdict == ACCEPTED else ""
            counts[case.command.words, case.file, case.kind, verdict, reason] += 1
            print(verdict, case.words, case.file, case.kind, case.name, why, sep="\t", file=log)
            if verdict == FAILED:
                print(f"FAILED {case.words}: {case.file} {case.kind}: {case.name}: {why}", flush=True)
    return counts, bad


def tabulate(counts, key):
    """Rows of how many trials came to what. counts: see `run_table`; key: callable, (command's words, file, kind)
    -> dict of the columns that name a row."""
    rows = {}
    for (words, file, kind, verdict, reason), count in counts.items():
        named = key(words, file, kind)
        row = rows.setdefault(tuple(named.values()), {**named, "trials": 0, CLEAR: 0, ACCEPTED: 0, FAILED: 0,
                                                      "reasons": set()})
        row["trials"] += count
        row[verdict] += count
        row["reasons"] |= {reason} - {""}
    return [{**row, "reasons": "; ".join(sorted(row["reasons"]))} for row in rows.values()]


def write_tables(counts):
    """Write results/faults.csv, a row for each file and kind of damage, and the sums of it that the docs show."""
    from benchmarks.measure import write_table
    from common.machine import machine

    rows = tabulate(counts, lambda words, file, kind: dict(command=words, file=file or "-", kind=kind))
    write_table("faults", rows)
    by_script, by_kind = (tabulate(counts, key) for key in (
        lambda words, file, kind: dict(command=words.split()[0]), lambda words, file, kind: dict(kind=kind)))
    for name, sums in (("faults_commands", by_script), ("faults_kinds", by_kind)):
        write_table(name, [{**{key: value for key, value in row.items() if key != "reasons"}, "machine": machine()}
                           for row in sums])


def main():
    args = parse_args()
    import_all()
    from commands import TABLE

    commands = [command for command in TABLE if args.only in command.words]
    with open(args.log, "w", buffering=1) as log:
        counts, bad = run_table(commands, args, log)
    totals = Counter()
    for (_, _, _, verdict, _), count in counts.items():
        totals[verdict] += count
    if not (args.only or args.kind or args.sample is not None):
        write_tables(counts)
    print(f"{len(commands)} commands, {sum(totals.values())} trials: {totals[CLEAR]} clear lines, "
          f"{totals[ACCEPTED]} go on for a reason, {totals[FAILED] + bad} failures")
    return 1 if totals[FAILED] + bad else 0


if __name__ == "__main__":
    sys.exit(main())
