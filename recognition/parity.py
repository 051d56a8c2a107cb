"""Does an exported model give the embeddings that MXNet gives? Both embed the same faces.

The difference of two embeddings a, b of a face is ‖a − b‖ / ‖a‖, a being MXNet's. It bounds what one may care about:
no number of the normalised embedding, and no cosine to another face, changes by more (and so the angle between the two
embeddings, in radians).
"""
import numpy as np

from common import graph
from common.errors import UserError
from common.mxnet_setup import mx
from datasets.images import cover, decode_into
from datasets.overlap import open_test_set
from datasets.rendered import render_identity

LIMIT = 1e-4
BATCHES = (1, 2, 5)  # images in each call: the number must be free
_FACES = sum(BATCHES)


def load_faces(source="", image_shape=(112, 112)):
    """Faces to compare on, (8, 3, H, W) uint8 RGB.

    source: a .bin pack, a folder with train.rec or a folder of images, whose first images are taken; empty: rendered
    faces. Raises UserError where there are not enough, DataError for one that cannot be used.
    """
    if not source:
        faces = [cover(render_identity(0, "probes", number, 1)[0][0], *image_shape) for number in range(_FACES)]
        return np.stack(faces).transpose(0, 3, 1, 2).copy()
    images = open_test_set(source, image_shape)
    if images.count < _FACES:
        raise UserError(f"{source}: holds {images.count} images; expected at least {_FACES}")
    faces = np.empty((_FACES, 3, *image_shape), np.uint8)
    for number, planes in enumerate(faces):
        decode_into(planes, images.read(number)[0], images.name(number))
    return faces


def mxnet_embeddings(symbol, arg_params, aux_params, faces, batches=BATCHES):
    """What MXNet's own operators give, (N, D) float64: nothing folded, nothing rewritten but where MXNet would crash.

    symbol: embedding symbol; faces: (N, 3, H, W) uint8 RGB, taken in calls of `batches` images.
    """
    symbol = graph.rewrite(symbol, [graph.batchnorm_2d, graph.flat_fully_connected], data=(1, *faces.shape[1:]))

    def embed(images):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=images.shape)
        executor.copy_params_from(arg_params, aux_params, allow_extra_params=True)
        return executor.forward(is_train=False, data=mx.nd.array(images, dtype=np.float32))[0].asnumpy()

    return embeddings_by(embed, faces, batches)


def embeddings_by(embed, faces, batches=BATCHES):
    """Embed `faces` in calls of `batches` images; returns (N, D) float64. embed: callable, images -> (n, D)."""
    parts = np.split(faces, np.cumsum(batches)[:-1])
    return np.concatenate([np.asarray(embed(part), np.float64) for part in parts])


def largest_difference(expected, found):
    """The largest difference, see above, of embeddings (N, D); nan where one is not finite."""
    return float(np.max(np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)))


def check(expected, found, what):
    """Compare embeddings (N, D). what: names the exported model. Returns the largest difference.

    Raises UserError where it is above LIMIT, or an embedding has another size, is zero or not finite.
    """
    if found.shape != expected.shape:
        raise UserError(f"{what}: gives embeddings of shape {found.shape}, MXNet {expected.shape}; it is not written")
    difference = largest_difference(expected, found)
    if not difference <= LIMIT:
        raise UserError(f"{what}: differs from MXNet by {difference:.1e} of an embedding's length; expected at most "
                        f"{LIMIT:.0e}; it is not written")
    return difference
