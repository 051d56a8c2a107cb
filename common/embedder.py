"""A checkpoint turned into `images -> embeddings`."""
import numpy as np

from common import checkpoint, graph, int8
from common.devices import get_devices
from common.errors import DataError, UserError
from common.mxnet_setup import empty_on_host, naming
from common.onnx_network import OnnxNetwork

EMBEDDING = "fc1_output"


class Embedder:
    """Images (N, 3, H, W) uint8 RGB -> embeddings (N, emb_size) float32, not normalised.

    model: 'prefix,epoch', or the path of an ONNX file, which onnxruntime runs on the CPU; its embeddings are normalised
    where it was exported so. devices: list of mx.Context, or None for all GPUs, else the CPU; batches go to them in
    turn. batch_size: images a device takes at once. image_shape: (H, W) in pixels.
    Every Embedder binds anew and keeps its own copy of the parameters: an MXNet 1.9.1 graph bound for inference goes
    on with its first weights when new ones are set.
    Raises UserError or DataError for a model that cannot be read or takes images of another size.
    """

    def __init__(self, model, devices=None, batch_size=64, image_shape=(112, 112)):
        if checkpoint.is_onnx(model):
            self._setup(batch_size, image_shape)
            self._take_onnx(model, devices)
        else:
            symbol, arg_params, aux_params = checkpoint.load(model)
            self._setup(batch_size, image_shape)
            self._bind(model, embedding_of(symbol, model), arg_params, aux_params, devices)

    @classmethod
    def from_params(cls, symbol, arg_params, aux_params, devices=None, batch_size=64, image_shape=(112, 112),
                    name="the model"):
        """The same from an embedding symbol and its parameters (dict name -> NDArray) in memory; name: for messages."""
        embedder = cls.__new__(cls)
        embedder._setup(batch_size, image_shape)
        embedder._bind(name, symbol, arg_params, aux_params, devices)
        return embedder

    def _setup(self, batch_size, image_shape):
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: expected a positive number of images")
        self.image_shape, self.batch_size = tuple(image_shape), batch_size

    def _take_onnx(self, path, devices):
        if any(device.device_type == "gpu" for device in devices or ()):
            raise UserError(f"{path}: onnxruntime runs on the CPU here; use --devices cpu")
        network = OnnxNetwork(path, self.image_shape)
        self.emb_size, self._networks = network.emb_size, [network]

    def _bind(self, model, symbol, arg_params, aux_params, devices):
        data = (1, 3) + self.image_shape
        self.emb_size = check_shapes(model, symbol, {**arg_params, **aux_params}, data)
        inputs = set(symbol.list_inputs())
        params = [{name: array.copy() for name, array in part.items() if name in inputs}
                  for part in (arg_params, aux_params)]
        with naming(model):
            symbol, *params = graph.for_inference(symbol, *params, data=data)
            self._networks = [_Network(model, symbol, params, device, data, self.batch_size)
                              for device in devices or get_devices()]

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
        for first in range(0, len(stops), len(self._networks)):
            group = stops[first:first + len(self._networks)]
            outputs = [network(images[stop - size:stop]) for network, stop in zip(self._networks, group)]
            for stop, output in zip(group, outputs):
                embeddings[stop - size:stop] = output()
        return embeddings


class _Network:
    """An embedding symbol on a device: images (N, 3, H, W) uint8 -> a callable that waits for the embeddings.

    model: its name in messages; params: (arg_params, aux_params); data: shape of one image's batch; batch_size: of
    whole batches. Raises DataError where MXNet refuses the network, which may show only when its output is waited for.
    """

    def __init__(self, model, symbol, params, device, data, batch_size):
        self._model = model
        self._symbol, (arg_params, aux_params) = graph.for_device(symbol, device, training=False, data=data), params
        self._types = dict(data=np.uint8)
        if device.device_type == "cpu" and int8.ranges_of(symbol):
            self._symbol, arg_params = int8.quantised(self._symbol, arg_params)
            self._types.update(int8.types(arg_params))
        self._params, self._device, self._batch_size, self._executors = (arg_params, aux_params), device, batch_size, {}

    def __call__(self, images):
        with naming(self._model):
            data, pixels = empty_on_host(images.shape, np.uint8)
            pixels[:] = images  # not by MXNet, whose copy has threads of its own that then compete with the network's
            output, = self._executor(images.shape).forward(is_train=False, data=data)

        def wait():
            with naming(self._model):
                return output.asnumpy()
        return wait

    def _executor(self, shape):
        size = shape[0]
        if size not in self._executors:
            # Two sizes are kept: whole batches, and the last odd one.
            for other in [other for other in self._executors if other not in (size, self._batch_size)]:
                del self._executors[other]
            executor = self._symbol.simple_bind(self._device, grad_req="null", type_dict=self._types, data=shape)
            executor.copy_params_from(*self._params)
            self._executors[size] = executor
        return self._executors[size]


def embedding_of(symbol, model="the symbol"):
    """The embedding symbol inside `symbol`, be it the network alone or the whole training graph."""
    internals = symbol.get_internals()
    if EMBEDDING not in internals.list_outputs():
        raise DataError(f"{model}: the network has no output named {EMBEDDING!r}; is it a face embedding network?")
    return internals[EMBEDDING]


def check_shapes(model, symbol, params, data):
    """Hold parameters (dict name -> NDArray) against a symbol for images of shape `data`, (1, 3, H, W).

    model: its name in messages. Returns the embedding size. Raises DataError as `checkpoint.check_shapes` does, and for
    an output that is no embedding.
    """
    (shape,) = checkpoint.check_shapes(model, symbol, params, data)
    if len(shape) != 2:
        raise DataError(f"{model}: output {EMBEDDING} has shape {shape} for images of {data[2]}x{data[3]} pixels; "
                        "expected (N, emb_size)")
    return shape[1]
