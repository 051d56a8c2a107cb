"""What the benchmarks share that run the project's own commands."""
import os
import subprocess
import sys
from pathlib import Path

from common.errors import UserError
from common.files import write_text
from eval.results import read_records

ROOT = Path(__file__).resolve().parents[1]
EVALUATIONS = "results/evaluations.csv"


def faces_folder(needed):
    """The folder of the real faces: FACE_DATA, else ../shared/data. Raises UserError, naming what is needed of it."""
    folder = Path(os.environ.get("FACE_DATA", ROOT.parent / "shared" / "data")).resolve()
    if not folder.is_dir():
        raise UserError(f"no real faces at {folder}; set FACE_DATA to the folder that holds {needed}")
    return folder


def faces_from_root(needed):
    """The same folder as a command is told it that runs in the root of the clone."""
    return Path(os.path.relpath(faces_folder(needed), ROOT))


def command(*words):
    """Print a command of the project and run it from the root of the clone. Raises UserError where it fails."""
    print("$ python " + " ".join(map(str, words)), flush=True)
    if subprocess.run([sys.executable, *map(str, words)], cwd=ROOT).returncode:
        raise UserError(f"{words[0]} failed, see above")


def evaluate(*words):
    """Run a command of eval/ that records in results/evaluations.csv. Returns the figures that it recorded."""
    command(*words, "--record", EVALUATIONS)
    return read_records(ROOT / EVALUATIONS)[-1]["figures"]


def logged(log, *words, threads=1):
    """Run a command on so many threads, its output going to a file. Raises UserError with its last line where it fails.
    """
    with open(log, "w") as lines:
        done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, stdout=lines, stderr=subprocess.STDOUT,
                              env=dict(os.environ, OMP_NUM_THREADS=str(threads)))
    if done.returncode:
        raise UserError(f"{words[0]}: {(Path(log).read_text().strip() or 'no output').splitlines()[-1]}")


def write_megaface_lists(images, folder):
    """Write <folder>/facescrub_lst and megaface_lst, MegaFace's lists of the real faces.

    images: FACE_DATA's identification/, in whose facescrub/ the images of the first lie, and in which those of the
    second do.
    """
    for kind, root, pattern in (("facescrub", images / "facescrub", "*/*.jpg"),
                                ("megaface", images, "distractors/*/*.jpg")):
        names = (path.relative_to(root) for path in sorted(root.glob(pattern)))
        write_text(folder / f"{kind}_lst", "".join(f"{name}\n" for name in names))


def prepare_faces(folder):
    """Make <folder>/training of the 241 identities and <folder>/packs/lfw.bin."""
    faces = faces_folder("train_celeba and lfw")
    logged(f"{folder}/log", "datasets/dir2rec.py", "--input", faces / "train_celeba", "--output",
               f"{folder}/training")
    logged(f"{folder}/log", "datasets/lfw2pack.py", "--data-dir", faces / "lfw", "--output",
               f"{folder}/packs/lfw.bin")
