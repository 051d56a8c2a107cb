"""What everything that embeds images shares: unit vectors, and loading ahead of the network."""
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common.errors import UserError


def normalise(embeddings, where):
    """Scale embeddings (N, D) to unit length.

    where: what they are of, for the message. Raises UserError where one is zero or not finite.
    """
    norms = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        raise UserError(f"{where}: {len(bad)} of {len(norms)} embeddings are zero or not finite, the first is number "
                        f"{bad[0]}: the model's parameters are unusable (has its training diverged?)")
    return embeddings / norms[:, np.newaxis]


def ahead(load, jobs):
    """Yield load(job) for each job in order; the next one is loaded in a thread while the caller works on this one."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for job in jobs:
            waiting, ready = pool.submit(load, job), waiting
            if ready is not None:
                yield ready.result()
        if waiting is not None:
            yield waiting.result()
