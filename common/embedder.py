"""A checkpoint turned into `images -> embeddings`."""
import numpy as np

from common import checkpoint, graph
from common.devices import get_devices
from common.errors import DataError, UserError
from common.mxnet_setup import mx, naming

EMBEDDING = "fc1_output"


class Embedder:
    """Images (N, 3, H, W) uint8 RGB -> embeddings (N, emb_size) float32, not normalised.

    model: 'prefix,epoch'. devices: list of mx.Context, or None for all GPUs, else the CPU; batches go to them in turn.
    batch_size: images a device takes at once. image_shape: (H, W) in pixels.
    Every Embedder binds anew and keeps its own copy of the parameters: an MXNet 1.9.1 graph bound for inference goes
    on with its first weights when new ones are set.
    Raises UserError or DataError for a model that cannot be read or takes images of another size.
    """

    def __init__(self, model, devices=None, batch_size=64, image_shape=(112, 112)):
        symbol, arg_params, aux_params = checkpoint.load(model)
        self._setup(model, embedding_of(symbol, model), arg_params, aux_params, devices, batch_size, image_shape)

    @classmethod
    def from_params(cls, symbol, arg_params, aux_params, devices=None, batch_size=64, image_shape=(112, 112),
                    name="the model"):
        """The same from an embedding symbol and its parameters (dict name -> NDArray) in memory; name: for messages."""
        embedder = cls.__new__(cls)
        embedder._setup(name, symbol, arg_params, aux_params, devices, batch_size, image_shape)
        return embedder

    def _setup(self, model, symbol, arg_params, aux_params, devices, batch_size, image_shape):
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: expected a positive number of images")
        self.image_shape, self.batch_size = tuple(image_shape), batch_size
        self._devices = devices or get_devices()
        data = (1, 3) + self.image_shape
        (shape,) = checkpoint.check_shapes(model, symbol, {**arg_params, **aux_params}, data)
        if len(shape) != 2:
            raise DataError(f"{model}: output {EMBEDDING} has shape {shape} for images of {data[2]}x{data[3]} pixels; "
                            "expected (N, emb_size)")
        self.emb_size = shape[1]
        inputs = set(symbol.list_inputs())
        params = [{name: array.copy() for name, array in part.items() if name in inputs}
                  for part in (arg_params, aux_params)]
        self._model, self._executors = model, {}
        with naming(model):
            symbol, *self._params = graph.for_inference(symbol, *params, data=data)
            self._symbols = {str(device): graph.for_device(symbol, device, training=False, data=data)
                             for device in self._devices}

    def __call__(self, images):
        """Embed `images`, (N, 3, H, W) uint8 RGB; returns (N, emb_size) float32, not normalised.

        The last batch is filled up with the images before it, as the original does (a GNAP head averages over the
        batch). Raises UserError for images of another shape or type, DataError for a network that MXNet cannot run.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != (3,) + self.image_shape or images.dtype != np.uint8:
            raise UserError(f"images of shape {images.shape} and type {images.dtype}; expected "
                            f"(N, 3, {self.image_shape[0]}, {self.image_shape[1]}) uint8")
        embeddings = np.empty((len(images), self.emb_size), np.float32)
        size = min(len(images), self.batch_size)
        stops = [min(start + size, len(images)) for start in range(0, len(images), size or 1)]
        with naming(self._model):
            for first in range(0, len(stops), len(self._devices)):
                group = stops[first:first + len(self._devices)]
                outputs = [self._forward(position, images[stop - size:stop]) for position, stop in enumerate(group)]
                for stop, output in zip(group, outputs):
                    embeddings[stop - size:stop] = output.asnumpy()
        return embeddings

    def _forward(self, position, images):
        executor = self._executor(position, len(images))
        return executor.forward(is_train=False, data=mx.nd.array(images, dtype=np.uint8))[0]

    def _executor(self, position, size):
        if (position, size) not in self._executors:
            # Two sizes are kept: whole batches, and the last odd one.
            for key in [key for key in self._executors if key[1] not in (size, self.batch_size)]:
                del self._executors[key]
            device = self._devices[position]
            executor = self._symbols[str(device)].simple_bind(
                device, grad_req="null", type_dict={"data": np.uint8}, data=(size, 3) + self.image_shape)
            executor.copy_params_from(*self._params)
            self._executors[position, size] = executor
        return self._executors[position, size]


def embedding_of(symbol, model="the symbol"):
    """The embedding symbol inside `symbol`, be it the network alone or the whole training graph."""
    internals = symbol.get_internals()
    if EMBEDDING not in internals.list_outputs():
        raise DataError(f"{model}: the network has no output named {EMBEDDING!r}; is it a face embedding network?")
    return internals[EMBEDDING]
