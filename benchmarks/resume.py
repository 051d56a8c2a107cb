"""A training that is killed again and again, and goes on by --resume, against the same one left alone: equal bits?

    python benchmarks/resume.py --kills 50

Trains a small network on rendered faces by the project's own command, with everything that hangs on chance or on the
past: dropout, mirroring, colours, cutout, a schedule, a margin that grows, verification, every kind of checkpoint. The
state is saved after every step, so that many kills (SIGKILL, at random moments) hit its writer. After each kill the
last whole state is held, byte by byte, against those that the undisturbed training wrote after the same step (two where
an epoch ends with it: before its end and after); at the end all models and the log as well. Writes results/resume.csv.
"""
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.commands import ROOT
from common.cli import ArgumentParser, run
from common.errors import DataError, UserError

IDENTITIES, IMAGES, PAIRS = 8, 6, 20
SMALL = ("--network m05 --net-multiplier 0.1 --net-output E --emb-size 16 --loss arcface --margin-warmup 30 "
         "--per-batch-size 8 --data-color 1 --data-cutoff 20 --lr 0.05 --lr-warmup 10 --lr-steps 20,40 --devices cpu "
         "--frequent 4 --verbose 7 --ckpt 2 --ckpt-keep 2 --ckpt-best 1 --ckpt-epochs 1 --report 0").split()
_STARTING = 0.1  # share of the kills that come before the first step
_KEEPING = """
import os, runpy, sys
sys.path.insert(0, {root!r})
from recognition import training_state
write, count = training_state.write_state, 0

def write_and_keep(path, *state):
    global count
    write(path, *state)
    count += 1
    os.link(path, os.path.join({folder!r}, f"{{count}}-{{os.path.basename(path)}}"))

training_state.write_state = write_and_keep
runpy.run_path({root!r} + "/recognition/train.py", run_name="__main__")
"""  # recognition/train.py, with another name for every state that it writes, which the next one cannot take


def write_faces(folder):
    """A training set and a verification pack of rendered faces."""
    import cv2

    from datasets.packs import write_pack
    from datasets.rendered import render_identity
    from datasets.training_set import write_training_set

    def drawn(split, number):
        return [cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes()
                for image in render_identity(0, split, number, IMAGES)[0]]

    write_training_set(folder, [drawn("training", number) for number in range(IDENTITIES)])
    faces = [drawn("verification", number) for number in range(4)]
    pairs = [(faces[i % 4][i % IMAGES], faces[(i + i % 2) % 4][(i + 1) % IMAGES]) for i in range(PAIRS)]
    write_pack(Path(folder, "faces.bin"), [face for pair in pairs for face in pair], [i % 2 == 0 for i in range(PAIRS)])


class Training:
    """A training by the command, in a folder of its own. flags: beside SMALL, and over it.

    Attributes: folder and prefix, of its model; output, the file that what it says goes to.
    """

    def __init__(self, work, name, *flags):
        self._flags = [*SMALL, "--dataset", work / "faces", "--models-root", work / name, *flags]
        self.folder = work / name / "m05-arcface-faces"
        self.prefix, self.output = self.folder / "model", work / f"{name}.txt"

    def start(self, *words):
        """Start the command. words: for Python in its place. Returns the process."""
        with open(self.output, "a") as output:
            return subprocess.Popen([sys.executable, *(words or [ROOT / "recognition/train.py"]),
                                     *map(str, self._flags), "--resume"],
                                    stdout=output, stderr=subprocess.STDOUT, env=dict(os.environ, OMP_NUM_THREADS="1"))

    def finish_and_keep(self, folder):
        """Run it to its end. Returns step -> bytes of each state that it wrote after it, a list; folder: for these."""
        folder.mkdir()
        self.finish("-c", _KEEPING.format(root=str(ROOT), folder=str(folder)))
        kept = defaultdict(list)
        for path in folder.iterdir():
            kept[int(path.name.split("-")[-1].split(".")[0])].append(path.read_bytes())
        return kept

    def finish(self, *words):
        """Run it to its end, see `start`. Raises UserError with its last line where it fails."""
        if self.start(*words).wait():
            raise UserError(f"recognition/train.py: {self.output.read_text().splitlines()[-1]}")

    def states(self):
        """Step -> path of the states that are there."""
        from recognition.training_state import find_states
        return dict(find_states(self.prefix))

    def last_whole(self):
        """(Step, path) of the last whole state; (0, None) where there is none."""
        from recognition.training_state import read_state
        for step, path in sorted(self.states().items(), reverse=True):
            try:
                read_state(path)
                return step, path
            except DataError:
                continue
        return 0, None

    def models(self):
        """Name -> bytes of all models."""
        return {path.name: path.read_bytes() for path in self.folder.glob("*.params")}

    def records(self):
        """The log, without what hangs on the clock and on the stops."""
        events = map(json.loads, (self.folder / "train.jsonl").read_text().splitlines())
        return [{key: value for key, value in event.items() if key not in ("time", "samples_per_second", "path")}
                for event in events if event["event"] not in ("start", "resume")]


def kill(training, choose, spread):
    """Start a training and kill it at a random moment, up to `spread` seconds after its first new state. Returns a row.
    """
    before, started = training.last_whole()[0], time.time()
    process = training.start()
    if choose.random() < _STARTING:
        time.sleep(choose.random() * 2)
    else:
        while process.poll() is None and max(training.states(), default=0) <= before:
            time.sleep(0.005)
        time.sleep(choose.random() * spread)
    process.kill()
    if process.wait() == 0:
        raise UserError("the training came to its end before it was killed; more --steps-per-kill")
    unfinished = [path.name for path in training.folder.glob(".*.tmp")] if training.folder.is_dir() else []
    moment = ("writing a state" if any(".state." in name for name in unfinished) else
              "writing a model or the log" if unfinished else "elsewhere")
    step = training.last_whole()[0]
    return dict(seconds=f"{time.time() - started:.2f}", moment=moment if step > before or unfinished else "starting",
                resumed_from=before, state_of_step=step)


def killed_and_compared(work, kills, steps, seed=0, spread=1.0, tell=print):
    """Train twice, once with kills. Returns a list of rows, the last that of the end.

    work: folder for data, models and logs; steps: of the whole training. tell: is given each row.
    """
    choose, rows = random.Random(seed), []
    alone = Training(work, "alone", "--max-steps", steps, "--state-every", 1)
    expected = alone.finish_and_keep(work / "states")
    killed = Training(work, "killed", "--max-steps", steps, "--state-every", 1, "--state-keep", 2)
    for number in range(1, kills + 1):
        row = dict(kill=number, **kill(killed, choose, spread))
        step, path = killed.last_whole()
        row["equal"] = path is None or path.read_bytes() in expected[step]
        rows.append(row)
        tell(row)
    killed.finish()
    step, path = killed.last_whole()
    equal = (path.read_bytes() == alone.last_whole()[1].read_bytes(), killed.models() == alone.models(),
             killed.records() == alone.records())
    rows.append(dict(kill="end", seconds="", moment=f"state {equal[0]}, models {equal[1]}, log {equal[2]}",
                     resumed_from=rows[-1]["state_of_step"], state_of_step=step, equal=all(equal)))
    tell(rows[-1])
    return rows


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="how often the training is killed")
    parser.add_argument("--steps-per-kill", type=int, default=12, help="steps of the training for each kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    return parser.parse_args()


def main():
    args = parse_args()
    from benchmarks.measure import write_table
    with tempfile.TemporaryDirectory() as work:
        write_faces(Path(work, "faces"))
        rows = killed_and_compared(Path(work), args.kills, args.kills * args.steps_per_kill, args.seed)
    print(write_table("resume", rows))
    return 0 if all(row["equal"] for row in rows) else 1


if __name__ == "__main__":
    run(main)
