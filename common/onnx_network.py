"""An ONNX model of a network, run by onnxruntime on the CPU."""
import os

import numpy as np

from common.checkpoint import params_path, parse_model
from common.cores import cpu_count
from common.errors import DataError, UserError
from common.files import hash_file

PIXELS = "RGB 0..255, scaled inside"  # the metadata "pixels" of a model that recognition/export.py has written
PARAMS_SHA256 = "params_sha256"  # the metadata that names the checkpoint's parameter file
_OUTSIDE = np.float32(127.5)  # what InsightFace's package subtracts and divides by where the graph does neither


class OnnxNetwork:
    """Images (N, 3, H, W) uint8 RGB -> embeddings (N, emb_size) float32, normalised or not as the model has it.

    path: of the .onnx file; image_shape: (H, W). Attributes: emb_size; metadata, dict str -> str.
    A model from elsewhere is taken as InsightFace's package takes it: where its first eight nodes subtract and
    multiply, it scales its pixels itself; else it gets (x - 127.5) / 127.5.
    Raises UserError where onnxruntime is not installed and for images of another size, DataError for a file that is no
    such model, and for one that was exported from other parameters than lie beside it now.
    """

    def __init__(self, path, image_shape=(112, 112)):
        graph = _read_graph(path)
        self._path, self._session = path, _open(path)
        self.metadata = self._session.get_modelmeta().custom_metadata_map
        self._check_source()
        self._input, self._one_by_one = self._check_input(tuple(image_shape))
        self._scaled_inside = self.metadata.get("pixels") == PIXELS or _scales_pixels(graph)
        found = self._run(np.zeros((1, 3, *image_shape), np.uint8))
        if found.ndim != 2 or len(found) != 1:
            raise DataError(f"{path}: its first output has shape {found.shape} for one image; expected (1, emb_size)")
        self.emb_size = found.shape[1]

    def __call__(self, images):
        """Embed images; returns a callable that gives the embeddings."""
        parts = np.split(images, len(images)) if self._one_by_one else [images]
        embeddings = np.concatenate([self._run(part) for part in parts])
        return lambda: embeddings

    def _run(self, images):
        pixels = images.astype(np.float32)
        if not self._scaled_inside:
            pixels = (pixels - _OUTSIDE) / _OUTSIDE
        try:
            return self._session.run(None, {self._input: pixels})[0]
        except Exception as error:  # onnxruntime raises several kinds
            raise DataError(f"{self._path}: fails on images of shape {images.shape} ({_reason(error)})") from error

    def _check_source(self):
        params, digest = params_path(*parse_model(str(self._path))), self.metadata.get(PARAMS_SHA256)
        if digest and params.is_file() and hash_file(params) != digest:
            raise DataError(f"{self._path}: was exported from other parameters than {params} holds now; export it "
                            "again with recognition/export.py")

    def _check_input(self, image_shape):
        """(Name of the input; whether it takes one image at a time). Raises where it takes no such images."""
        inputs = self._session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or inputs[0].type != "tensor(float)" or (
                isinstance(shape[0], int) and shape[0] != 1):
            raise DataError(f"{self._path}: takes {', '.join(f'{i.name} {i.shape} {i.type}' for i in inputs)}; "
                            "expected images alone, (N, 3, H, W) float32")
        if any(isinstance(size, int) and size != wanted for size, wanted in zip(shape[1:], (3, *image_shape))):
            raise UserError(f"{self._path}: takes images of {shape[1:]} (channels, height, width); expected "
                            f"{[3, *image_shape]}")
        return inputs[0].name, shape[0] == 1


def _read_graph(path):
    """The graph of a file. Raises DataError where it is none, or has what `_foreign` tells."""
    if not os.path.isfile(path):
        raise UserError(f"model {path}: no such file; recognition/export.py writes it")
    try:
        import onnx

        model = onnx.load(str(path), load_external_data=False)
    except ImportError as error:
        raise UserError(f"onnx cannot be imported ({error}): pip install '.[onnx]'") from error
    except Exception as error:  # protobuf's own
        raise DataError(f"{path}: cannot be read as an ONNX model ({_reason(error)})") from error
    found = _foreign(model, onnx.TensorProto.EXTERNAL)
    if found:
        raise DataError(f"{path}: {found}; expected a plain network")
    return model.graph


def _foreign(model, external):
    """What a model has that no network needs, as text, or None: a graph inside the graph can go round for ever, and
    weights in other files are whatever these hold."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    attributes = [(node, attribute) for node in nodes for attribute in node.attribute]
    for node, attribute in attributes:
        if attribute.HasField("g") or attribute.graphs:
            return f"operator {node.op_type[:60]} has a graph inside the graph"
    arrays = [*model.graph.initializer, *(attribute.t for _, attribute in attributes)]
    return "has weights in other files" if any(array.data_location == external for array in arrays) else None


def _open(path):
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"onnxruntime cannot be imported ({error}): pip install '.[onnx]'") from error
    options = onnxruntime.SessionOptions()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else cpu_count()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises several kinds
        raise DataError(f"{path}: cannot be read as an ONNX model ({_reason(error)})") from error


def _reason(error):
    return " ".join(str(error).split())


def _scales_pixels(graph):
    names = [node.name for node in graph.node[:8]]
    return all(any(name.startswith(starts) for name in names) for starts in (("Sub", "_minus"), ("Mul", "_mul")))
