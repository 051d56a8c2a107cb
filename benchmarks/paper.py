"""The tables of the papers, each by one command: every row is trained and measured, the paper's figures beside it.

    python benchmarks/paper.py loss-comparison --data datasets/casia             # by the paper's own schedule
    python benchmarks/paper.py margins --data celeba --budget 3 --seeds 3        # three minutes of training a row
    python benchmarks/paper.py megaface --data datasets/casia --megaface data -- --devices gpu0,gpu1

Tables: loss-comparison, margins, combined, backbones, outputs, inputs, blocks, cleaning, megaface, angles. Each run is
a run of the public commands; what is done stays in --work and is not done again, so that a stopped table goes on by the
same command. Writes results/paper_<table>.csv, .md and .png; docs/paper.md says how to read them. What follows -- goes
to recognition/train.py.
"""
import hashlib
import json
import sys
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Tuple

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from benchmarks.commands import logged
from benchmarks.paper_data import find_data, identify, spoil_labels, without_people
from benchmarks.paper_tables import ANGLES, BASE, MEGAFACE, TABLES, VERIFICATION
from common.cli import ArgumentParser, run
from common.cores import cpu_count
from common.errors import UserError, unknown_name
from common.files import read_json, write_text
from common.flags import positive

_PAIRS = ("triplet", "atriplet", "contrastive")
_SAVED = ("--ckpt", "2", "--ckpt-embedding", "0", "--verbose", "1000000000", "--state-keep", "1", "--resume")
BATCH = 32  # images in a step of a short training
_SHORT = ("--per-batch-size", str(BATCH), "--frequent", "20", "--report", "0", "--state-every", "100")
_BASE_TIMES = 4  # what losses begin with in short trainings is trained for so many times their steps, once for all rows


class Scale(NamedTuple):
    """How long to train. steps: of each run, callable of the flags of a network; None: by the recipe. extra: flags of
    train.py; threads: of each run; cleaner: model that finds people; noise: share of wrong labels in cleaning."""

    steps: Any
    extra: Tuple[str, ...]
    threads: int
    cleaner: str
    noise: float


class Runs:
    """The runs of a table, done once each: a run is a row with a seed, in a folder of its own in `work`."""

    def __init__(self, table, data, work, scale):
        self._table, self._data, self._work, self._scale = table, data, Path(work), scale
        self._rows = {row.name: row for row in (BASE, *table.rows)}
        self._noise = scale.noise if table is TABLES["cleaning"] else 0
        self._locks, self._guard = defaultdict(threading.Lock), threading.Lock()
        self._content = hashlib.sha256((data.training / "train.idx").read_bytes()
                                       + (data.training / "property").read_bytes()).hexdigest()

    def flags(self, row):
        """What row and table ask of train.py."""
        short = self._scale.steps is not None
        own = row.flags if row.short is None or not short else row.short
        return [*(self._table.short if short else self._table.network), *own]

    def measure(self, row, seed):
        """Train and measure; returns column -> figure, and the steps, None where the recipe says them."""
        folder, found = self._train(row, seed), {}
        for kind in self._table.measures:
            target = folder / f"{kind}-{self._measured_on(kind)}"
            with self._once(target / "done") as missing:
                if missing:
                    self._evaluate(kind, self._model(folder), target)
                    write_text(target / "done", "")
            found.update(_figures(kind, read_json(target / "results.json", list)))
        return found, self.steps(row)

    def _measured_on(self, kind):
        """Eight letters for the folder that it is measured on."""
        folders = {VERIFICATION: self._data.packs, MEGAFACE: self._data.megaface, ANGLES: self._data.people}
        return hashlib.sha256(str(folders[kind]).encode()).hexdigest()[:8]

    def steps(self, row):
        """Of a run of the row; None: as the recipe says."""
        return self._scale.steps and self._scale.steps(self.flags(row))

    def _train(self, row, seed):
        """The folder of a run, trained."""
        begins = self._begins(row)
        before = self._train(begins, seed) if begins else None
        words = [*self.flags(row), *self._schedule(row, begins), *self._scale.extra, "--seed", str(seed)]
        told = json.dumps([words, row.data, self._noise, self._content, before and before.name])
        folder = self._work / "runs" / hashlib.sha256(told.encode()).hexdigest()[:12]
        with self._once(folder / "done") as missing:
            if missing:
                folder.mkdir(parents=True, exist_ok=True)
                write_text(folder / "flags.txt", f"{row.name}: {' '.join(words)}\n")
                pretrained = ["--pretrained", str(self._model(before)).rpartition(",")[0]] if before else []
                logged(folder / "train.log", "recognition/train.py", *_SAVED, *words, *pretrained, "--dataset",
                       self._training(row, seed), "--models-root", folder, threads=self._scale.threads)
                write_text(folder / "done", "")
        return folder

    def _begins(self, row):
        if row.begins:
            return self._rows[row.begins]
        if self._scale.steps and self._table.after_softmax and not _is_base(row):
            return BASE._replace(data=row.data)  # on the same images, so that the heads fit
        return None

    def _schedule(self, row, begins):
        """Flags of length and learning rate."""
        in_pairs = any(loss in row.flags for loss in _PAIRS)
        if self._scale.steps is None:
            return ["--recipe", "triplet" if in_pairs else self._table.recipe]
        steps = self.steps(row) * (_BASE_TIMES if _is_base(row) else 1)
        alone = self._table.base_rate if _is_base(row) else row.rate
        rate, first = 0.005 if in_pairs else 0.01 if begins else alone, str(steps * 3 // 5)
        pairs = ["--per-batch-size", "30"] if in_pairs else []
        margin = ["--margin-warmup", first] if begins and self._has_margin(row) else []
        return [*_SHORT, *pairs, *margin, "--lr", str(rate), "--max-steps", str(steps), "--lr-steps",
                f"{first},{steps * 17 // 20}"]

    def _has_margin(self, row):
        from recognition.heads import LOSSES

        flags = self.flags(row)
        return "margin_warmup" in LOSSES.get(flags[flags.index("--loss") + 1], ())

    def _training(self, row, seed):
        """The training set of a row: as it is, with wrong labels, or cleaned."""
        kind, _, what = row.data.partition(" ")
        spoilt = self._data.training
        if self._noise:
            spoilt = self._made(f"noise-{self._noise}", lambda folder: spoil_labels(
                self._data.training, folder, self._noise))
        if kind == "dropped:":
            model = self._model(self._train(self._rows[what], seed))
            angle = 90 if self._scale.steps else 75  # from its centre an image is further in a short training
            return self._made(f"dropped-{angle}-{Path(model).parents[1].name}", lambda folder: logged(
                f"{folder}.log", "recognition/drop.py", "--model", model, "--dataset", spoilt, "--output", folder,
                "--angle", angle))
        if kind == "without":
            return self._made(f"{spoilt.name}-without-{what}", lambda folder: without_people(
                spoilt, self._data.packs / f"{what}.bin", self._scale.cleaner, folder))
        return spoilt

    def _made(self, name, make):
        folder = self._work / "sets" / self._content[:12] / name
        with self._once(folder / "property") as missing:
            if missing:
                folder.parent.mkdir(parents=True, exist_ok=True)
                make(folder)
        return folder

    @staticmethod
    def _model(folder):
        """The model that a run has left, as commands name it."""
        found = sorted(folder.glob("*/model-*.params"))
        if not found:
            raise UserError(f"{folder}: the training has left no model; see its train.log, or remove the folder")
        prefix, _, epoch = found[-1].stem.rpartition("-")
        return f"{found[-1].parent / prefix},{int(epoch)}"

    def _evaluate(self, kind, model, target):
        target.mkdir(parents=True, exist_ok=True)

        def call(script, *words):
            logged(target / "log", script, "--model", model, *words, threads=self._scale.threads)

        if kind == VERIFICATION:
            call("eval/verification.py", "--data-dir", self._data.packs, "--output", target,
                 *["--no-flip"] * bool(self._scale.steps))
        elif kind == MEGAFACE:
            identify(model, self._data.megaface, target, self._scale.threads)
        else:
            others = ["--others", self._data.people] if self._data.people else []
            call("recognition/angles.py", "--dataset", self._data.training, *others, "--output", target)

    @contextmanager
    def _once(self, marker):
        """A context in which no other thread does the same; gives whether `marker` is not there yet."""
        with self._guard:
            lock = self._locks[str(marker)]
        with lock:
            yield not marker.exists()


def _is_base(row):
    return row.name == BASE.name


def _figures(kind, entries):
    """Column -> figure of a results.json, in per cent or degrees."""
    if kind == VERIFICATION:
        return {Path(entry["target"]).stem: 100 * entry["figures"]["accuracy"] for entry in entries}
    figures = entries[0]["figures"]
    if kind == ANGLES:
        return {name: value for name, value in figures.items() if value is not None}
    largest = max((name for name in figures if name.startswith("rank1@")), key=lambda name: int(name.split("@")[1]))
    names = {"rank-1": largest, "TAR": "tar@1e-06", "rank-1 refined": f"refined_{largest}",
             "TAR refined": "refined_tar@1e-06"}
    return {column: 100 * figures[name] for column, name in names.items() if figures.get(name) is not None}


class Planner:
    """Steps of a run that takes so many seconds on this machine: each network is timed once, and that is kept."""

    def __init__(self, path, seconds, threads, num_classes):
        self._path, self._seconds, self._threads, self._num_classes = path, seconds, threads, num_classes
        self._rates, self._lock = read_json(path, dict) if path.is_file() else {}, threading.Lock()

    def __call__(self, flags):
        network = " ".join(_network_flags(flags))
        with self._lock:
            if network not in self._rates:
                self._rates[network] = self._time(network.split())
                write_text(self._path, json.dumps(self._rates, indent=1))
        return max(10, round(self._seconds * self._rates[network] / BATCH))

    def _time(self, network):
        """Images a second, with all cores busy, as they are when runs go side by side."""
        copies = max(1, cpu_count() // self._threads)
        with ThreadPoolExecutor(copies) as pool:
            return min(pool.map(partial(self._timed, network), range(copies)))

    def _timed(self, network, copy):
        log = self._path.with_name(f"{self._path.stem}-{copy}.log")
        logged(log, "recognition/train.py", *network, "--loss", "softmax", "--per-batch-size", BATCH, "--max-steps", 10,
               "--benchmark", "--num-classes", self._num_classes, threads=self._threads)
        return float(log.read_text().split(" samples/s")[0].split()[-1])


def _network_flags(flags):
    """Those that say which network it is."""
    pairs = list(zip(flags[::2], flags[1::2]))
    return [word for flag, value in pairs if flag in ("--network", "--emb-size") or flag.startswith("--net-")
            for word in (flag, value)]


def parse_args(args=None):
    args = sys.argv[1:] if args is None else args
    own, extra = (args[:args.index("--")], args[args.index("--") + 1:]) if "--" in args else (args, [])
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", metavar="TABLE", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--data", required=True, help="name or folder of a data set; rendered: faces that are "
                        "drawn; celeba: the real ones of FACE_DATA")
    parser.add_argument("--packs", default="", help="folder of verification packs; empty: --data")
    parser.add_argument("--megaface", default="", help="folder with facescrub_lst, megaface_lst, facescrub/, megaface/")
    parser.add_argument("--people", default="", help="folder <person>/<image> of people not trained on, such as LFW's")
    parser.add_argument("--cleaner", default="", help="model that finds the people whom 'cleaning' leaves out")
    parser.add_argument("--noise", type=float, default=0, help="share of labels that 'cleaning' makes wrong on purpose")
    parser.add_argument("--budget", type=float, default=0, help="minutes of training for each row, all seeds together, "
                        "in a small network; 0: network and schedule of the paper")
    parser.add_argument("--steps", type=int, default=0, help="the same, as steps of each run")
    parser.add_argument("--seeds", type=positive, default=1, help="runs of each row")
    parser.add_argument("--only", default="", help="rows to do, with ; between them; empty: all")
    parser.add_argument("--jobs", type=positive, help="runs side by side; left out: one, or with --budget or --steps "
                        "as many as there are cores, each on one thread")
    parser.add_argument("--work", default="models/paper", help="folder that keeps data and models")
    flags = parser.parse_args(own)
    for name in flags.tables:
        if name not in TABLES:
            raise unknown_name("table", name, TABLES)
    return flags, tuple(extra)


def _scale(args, extra, data, work):
    """(Scale, runs side by side) that the flags ask for."""
    from datasets.training_set import read_property

    is_short = bool(args.budget or args.steps)
    jobs = args.jobs or (cpu_count() if is_short else 1)
    threads = max(1, cpu_count() // jobs)
    steps = None
    if args.steps:
        steps = partial(_given, args.steps)
    elif args.budget:
        classes = read_property(data.training)[0]
        steps = Planner(work / f"rates-{threads}-{classes}.json", args.budget * 60 / args.seeds, threads, classes)
    return Scale(steps, extra, threads, args.cleaner, args.noise), jobs


def _given(steps, flags):
    return steps


def _check(table, rows, data, scale):
    """Raise UserError where a table, or rows of it, need what is not there."""
    if MEGAFACE in table.measures and not data.megaface:
        raise UserError("--megaface: expected the folder of probes and distractors, for this table is about them")
    if VERIFICATION in table.measures and not list(Path(data.packs).glob("*.bin")):
        raise UserError(f"{data.packs}: no verification packs (*.bin); name their folder by --packs")
    for pack in (row.data.split()[1] for row in rows if row.data.startswith("without ")):
        if not scale.cleaner:
            raise UserError("--cleaner: expected a model that tells people apart, such as models/r100,1, for rows that "
                            "leave people out")
        if not (data.packs / f"{pack}.bin").is_file():
            raise UserError(f"{data.packs / pack}.bin: no such pack, whose people a row leaves out; see --packs")


def do_table(name, data, work, scale, jobs, seeds, only=""):
    """Do a table: all rows, or those that `only` names, with every seed. Writes its files; returns their paths."""
    from benchmarks import paper_report
    from benchmarks.measure import chosen

    table = TABLES[name]
    rows = {row.name: row for row in table.rows}
    names = chosen("row", only, rows, ";")
    _check(table, [rows[row] for row in names], data, scale)
    runs, found = Runs(table, data, work, scale), {}
    for row in names:
        runs.steps(rows[row])  # networks are timed while nothing else runs
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(names) * seeds, unit="run", desc=name) as bar:
        waiting = {row: [pool.submit(runs.measure, rows[row], seed) for seed in range(seeds)] for row in names}
        try:
            for row, tasks in waiting.items():
                found[row] = [_told(task, row, seed, bar) for seed, task in enumerate(tasks)]
        finally:  # where one fails, those that have not begun do not begin
            for task in sum(waiting.values(), []):
                task.cancel()
    return paper_report.write(name, table, data.name, found, runs.flags)


def _told(task, row, seed, bar):
    figures, steps = task.result()
    bar.update()
    shown = ", ".join(f"{column} {value:.2f}" for column, value in figures.items())
    bar.write(f"{row}, seed {seed}: {shown}" + (f" after {steps} steps" if steps else ""))
    return figures, steps


def main():
    args, extra = parse_args()
    work = Path(args.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    data = find_data(args.data, work, args.packs, args.megaface, args.people)
    scale, jobs = _scale(args, extra, data, work)
    for name in args.tables:
        for path in do_table(name, data, work, scale, jobs, args.seeds, args.only):
            print(path)


if __name__ == "__main__":
    run(main)
