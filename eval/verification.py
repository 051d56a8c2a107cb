"""Verification: are the two faces of a pair the same person? The original's protocol, and its command.

    python eval/verification.py --model ./models/r100,1 --data-dir datasets/faces_emore --target lfw,cfp_fp

An embedding is f(x) + f(mirrored x), L2-normalised; a pair is accepted when the squared distance of its embeddings is
below a threshold; thresholds are chosen on nine tenths of the pairs and judged on the tenth left out, ten times
(Huang et al. 2007, "Labeled Faces in the Wild", with the "unrestricted, labelled outside data" protocol).
"""
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import List, NamedTuple

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from tqdm import tqdm

from common.cli import ArgumentParser, run
from common.embeddings import ahead, normalise
from common.errors import UserError
from common.files import write_text
from common.flags import add_device_flags, device_names, positive
from datasets import find_dataset, find_target, list_targets
from datasets.images import parse_image_size
from datasets.packs import load_pack
from eval import metrics
from eval.embeddings import embed_flipped
from eval.verification_report import as_json, report_lines, write_bad_cases, write_embeddings, write_pictures

FARS = (1e-3, 1e-4)


class TarAtFar(NamedTuple):
    """TAR at one asked FAR: means over the folds (`tar_std`: their deviation); thresholds: squared distances."""

    asked: float
    tar: float
    tar_std: float
    far: float
    threshold: float
    thresholds: np.ndarray


class Result(NamedTuple):
    """What `evaluate` finds. Thresholds are squared distances; `metrics.to_cosine` turns them into cosines.

    accuracy, accuracy_std: mean and population deviation of the folds' `accuracies` (nfolds,); threshold: mean of the
    folds' best `thresholds` (nfolds,). tar_at_far: one TarAtFar for each asked FAR. eer, auc: of the exact ROC of all
    pairs. scores: cosine similarity of each pair (N,); issame: (N,) bool; distances: (N,), or (nfolds, N) with a PCA.
    """

    accuracy: float
    accuracy_std: float
    threshold: float
    accuracies: np.ndarray
    thresholds: np.ndarray
    tar_at_far: List[TarAtFar]
    eer: float
    auc: float
    scores: np.ndarray
    issame: np.ndarray
    distances: np.ndarray


class Test(NamedTuple):
    """What `test` finds: a Result, the mean norm before normalisation, the embeddings (2N, D), L2-normalised."""

    result: Result
    xnorm: float
    embeddings: np.ndarray


def evaluate(embeddings, issame, nfolds=10, pca=0, fars=FARS):
    """Score pairs by the original's protocol.

    embeddings: (2N, D) float, L2-normalised, pair i in rows 2i and 2i + 1; issame: (N,) bool, True for genuine pairs.
    nfolds: folds of the pairs in their order (1: thresholds chosen and judged on all pairs). pca: dimensions of a PCA
    before the accuracy is taken, 0 for none. fars: FARs to give the TAR at, fractions. Returns a Result.
    Raises UserError for embeddings that do not fit the pairs or are not normalised, for pairs of one kind alone, and
    for more folds than pairs.
    """
    embeddings, issame = np.asarray(embeddings), np.asarray(issame, dtype=bool)
    if embeddings.dtype not in (np.float32, np.float64):
        embeddings = embeddings.astype(np.float64)
    _check(embeddings, issame)
    first, second = embeddings[0::2], embeddings[1::2]
    distances = metrics.squared_distances(first, second)
    scores = metrics.to_cosine(distances)
    tar_at_far = [_tar_at_far(distances, issame, far, nfolds) for far in fars]
    if pca:
        distances = metrics.pca_distances(first, second, nfolds, pca)
    accuracies, thresholds = metrics.kfold_accuracy(distances, issame, nfolds)
    far, tar, _ = metrics.roc_curve(scores, issame)
    return Result(float(accuracies.mean()), float(accuracies.std()), float(thresholds.mean()), accuracies, thresholds,
                  tar_at_far, metrics.eer(far, tar), metrics.auc(far, tar), scores, issame, distances)


def _check(embeddings, issame):
    if embeddings.ndim != 2 or issame.ndim != 1 or len(embeddings) != 2 * len(issame):
        raise UserError(f"embeddings of shape {embeddings.shape} for issame of shape {issame.shape}; expected (2N, D) "
                        "for (N,)")
    metrics.check_kinds(issame)
    norms = np.linalg.norm(embeddings, axis=1)
    if not np.all(np.abs(norms - 1) < 1e-3):
        raise UserError(f"embeddings are not L2-normalised: their norms go from {norms.min():g} to {norms.max():g}")


def _tar_at_far(distances, issame, far, nfolds):
    tars, fars, thresholds = metrics.kfold_tar(distances, issame, far, nfolds)
    known = [values[np.isfinite(values)] if np.isfinite(values).any() else np.array([np.nan])
             for values in (tars, fars, thresholds)]
    return TarAtFar(far, float(known[0].mean()), float(known[0].std()), float(known[1].mean()),
                    float(known[2].mean()), thresholds)


def test(pack, embed, nfolds=10, flip=True, batch_size=64, progress=True):
    """Embed a verification pack and score it.

    pack: a `datasets.packs.Pack`. embed: callable, images (N, 3, H, W) uint8 RGB -> (N, D), not normalised.
    flip: add the embedding of the mirrored image. Images that a pack holds several times are embedded once.
    batch_size: images decoded and embedded at once; the last batch is filled with the images before it, so that all are
    of one size. progress: show a bar. Returns a Test.
    Raises UserError for pairs that `evaluate` refuses, and where an embedding is zero or not finite.
    """
    check_pack(pack, nfolds)  # before anything is computed
    firsts, places = pack.distinct()
    passes = [part[places] for part in _embed(pack, firsts, embed, flip, batch_size, progress)]
    xnorm = float(np.mean([np.linalg.norm(part, axis=1) for part in passes]))
    embeddings = normalise(sum(passes), pack.name)
    return Test(evaluate(embeddings, pack.issame, nfolds), xnorm, embeddings)


def _embed(pack, numbers, embed, flip, batch_size, progress):
    """Embeddings of these images of a pack, (M, D) float64, and where `flip` says so of their mirrored twins."""
    # The original holds embeddings as float64, and so do these: its numbers come out to the last digit.
    passes = [[], []] if flip else [[]]
    total = len(numbers)
    size = min(batch_size, total)
    starts = range(0, total, size)
    with tqdm(total=total, unit="img", desc=pack.name, disable=not progress, leave=False) as bar:
        batches = ahead(lambda start: pack.decode_these(numbers[min(start, total - size):][:size]), starts)
        for start, images in zip(starts, batches):
            new = min(size, total - start)
            embeddings = embed_flipped(embed, images) if flip else [np.asarray(embed(images), dtype=np.float64)]
            for parts, part in zip(passes, embeddings):
                parts.append(part[-new:])
            bar.update(new)
    return [np.concatenate(parts) for parts in passes]


def check_pack(pack, nfolds=10):
    """Raise UserError, naming the pack, for pairs that cannot be scored and a first pair that cannot be decoded."""
    try:
        metrics.check_kinds(pack.issame)
        metrics.folds(len(pack.issame), nfolds)
    except UserError as error:
        raise UserError(f"verification pack {pack.name}: {error}") from error
    pack.decode(0, 2)


def verify(models, packs, output, make_embedder, nfolds=10, flip=True, mode=0, batch_size=64, progress=True):
    """Test every model on every pack and write pictures and results.json; yields (pack name, epoch, Test) of each.

    models: list of 'prefix,epoch'. packs: list of `datasets.packs.Pack`, of different names. output: folder.
    make_embedder: callable, model -> embed (see `test`), called once for each model. mode: 1 adds sheets of wrong
    decisions in `badcases/`, 2 the embeddings.
    """
    _check_writable(output)
    results = []
    for model in models:
        embed = make_embedder(model)
        prefix, _, epoch = model.rpartition(",")
        for pack in packs:
            found = test(pack, embed, nfolds, flip, batch_size, progress)
            name, title = f"{pack.name}-{int(epoch):04d}", f"{pack.name}, {_short(prefix)} epoch {epoch}"
            write_pictures(name, title, found, output)
            if mode == 1:
                write_bad_cases(name, title, pack, found, Path(output, "badcases"))
            elif mode == 2:
                write_embeddings(Path(output, f"{name}_embeddings.npz"), found)
            results.append(dict(model=model, target=pack.name, flip=flip, **as_json(found)))
            write_text(Path(output, "results.json"), json.dumps(results, indent=1) + "\n")
            yield pack.name, int(epoch), found


def _check_writable(folder):
    """Raise UserError now rather than after minutes of computing."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=str(folder)).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}; choose another with --output") from error


def _short(prefix):
    """The end of a prefix that tells models apart: they are all named `model` in folders of their own."""
    return "/".join(Path(prefix).resolve().parts[-2:])


def find_models(text, slice_text=""):
    """The checkpoints that --model names: 'prefix,1', 'prefix,1|2', or 'prefix' for all epochs on disk, newest first.

    slice_text: 'a,b', the a-th to before the b-th of all epochs. Returns a list of 'prefix,epoch'.
    """
    from common.checkpoint import find_epochs

    named = re.fullmatch(r"(.+),\s*(\d+(?:\|\d+)*)\s*", text)
    if named:
        return [f"{named[1]},{int(epoch)}" for epoch in named[2].split("|")]
    epochs = find_epochs(text)[::-1]
    if not epochs:
        raise UserError(f"model {text!r}: no file {text}-NNNN.params; expected PREFIX,EPOCH such as ./models/r100,1, "
                        "PREFIX,EPOCH|EPOCH, or a PREFIX with epochs on disk")
    if slice_text:
        bounds = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", slice_text)
        chosen = epochs[int(bounds[1]):int(bounds[2])] if bounds else []
        if not chosen:
            raise UserError(f"--max {slice_text}: expected first,end with 0 <= first < end, first below {len(epochs)} "
                            "(the epochs found)")
        epochs = chosen
    return [f"{text},{epoch}" for epoch in epochs]


def find_targets(text, folder, default=()):
    """The .bin files that --target names: names of `<folder>/<name>.bin`, or paths of .bin files.

    default: the names where `text` is empty; all of the folder where that is empty too. Raises UserError, listing
    what is there, for one that is missing, and for two of one name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()] or default or list_targets(folder)
    paths = [find_target(Path(name).parent, Path(name).stem) if name.endswith(".bin") else find_target(folder, name)
             for name in names]
    if not paths:
        raise UserError(f"no verification pack (*.bin) in {folder}; see --data-dir, --dataset and --target")
    if len({path.stem for path in paths}) < len(paths):
        raise UserError(f"--target {text}: two targets have the same name")
    return paths


def parse_args(args=None):
    parser = ArgumentParser(description="Verify pairs of faces with a model: accuracy, TAR at FAR, ROC, scores.")
    parser.add_argument("--model", default="../model/softmax,50", help="PREFIX,EPOCH; 'PREFIX,EPOCH|EPOCH'; or PREFIX "
                        "for all epochs, newest first")
    parser.add_argument("--data-dir", default="", help="folder of the .bin packs; empty: that of --dataset, else "
                        "the current one")
    parser.add_argument("--dataset", default="", help="name or folder of a data set, which gives packs and image size")
    parser.add_argument("--target", default="", help="names or paths of .bin packs with commas between, such as "
                        "lfw,cfp_fp,agedb_30; empty: those of --dataset, else all packs in the folder")
    parser.add_argument("--batch-size", type=positive, default=64, help="images that a device takes at once")
    parser.add_argument("--image-size", default="", help="height,width of the images in pixels; empty: that of "
                        "--dataset, else 112,112")
    parser.add_argument("--max", default="", help="first,end: take only these of all epochs (0 is the newest)")
    parser.add_argument("--mode", type=int, default=0, choices=(0, 1, 2), help="0: test; 1: also write sheets of wrong "
                        "decisions; 2: also write the embeddings")
    parser.add_argument("--nfolds", type=positive, default=10, help="number of folds; 1: no folds")
    parser.add_argument("--no-flip", action="store_true", help="leave the mirrored images out")
    parser.add_argument("--output", default="", help="folder for pictures and results.json; empty: verification/ "
                        "beside the model")
    add_device_flags(parser)
    return parser.parse_args(args)


def main():
    args = parse_args()
    from common.devices import get_devices
    from common.embedder import Embedder

    dataset = find_dataset(args.dataset) if args.dataset else None
    folder = args.data_dir or (dataset.folder if dataset else ".")
    image_shape = parse_image_size(args.image_size or "112,112")
    if dataset and not args.image_size:
        image_shape = dataset.image_shape
    default = dataset.val_targets if dataset and not args.data_dir else ()
    models = find_models(args.model, args.max)
    packs = [load_pack(path, image_shape) for path in find_targets(args.target, folder, default)]
    output = args.output or Path(models[0].rpartition(",")[0]).parent / "verification"
    devices = get_devices(device_names(args))
    results, best = verify(models, packs, output, lambda model: Embedder(model, devices, args.batch_size, image_shape),
                           args.nfolds, not args.no_flip, args.mode, args.batch_size * len(devices)), {}
    for name, epoch, found in results:
        print("\n".join(report_lines(f"[{name}][{epoch}]", found, not args.no_flip)), flush=True)
        best[name] = max(best.get(name, 0), found.result.accuracy)
    for name, accuracy in best.items():
        print(f"Max of [{name}] is {accuracy:1.5f}")
    print(f"pictures and results.json: {output}")


if __name__ == "__main__":
    run(main)
