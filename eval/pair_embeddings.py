"""The embeddings that a verification compares: computed once, kept on disk, joined with those of mirrored images."""
import hashlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.arrays import open_array
from common.embeddings import ahead, normalise
from common.errors import DataError, unknown_name
from common.files import hash_file, replacing
from datasets.embedding_store import hash_model
from eval.embeddings import joined, mirrored

FLIPS = ("sum", "concat", "none")
_FORMAT = "1"  # goes into the key: raised when what is kept, or how it is computed, changes


def check_flip(flip):
    """Raise UserError for a use of mirrored images that is not of FLIPS."""
    if flip not in FLIPS:
        raise unknown_name("use of mirrored images", flip, FLIPS)


def embed_target(target, embed, flip="sum", batch_size=64, progress=True):
    """Embed the distinct images of a verification target and, unless flip is 'none', their mirrored twins.

    target: a `datasets.packs.Pack` or `datasets.templates.TemplateSet`. embed: callable, images (N, 3, H, W) uint8 RGB
    -> (N, D). batch_size: images at once; the last batch is filled with the images before it, so that all are of one
    size. Returns (P, M, D), not normalised: P is 1, or 2 with the mirrored ones.
    """
    numbers, passes = target.distinct(), []
    size = min(batch_size, len(numbers))
    starts = range(0, len(numbers), size)
    with tqdm(total=len(numbers), unit="img", desc=target.name, disable=not progress, leave=False) as bar:
        batches = ahead(lambda start: target.decode_these(numbers[min(start, len(numbers) - size):][:size]), starts)
        for start, images in zip(starts, batches):
            new = min(size, len(numbers) - start)
            views = [images] if flip == "none" else [images, mirrored(images)]
            passes.append(np.stack([np.asarray(embed(view))[-new:] for view in views]))
            bar.update(new)
    return np.concatenate(passes, axis=1)


def pair_embeddings(target, passes, flip="sum"):
    """The embeddings of the pairs of a target, (2N, D) float64, L2-normalised.

    passes: (P, M, D), see `embed_target`; flip: see `eval.embeddings.joined`. Of a template the mean over its images is
    taken before the normalisation. Raises UserError where one is zero or not finite.
    """
    return normalise(target.of_pairs(joined(passes, flip)), target.name)


def mean_norm(target, passes, flip="sum"):
    """The mean length of the embeddings of the pairs' images (the original's XNorm)."""
    views = passes[:1] if flip == "none" else passes
    return float(np.mean([target.of_pairs(np.linalg.norm(np.asarray(view, np.float64), axis=1)) for view in views]))


class EmbeddingCache:
    """Embeddings of verification targets in a folder, by the hashes of model and target.

    folder: made when something is kept; None: nothing is kept. model: 'prefix,epoch'.
    """

    def __init__(self, folder, model):
        self._folder = folder and Path(folder)
        self._model = folder and hash_model(model)

    def passes(self, target, flip, compute):
        """What `embed_target` gives: from the folder, else from compute(), which is kept there."""
        if not self._folder:
            return compute()
        path = self._folder / f"{target.name}-{self._key(target)}.npy"
        wanted = (1 if flip == "none" else 2, len(target.distinct()))
        found = _load(path)
        if found is None or found.shape[0] < wanted[0] or found.shape[1] != wanted[1]:
            found = compute()
            with replacing(path) as temporary, open(temporary, "wb") as file:
                np.save(file, found)
        return found

    def _key(self, target):
        parts = [_FORMAT, self._model, *map(hash_file, target.files), str(target.image_shape)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _load(path):
    """A kept array; None where there is none, and where it is damaged: it can be computed again."""
    try:
        found = np.array(open_array(path, (None, None, None)))
    except DataError:
        return None
    return found if np.isfinite(found).all() else None
