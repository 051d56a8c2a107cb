"""Files that the commands of use are tried on: a network whose embeddings NumPy can tell, a detector, pictures."""
import cv2
import numpy as np

from common import checkpoint
from common.face_align import TEMPLATE
from common.mxnet_setup import mx

SIZE = (32, 32)
ANCHOR = np.random.RandomState(5).normal(size=(6, 6)).astype(np.float32)


def write_model(folder, size=SIZE, seed=0):
    """A checkpoint whose embedding is a turned vector of the mean colours of the left and the right half, less 110.

    Returns 'prefix,epoch'.
    """
    data = mx.sym.cast(mx.sym.Variable("data"), "float32")
    halves = mx.sym.Pooling(data, kernel=(size[0], size[1] // 2), stride=(size[0], size[1] // 2), pool_type="avg")
    embedding = mx.sym.FullyConnected(mx.sym.Flatten(halves) - 110, num_hidden=6, no_bias=True, name="fc1")
    checkpoint.save(folder / "model", 1, embedding, {"fc1_weight": mx.nd.array(ANCHOR + seed)}, {})
    return f"{folder}/model,1"


def reference(images, flip="sum", raw=False):
    """What `write_model`'s network gives for images, (N, H, W, 3) uint8 RGB, in float64."""
    views = [np.asarray(images, np.float64), np.asarray(images, np.float64)[:, :, ::-1]]
    half = views[0].shape[2] // 2
    found = [np.stack([view[:, :, :half].mean(axis=(1, 2)), view[:, :, half:].mean(axis=(1, 2))], axis=2).reshape(-1, 6)
             for view in views]  # (N, 3 channels, 2 halves), as a map is flattened
    first, second = ((part - 110) @ ANCHOR.T.astype(np.float64) for part in found)
    joined = {"sum": first + second, "none": first, "concat": np.concatenate([first, second], axis=1)}[flip]
    return joined if raw else joined / np.linalg.norm(joined, axis=1, keepdims=True)


def draw_images(count, seed=0, size=SIZE):
    """Images (N, H, W, 3) uint8 RGB, each of a colour on the left and one on the right, under noise. Fewer of them are
    the first of more."""
    return np.stack([_draw(np.random.RandomState([seed, number]), size) for number in range(count)])


def _draw(random, size):
    colours = random.randint(20, 236, (1, 2, 3))
    image = np.repeat(np.repeat(colours, size[0], axis=0), size[1] // 2, axis=1)
    return np.clip(image + random.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def write_image(path, image):
    """Write an image, (H, W, 3) uint8 RGB, as PNG, from which it is read as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image))


def encode(image, suffix=".png"):
    """An image, (H, W, 3) uint8 RGB, as the bytes of a file."""
    return cv2.imencode(suffix, np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes()


def write_detector(folder):
    """MTCNN checkpoints that find what is bright on black: windows whose middle is brighter than their rim.

    The middle is two thirds of a window; landmarks lie in it as the template has them.
    """
    folder.mkdir()
    points = ((TEMPLATE / 112) * 2 / 3 + 1 / 6).T.reshape(-1)
    heads = {"det1": (12, {"conv4_1": 2, "conv4_2": 4}), "det2": (24, {"conv5_1": 2, "conv5_2": 4}),
             "det3": (48, {"conv6_1": 2, "conv6_2": 4, "conv6_3": 10})}
    for name, (side, outputs) in heads.items():
        data, symbols, params = mx.sym.var("data"), [], {}
        for output, size in outputs.items():
            weight, bias = np.zeros((size, 3, side, side)), np.zeros(size)
            if size == 2:  # not a face, a face
                middle = np.zeros((3, side, side), bool)
                middle[:, side // 6:-(side // 6), side // 6:-(side // 6)] = True
                weight[1], bias[1] = 8 * np.where(middle, 1 / middle.sum(), -1 / (~middle).sum()), -4
            elif size == 10:
                bias = points
            if name == "det1":
                where = dict(kernel=(side, side), stride=(2, 2))
                symbols.append(mx.sym.Convolution(data, num_filter=size, name=output, **where))
            else:
                symbols.append(mx.sym.FullyConnected(data, num_hidden=size, name=output))
                weight = weight.reshape(size, -1)
            params.update({f"{output}_weight": mx.nd.array(weight), f"{output}_bias": mx.nd.array(bias)})
        checkpoint.save(folder / name, 1, mx.sym.Group(symbols), params, {})
    return folder


def photograph_of(image, factor=2, margin=60):
    """A picture that `write_detector`'s networks find a face in: the image, (H, W, 3), enlarged, on black."""
    large = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    return np.pad(large, ((margin, margin), (margin, margin), (0, 0)))
