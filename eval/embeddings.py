"""What every protocol does with an embedder: images and their mirrored twins are embedded."""
import numpy as np


def mirrored(images):
    """Images (N, 3, H, W), left and right exchanged."""
    return np.ascontiguousarray(images[..., ::-1])


def embed_flipped(embed, images):
    """Embed images and their horizontally mirrored twins.

    embed: callable, images (N, 3, H, W) uint8 RGB -> (N, D). Returns two arrays (N, D) float64, not normalised.
    """
    return tuple(np.asarray(embed(part), dtype=np.float64) for part in (images, mirrored(images)))
