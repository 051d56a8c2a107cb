"""Run the table of bad inputs: every command, every file that it reads, damaged in every way.

    python tests/faults/table.py                     # all of it; writes results/faults.csv and faults_reasons.csv
    python tests/faults/table.py --only align        # lines in whose words this expression is found; writes their rows
    python tests/faults/table.py --sample 2          # of each file so many damages, drawn by --seed; writes nothing

Rows are written of commands of which every line was run with every damage; those of others stay. --log and --after let
what failed be run again alone.

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
from collections import Counter, defaultdict, namedtuple
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

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
        return Running(box, case.words.split(), until=case.command.until, **case.limits)

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
    parser.add_argument("--only", default="", help="lines in whose words this regular expression is found")
    parser.add_argument("--kind", default="", help="damages of this kind alone")
    parser.add_argument("--sample", type=int, help="damages of each file; not given: all")
    parser.add_argument("--share", type=float, default=1, help="share of these that is tried, drawn")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--jobs", type=int, default=2, help="trials at once")
    parser.add_argument("--log", default=os.devnull, help="file to write every trial to")
    parser.add_argument("--after", help="log of an earlier run, whose trials count as they went, but for failures")
    return parser.parse_args()


@contextmanager
def scratch():
    """A folder for the time of the block. (A TemporaryDirectory would be removed by the first fork that ends.)"""
    folder = tempfile.mkdtemp(prefix="faults-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Tally:
    """What the trials of a command, a script, came to."""

    def __init__(self):
        self.verdicts, self.reasons, self.files = Counter(), Counter(), set()
        self.seconds, self.memory, self.bad = 0.0, 0, 0

    def add(self, case, trial, verdict, why):
        """Count a trial."""
        self.verdicts[verdict] += 1
        if verdict == ACCEPTED:
            self.reasons[why] += 1
        if case.kind != OUTPUT:
            self.files.add((case.command.words, case.file))
        self.seconds, self.memory = max(self.seconds, trial.seconds), max(self.memory, trial.memory)

    def row(self):
        """The numbers of its row in results/faults.csv."""
        return dict(files=len(self.files), damages=sum(self.verdicts.values()), refused=self.verdicts[CLEAR],
                    accepted=self.verdicts[ACCEPTED], failures=self.verdicts[FAILED] + self.bad,
                    longest_seconds=f"{self.seconds:.1f}", largest_mb=self.memory >> 20)


def script(command):
    """The file of a line's command."""
    return command.words.split()[0]


class Earlier(NamedTuple):
    """What a log has of a trial, in place of the Trial."""

    verdict: str
    why: str
    seconds: float
    memory: int


def key(case):
    """What a case is known by in a log."""
    return case.words, case.file, case.kind, case.name


def read_log(path):
    """The trials of a log, but for failures: key -> Earlier."""
    found = {}
    for fields in (line.split("\t") for line in Path(path).read_text().split("\n")):
        if len(fields) == 8 and fields[0] != FAILED:
            verdict, *names, why, seconds, memory = fields
            found[tuple(names)] = Earlier(verdict, why, float(seconds.split()[0]), int(memory.split()[0]) << 20)
    return found


def run_table(commands, args, known, log):
    """Run the trials of commands, telling of each failure. known: of `read_log`. Returns script -> Tally."""
    tallies = defaultdict(Tally)

    def count(case, trial, verdict, why):
        tallies[script(case.command)].add(case, trial, verdict, why)
        print(verdict, *key(case), why, f"{trial.seconds:.1f} s", f"{trial.memory >> 20} MB", sep="\t", file=log)

    def new(cases):
        for case in cases:
            earlier = known.get(key(case))
            if earlier is None:
                yield case
            else:
                count(case, earlier, earlier.verdict, earlier.why)

    with scratch() as folder:
        stand = Stand(folder, args.jobs)
        for case, verdict, why in stand.good(commands):
            print("good", verdict, case.words, why, sep="\t", file=log)
            if verdict == FAILED:
                tallies[script(case.command)].bad += 1
                print(f"FAILED with good input: {case.words}: {why}", flush=True)
        drawn = np.random.RandomState(args.seed)
        cases = (case for command in commands for case in stand.cases(command, args.seed, args.sample)
                 if args.kind in case.kind and drawn.random_sample() < args.share)
        for case, trial, verdict, why in stand.run(new(cases)):
            count(case, trial, verdict, why)
            if verdict == FAILED:
                print(f"FAILED {case.words}: {case.file} {case.kind}: {case.name}: {why}", flush=True)
    return tallies


def write_tables(tallies, whole, scripts):
    """Write results/faults.csv, a row for each command, and results/faults_reasons.csv, why damages were accepted.

    tallies: of `run_table`; whole: scripts of which all was run; scripts: all of the table, in its order.
    """
    from benchmarks.measure import read_table, write_table
    from common.machine import machine

    counted = [dict(command=name, **tallies[name].row(), machine=machine()) for name in whole]
    reasons = [dict(command=name, reason=reason, damages=count) for name in whole
               for reason, count in sorted(tallies[name].reasons.items())]
    for table, rows in (("faults", counted), ("faults_reasons", reasons)):
        rows += [row for row in read_table(table) if row["command"] in set(scripts) - set(whole)]
        write_table(table, sorted(rows, key=lambda row: scripts.index(row["command"])))


def main():
    args = parse_args()
    import_all()
    from commands import TABLE

    commands = [command for command in TABLE if re.search(args.only, command.words)]
    known = read_log(args.after) if args.after else {}
    with open(args.log, "w", buffering=1) as log:
        tallies = run_table(commands, args, known, log)
    scripts = list(dict.fromkeys(map(script, TABLE)))
    whole = [name for name in scripts if all(command in commands for command in TABLE if script(command) == name)]
    if whole and not args.kind and args.sample is None and args.share == 1:
        write_tables(tallies, whole, scripts)
    rows = [tally.row() for tally in tallies.values()]
    total = {key: sum(row[key] for row in rows) for key in ("damages", "refused", "accepted", "failures")}
    print(f"{len(commands)} commands, {total['damages']} trials: {total['refused']} clear lines, "
          f"{total['accepted']} go on for a reason, {total['failures']} failures")
    return 1 if total["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
