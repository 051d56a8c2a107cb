"""Verification: are the two faces of a pair the same person? The original's protocol, and its command.

    python eval/verification.py --model ./models/r100,1 --data-dir datasets/faces_emore --target lfw,cfp_fp

An embedding is f(x) + f(mirrored x), L2-normalised; a pair is accepted when the squared distance of its embeddings is
below a threshold; thresholds are chosen on nine tenths of the pairs and judged on the tenth left out, ten times
(Huang et al. 2007, "Labeled Faces in the Wild", with the "unrestricted, labelled outside data" protocol).
"""
import re
import sys
import tempfile
from functools import lru_cache, partial
from pathlib import Path
from typing import List, NamedTuple

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from common.checkpoint import is_onnx, on_backend, parse_model
from common.cli import ArgumentParser, run
from common.errors import UserError
from common.flags import add_device_flags, device_names, positive
from datasets import find_dataset, find_target, list_targets
from datasets.images import parse_image_size
from datasets.targets import load_target
from eval import metrics
from eval.operating_points import ExactTar, OperatingPoint, exact_tars, operating_points
from eval.pair_embeddings import FLIPS, EmbeddingCache, check_flip, embed_target, mean_norm, pair_embeddings
from eval.results import add_record_flag, append_record, record_path, write_results
from eval.verification_report import exact_lines, report_lines, write_epochs, write_verification

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
    pairs. exact: an ExactTar for each of `operating_points.FARS`; points: list of OperatingPoint, what thresholds cost.
    scores: cosine similarity of each pair (N,); issame: (N,) bool; distances: (N,), or (nfolds, N) with a PCA.
    """

    accuracy: float
    accuracy_std: float
    threshold: float
    accuracies: np.ndarray
    thresholds: np.ndarray
    tar_at_far: List[TarAtFar]
    eer: float
    auc: float
    exact: List[ExactTar]
    points: List[OperatingPoint]
    scores: np.ndarray
    issame: np.ndarray
    distances: np.ndarray


class Test(NamedTuple):
    """What `test` finds: a Result, the mean norm before normalisation, the embeddings (2N, D), L2-normalised."""

    result: Result
    xnorm: float
    embeddings: np.ndarray


def evaluate(embeddings, issame, nfolds=10, pca=0, fars=FARS, seed=0):
    """Score pairs by the original's protocol.

    embeddings: (2N, D) float, L2-normalised, pair i in rows 2i and 2i + 1; issame: (N,) bool, True for genuine pairs.
    nfolds: folds of the pairs in their order (1: thresholds chosen and judged on all pairs). pca: dimensions of a PCA
    before the accuracy is taken, 0 for none. fars: FARs to give the original's TAR at, fractions. seed: of the
    bootstrap. Returns a Result.
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
    threshold = float(thresholds.mean())
    return Result(float(accuracies.mean()), float(accuracies.std()), threshold, accuracies, thresholds,
                  tar_at_far, metrics.eer(far, tar), metrics.auc(far, tar), exact_tars(scores, issame, seed=seed),
                  operating_points(scores, issame, float(metrics.to_cosine(threshold))), scores, issame, distances)


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


def test(target, embed, nfolds=10, flip="sum", batch_size=64, progress=True, seed=0):
    """Embed a verification target and score it.

    target: a `datasets.packs.Pack` or `datasets.templates.TemplateSet`. embed: callable, images (N, 3, H, W) uint8 RGB
    -> (N, D), not normalised. flip: what becomes of mirrored images, see `pair_embeddings`. Images that a pack holds
    several times are embedded once. batch_size: images decoded and embedded at once. progress: show a bar. seed: of the
    bootstrap. Returns a Test.
    Raises UserError for pairs that `evaluate` refuses, and where an embedding is zero or not finite.
    """
    check_flip(flip)
    check_pack(target, nfolds)  # before anything is computed
    return score(target, embed_target(target, embed, flip, batch_size, progress), nfolds, flip, seed)


def score(target, passes, nfolds=10, flip="sum", seed=0):
    """Score a verification target. passes: what `embed_target` gives; the rest as for `test`. Returns a Test."""
    embeddings = pair_embeddings(target, passes, flip)
    return Test(evaluate(embeddings, target.issame, nfolds, seed=seed), mean_norm(target, passes, flip), embeddings)


def check_pack(pack, nfolds=10):
    """Raise UserError, naming the pack, for pairs that cannot be scored and a first pair that cannot be decoded."""
    try:
        metrics.check_kinds(pack.issame)
        metrics.folds(len(pack.issame), nfolds)
    except UserError as error:
        raise UserError(f"{pack.path}: {error}") from error
    pack.pair(0)


def verify(models, targets, output, make_embedder, nfolds=10, flip="sum", mode=0, batch_size=64, progress=True,
           cache=None, record=None, seed=0):
    """Test every model on every target; write pictures and results.json; yields (target name, epoch, Test) of each.

    models: list of 'prefix,epoch' or ONNX files. targets: as `test` takes them, of different names. output: folder.
    make_embedder: callable, model -> embed (see `test`), called once for each model, or not at all where the cache has
    all. mode: 1 adds sheets of wrong decisions in `badcases/`, 2 the embeddings. cache: folder of an EmbeddingCache.
    record: CSV that gets a row for each (see `eval.results`). Several models are drawn as a curve in the end.
    """
    check_flip(flip)
    for target in targets:
        check_pack(target, nfolds)  # before anything is computed
    _check_writable(output)
    entries, curves = [], {}
    for model in models:
        embedder, kept = lru_cache(1)(partial(make_embedder, model)), EmbeddingCache(cache, model)
        for target in targets:
            passes = kept.passes(target, flip, lambda target=target, embedder=embedder: embed_target(
                target, embedder(), flip, batch_size, progress))
            found = score(target, passes, nfolds, flip, seed)
            entries.append(write_verification(model, target, found, flip, output, mode))
            write_results(output, entries)
            if record:
                append_record(record, entries[-1])
            epoch = parse_model(model)[1]
            curves.setdefault(target.name, []).append((epoch, found.result.accuracy, found.result.accuracy_std))
            yield target.name, epoch, found
    if len(models) > 1:
        write_results(output, entries + [write_epochs(models, curves, output)])


def _check_writable(folder):
    """Raise UserError now rather than after minutes of computing."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=str(folder)).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}; choose another with --output") from error


def find_models(text, slice_text=""):
    """The models that --model names: 'prefix,1', 'prefix,1|2', 'prefix' for all epochs on disk, newest first, or an
    ONNX file.

    slice_text: 'a,b', the a-th to before the b-th of all epochs. Returns a list of 'prefix,epoch'.
    """
    from common.checkpoint import find_epochs

    if is_onnx(text):
        return [text]
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
    """What --target names: names of `<folder>/<name>.bin` or template sets `<folder>/<name>`, or paths of either.

    default: the names where `text` is empty; all of the folder where that is empty too. Raises UserError, listing
    what is there, for one that is missing, and for two of one name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()] or default or list_targets(folder)
    paths = [find_target(Path(name).parent, Path(name).stem) if name.endswith(".bin") or "/" in name
             else find_target(folder, name) for name in names]
    if not paths:
        raise UserError(f"no verification pack (*.bin) in {folder}; see --data-dir, --dataset and --target")
    if len({path.stem for path in paths}) < len(paths):
        raise UserError(f"--target {text}: two targets have the same name")
    return paths


def parse_args(args=None):
    parser = ArgumentParser(description="Verify pairs of faces with a model: accuracy, TAR at FAR, ROC, scores.")
    parser.add_argument("--model", default="../model/softmax,50", help="PREFIX,EPOCH; 'PREFIX,EPOCH|EPOCH'; PREFIX "
                        "for all epochs, newest first; or an .onnx file")
    parser.add_argument("--data-dir", default="", help="folder of the .bin packs; empty: that of --dataset, else "
                        "the current one")
    parser.add_argument("--dataset", default="", help="name or folder of a data set, which gives packs and image size")
    parser.add_argument("--target", default="", help="names or paths of .bin packs or template sets with commas "
                        "between, such as lfw,cfp_fp,ytf; empty: those of --dataset, else all in the folder")
    parser.add_argument("--batch-size", type=positive, default=64, help="images that a device takes at once")
    parser.add_argument("--image-size", default="", help="height,width of the images in pixels; empty: that of "
                        "--dataset, else 112,112")
    parser.add_argument("--max", default="", help="first,end: take only these of all epochs (0 is the newest)")
    parser.add_argument("--mode", type=int, default=0, choices=(0, 1, 2), help="0: test; 1: also write sheets of wrong "
                        "decisions; 2: also write the embeddings")
    parser.add_argument("--nfolds", type=positive, default=10, help="number of folds; 1: no folds")
    parser.add_argument("--flip", choices=FLIPS, default="sum", help="the mirrored image's embedding is added, set "
                        "beside, or left out")
    parser.add_argument("--no-flip", dest="flip", action="store_const", const="none", help="the same as --flip none")
    parser.add_argument("--output", default="", help="folder for pictures and results.json; empty: verification/ "
                        "beside the model")
    parser.add_argument("--cache", default="", help="folder in which embeddings are kept by the hashes of model and "
                        "data; empty: embeddings/ in --output; none: nothing is kept")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap intervals")
    add_record_flag(parser)
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
    models = [on_backend(model, args.backend) for model in find_models(args.model, args.max)]
    targets = [load_target(path, image_shape) for path in find_targets(args.target, folder, default)]
    output = args.output or Path(parse_model(models[0])[0]).parent / "verification"
    devices, best = get_devices(device_names(args)), {}
    found = verify(models, targets, output, lambda model: Embedder(model, devices, args.batch_size, image_shape),
                   args.nfolds, args.flip, args.mode, args.batch_size * len(devices),
                   cache=None if args.cache == "none" else args.cache or Path(output, "embeddings"),
                   record=record_path(args.record, output), seed=args.seed)
    for name, epoch, test_ in found:
        lines = report_lines(f"[{name}][{epoch}]", test_, args.flip) + exact_lines(f"[{name}][{epoch}]", test_)
        print("\n".join(lines), flush=True)
        best[name] = max(best.get(name, 0), test_.result.accuracy)
    for name, accuracy in best.items():
        print(f"Max of [{name}] is {accuracy:1.5f}")
    print(f"pictures and results.json: {output}")


if __name__ == "__main__":
    run(main)
