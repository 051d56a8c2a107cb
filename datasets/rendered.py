"""Rendered data: faces drawn from numbers, written as a training set, a verification pack and an identification set.

They stand in for real faces where none may be kept. The identities of training, verification and identification are
drawn apart, each from (seed, split, number), so that none is in two of them.
"""
import multiprocessing
from collections import deque, namedtuple
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.cores import cpu_count
from common.errors import UserError
from common.files import write_bytes, write_text
from datasets.packs import write_pack
from datasets.rendered_face import SIZE, draw
from datasets.rendered_parameters import random_conditions, random_identity
from datasets.training_set import write_training_set

SPLITS = ("training", "verification", "probes", "distractors")
FOLDS = 10
VERIFICATION_IMAGES = 5  # of each identity that is verified
PROBE_IDENTITIES, PROBE_IMAGES, DISTRACTORS = 20, 6, 500

Demo = namedtuple("Demo", "folder identities images pairs probes distractors")
Demo.__doc__ = """What was written: the folder; identities and images to train on; pairs; probe images; distractors."""


def render_identity(seed, split, number, count):
    """Draw `count` pictures of an identity. Returns a list of (112, 112, 3) uint8 RGB, and their JPEG qualities.

    split: one of SPLITS; number: of the identity in it, from 0.
    """
    rng = np.random.RandomState([seed, SPLITS.index(split), number])
    identity = random_identity(rng)
    conditions = [random_conditions(rng) for _ in range(count)]
    return [draw(identity, how) for how in conditions], [int(how.jpeg_quality) for how in conditions]


def _jpegs(job):
    return [cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            for image, quality in zip(*render_identity(*job))]


def _one_thread():
    cv2.setNumThreads(1)


class _Renderer:
    """Draws splits, on several processors at once, with one bar for all of them. What it draws hangs on the seed alone.

    New processes are started rather than forked, since MXNet may already run threads in this one.
    """

    def __init__(self, seed, workers, bar):
        self._seed, self._workers, self._bar, self._pending = seed, workers, bar, deque()

    def __enter__(self):
        if self._workers > 1:
            self._pool = ProcessPoolExecutor(self._workers, multiprocessing.get_context("spawn"), _one_thread)
        return self

    def __exit__(self, *_):
        for task in self._pending:  # after an error nobody waits for them
            task.cancel()
        if self._workers > 1:
            self._pool.shutdown()

    def __call__(self, split, identities, count):
        """The JPEGs of one identity after the other: an iterator of lists of bytes."""
        jobs = [(self._seed, split, number, count) for number in range(identities)]
        for images in self._drawn(jobs) if self._workers > 1 else map(_jpegs, jobs):
            self._bar.update(len(images))
            yield images

    def _drawn(self, jobs):
        self._pending.extend(self._pool.submit(_jpegs, job) for job in jobs)
        while self._pending:
            yield self._pending[0].result()
            self._pending.popleft()


def write_demo(folder, identities=200, images_per_identity=25, pairs=1500, seed=0, workers=None, progress=True):
    """Write the rendered data: train.rec, train.idx, property, rendered.bin and identification/ into a folder.

    identities, images_per_identity: to train on; pairs: to verify, a multiple of 20; seed: 0 to 2**32 - 1; workers:
    processes that draw (default: one for each core); progress: show a bar. identification/ holds JPEG files under
    facescrub/ and megaface/ and their lists, facescrub_lst and megaface_lst, in the layout of MegaFace.
    Returns a Demo. Raises UserError for numbers that cannot be met and where the system refuses to write.
    """
    _check(identities, images_per_identity, pairs, seed)
    workers = workers or cpu_count()
    folder, verified = Path(folder), FOLDS * _identities_per_fold(pairs)
    total = (identities * images_per_identity + verified * VERIFICATION_IMAGES + PROBE_IDENTITIES * PROBE_IMAGES
             + DISTRACTORS)
    with tqdm(total=total, unit="image", disable=not progress) as bar, _Renderer(seed, workers, bar) as render:
        write_training_set(folder, render("training", identities, images_per_identity), (SIZE, SIZE))
        images = [image for shown in render("verification", verified, VERIFICATION_IMAGES) for image in shown]
        write_pack(folder / "rendered.bin", *_draw_pairs(images, pairs, seed))
        _write_identification(folder / "identification", render)
    return Demo(folder, identities, identities * images_per_identity, pairs, PROBE_IDENTITIES * PROBE_IMAGES,
                DISTRACTORS)


def _check(identities, images_per_identity, pairs, seed):
    if identities < 2 or images_per_identity < 1:
        raise UserError(f"{identities} identities with {images_per_identity} images each; expected at least 2 with 1")
    if pairs < 20 or pairs % 20:
        raise UserError(f"{pairs} pairs; expected a multiple of 20: ten folds, half genuine and half impostor")
    _check_seed(seed)


def _check_seed(seed):
    if not 0 <= seed < 2 ** 32:
        raise UserError(f"seed {seed}; expected 0 to {2 ** 32 - 1}")


def _identities_per_fold(pairs):
    return max(2, pairs // 50)


def _draw_pairs(images, pairs, seed):
    """The images of the pairs, two by two, and whether they show the same identity.

    images: VERIFICATION_IMAGES of each identity, one identity after the other. As in LFW, no identity is in two folds,
    no pair comes twice, and in each fold the genuine pairs stand before as many impostor pairs.
    """
    rng = np.random.RandomState([seed, len(SPLITS)])
    size, each = len(images) // FOLDS, pairs // FOLDS // 2
    first, second = np.triu_indices(size, 1)
    same = first // VERIFICATION_IMAGES == second // VERIFICATION_IMAGES
    chosen = []
    for fold in range(FOLDS):
        for kind in (same, ~same):
            drawn = rng.choice(np.flatnonzero(kind), each, replace=False)
            chosen += [images[fold * size + i] for pair in zip(first[drawn], second[drawn]) for i in pair]
    return chosen, ([True] * each + [False] * each) * FOLDS


def _write_identification(folder, render):
    """Probes in facescrub/<person>/<image>, distractors in megaface/<a1>/<a2>/<image>, and the lists of both."""
    probes = {f"Rendered_{person:03d}/Rendered_{person:03d}_{number}.jpg": image
              for person, images in enumerate(render("probes", PROBE_IDENTITIES, PROBE_IMAGES))
              for number, image in enumerate(images)}
    distractors = {f"{number // 100:03d}/{number:05d}/0.jpg": image
                   for number, (image,) in enumerate(render("distractors", DISTRACTORS, 1))}
    for name, images in (("facescrub", probes), ("megaface", distractors)):
        for path, image in images.items():
            _write_plain(folder / name / path, image)
        write_text(folder / f"{name}_lst", "".join(f"{path}\n" for path in images))


def _write_plain(path, data):
    """Write one of many small files without waiting for the disk; the list, written last, is what vouches for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def write_sheet(path, identities=8, images_per_identity=10, seed=0):
    """Write a contact sheet as PNG: a row for each of the first training identities, a column for each image."""
    _check_seed(seed)
    rows = [render_identity(seed, "training", number, images_per_identity)[0] for number in range(identities)]
    sheet = np.vstack([np.hstack(row) for row in rows])
    write_bytes(path, cv2.imencode(".png", sheet[:, :, ::-1])[1].tobytes())
