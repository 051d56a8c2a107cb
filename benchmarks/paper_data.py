"""What benchmarks/paper.py trains and measures on: the user's folders, or those that are made here of faces at hand."""
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from benchmarks.commands import faces_folder, logged, prepare_faces, write_megaface_lists
from common.files import write_text
from datasets import find_dataset


class Data(NamedTuple):
    """Folders, absolute; '' for what is not there.

    training: with train.rec; packs: of verification packs; megaface: see `identify`; people: <person>/<image> of
    people who are not trained on. name: in the tables.
    """

    name: str
    training: Path
    packs: Path
    megaface: str = ""
    people: str = ""


def find_data(name, work, packs="", megaface="", people=""):
    """The Data of `--data`: 'rendered', 'celeba', or the name or folder of a data set. work: where what is made stays.

    Raises UserError where there is no such data set, or no real faces.
    """
    if name in ("rendered", "celeba"):
        folder = work / name
        if not (folder / "ready").is_file():
            (_render if name == "rendered" else _celeba)(folder)
            write_text(folder / "ready", "")
        return Data(name, folder / "training", folder / "packs", str(folder / "megaface"), _people(name))
    folder = Path(find_dataset(name).folder).resolve()
    return Data(folder.name, folder, Path(packs or folder).resolve(), *(path and str(Path(path).resolve())
                                                                       for path in (megaface, people)))


def _people(name):
    return str(faces_folder("lfw") / "lfw" / "images") if name == "celeba" else ""


def _render(folder):
    """Rendered faces: the training set, its pack, and probes and distractors."""
    folder.mkdir(parents=True, exist_ok=True)
    logged(folder / "log", "datasets/render.py", "--output", folder / "training")
    (folder / "packs").mkdir(exist_ok=True)
    for pack in (folder / "training").glob("*.bin"):
        pack.replace(folder / "packs" / pack.name)
    (folder / "training" / "identification").replace(folder / "megaface")


def _celeba(folder):
    """The real faces of FACE_DATA: 241 identities, LFW, twelve actors among 1,548 others."""
    folder.mkdir(parents=True, exist_ok=True)
    prepare_faces(folder)
    source, target = faces_folder("identification") / "identification", folder / "megaface"
    write_megaface_lists(source, target)
    for name, images in (("facescrub", source / "facescrub"), ("megaface", source)):
        (target / name).unlink(missing_ok=True)
        (target / name).symlink_to(images)
    write_text(target / "facescrub_noises.txt", (source / "facescrub_noises.txt").read_text())


def identify(model, folder, output, threads=1):
    """MegaFace's protocol: features into <output>/features, scores into <output>.

    folder: with facescrub_lst, megaface_lst, the images in facescrub/ and megaface/, and the noise lists under the
    original's names, or without them.
    """
    folder = Path(folder)
    lists = ["--facescrub-lst", folder / "facescrub_lst", "--megaface-lst", folder / "megaface_lst"]
    noises = [path if path.is_file() else "" for path in (folder / "facescrub_noises.txt",
                                                          folder / "megaface_noises.txt")]
    output.mkdir(parents=True, exist_ok=True)
    logged(output / "features.log", "eval/gen_megaface.py", "--model", model, *lists, "--facescrub-root",
           folder / "facescrub", "--megaface-root", folder / "megaface", "--output", output / "features",
           "--batch-size", 64, threads=threads)
    logged(output / "scores.log", "eval/megaface.py", *lists, "--facescrub-noises", noises[0], "--megaface-noises",
           noises[1], "--feature-dir", output / "features", "--output", output, threads=threads)


def spoil_labels(training, folder, share, seed=0):
    """Write the training set with `share` of its images under the name of another identity, drawn by `seed`."""
    import numpy as np

    from benchmarks.cleaning import spoil
    from datasets.training_set import TrainingSet, write_training_set

    with closing(TrainingSet(training)) as images:
        labels = spoil(images.labels(progress=None), "random others", share, np.random.RandomState(seed))
        write_training_set(folder, ([images.read(image)[0] for image in np.flatnonzero(labels == label)]
                                    for label in range(labels.max() + 1)), images.image_shape)


def without_people(training, pack, model, folder):
    """Write the training set without the people of a pack, by datasets/clean.py; model: that finds them."""
    shared = ["--dataset", training, "--embeddings", folder.with_name(folder.name + "-embedded"), "--model", model]
    logged(folder.with_name(folder.name + ".log"), "datasets/clean.py", "embed", *shared)
    logged(folder.with_name(folder.name + ".log"), "datasets/clean.py", "overlap", *shared, "--test", pack, "--output",
           folder.with_name(folder.name + "-decided"), "--apply", folder)
