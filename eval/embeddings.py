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


def joined(views, flip):
    """What becomes of images' embeddings and those of the mirrored images, float64, not normalised.

    views: one or two arrays (N, D); flip: 'sum': f(x) + f(mirrored x); 'concat': both side by side, D doubled (Liu et
    al., 2017, SphereFace); 'none': f(x) alone.
    """
    # The original holds embeddings as float64, and so do these: its numbers come out to the last digit.
    views = [np.asarray(view, np.float64) for view in (views[:1] if flip == "none" else views)]
    return np.concatenate(views, axis=1) if flip == "concat" else sum(views)
