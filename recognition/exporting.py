"""A trained network in other forms: ONNX, Gluon, an MXNet checkpoint without its head, one for 8-bit integers.

Each is written to a temporary folder, loaded from there and compared with MXNet (see `recognition.parity`); only then
is it moved into place.
"""
import json
import warnings
from pathlib import Path
from typing import Dict, List, NamedTuple

from common import checkpoint, graph, sums
from common.embedder import Embedder, check_shapes, embedding_of
from common.embeddings import normalise
from common.errors import UserError, unknown_name
from common.files import adding_to, hash_file, write_bytes
from common.mxnet_setup import mx, naming, reason
from common.onnx_network import PARAMS_SHA256, PIXELS, OnnxNetwork
from eval.results import make_trace
from recognition import onnx_graph
from recognition.int8_export import Int8Writer
from recognition.parity import check, embeddings_by, load_faces, mxnet_embeddings


class Network(NamedTuple):
    """What is exported: the embedding symbol, its parameters (dict name -> NDArray) and image size (H, W)."""

    symbol: mx.sym.Symbol
    arg_params: Dict
    aux_params: Dict
    image_shape: tuple

    @property
    def data_shape(self):
        """The shape of one image's batch."""
        return (1, 3, *self.image_shape)

    def emb_size(self):
        """Numbers in the embedding."""
        return self.symbol.infer_shape(data=self.data_shape)[1][0][1]


class Exported(NamedTuple):
    """What was written. difference: the largest to MXNet, see `recognition.parity`; faces: how many were compared.

    shares_batch: whether an image's embedding depends on the others of its batch (GNAP). measured: lines about INT8.
    """

    model: str
    format: str
    files: List[Path]
    network: Network
    normalised: bool
    difference: float
    faces: int
    shares_batch: bool
    measured: List[str]


def export(model, form="onnx", output="", normalised=False, image_shape=(112, 112), faces="", calibration=None):
    """Write `model` in another form.

    model: 'prefix,epoch'. form: a key of FORMATS. output: the path of the .onnx file, or the prefix of the other forms'
    files; empty: beside the model, see `default_output`. normalised: let embeddings have length 1. image_shape: (H, W)
    of the images. faces: what to compare on, see `parity.load_faces`. calibration: an `int8_export.Calibration`, for
    the form int8, of which the float32 network is compared so. Returns an Exported.
    Raises UserError or DataError, with nothing written, for a model that cannot be read or exported, and where the
    result differs from MXNet by more than `parity.LIMIT`.
    """
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    if normalised and form in ("mxnet", "int8"):
        raise UserError(f"--normalise: not with --format {form}, a checkpoint whose commands normalise by themselves")
    if (form == "int8") != (calibration is not None):
        raise UserError("--format int8 and --calibration, a folder with train.rec: expected both or neither")
    network, output = load(model, image_shape), Path(output or default_output(model, form))
    if form == "onnx" and not checkpoint.is_onnx(output):
        raise UserError(f"{output}: expected a name that ends in .onnx")
    if output.resolve() == Path(checkpoint.parse_model(model)[0]).resolve():
        raise UserError(f"{output}: is the model itself; choose another --output")
    faces = load_faces(faces, image_shape)
    with naming(model):
        expected = mxnet_embeddings(network.symbol, network.arg_params, network.aux_params, faces)
    unit = normalise(expected, f"model {model}")
    write = Int8Writer(calibration) if calibration else FORMATS[form]
    with adding_to(output.parent) as folder:
        embed = write(network, folder / output.name, model, normalised)
        found = embeddings_by(embed, faces)
        difference = check(unit if normalised else expected, found, str(output))
        hashes = sums.take(folder)
        sums.announce(output.parent, hashes)
        names = sorted(path.name for path in folder.iterdir())
    sums.settle(output.parent, hashes)
    return Exported(model, form, [output.parent / name for name in names], network, normalised, difference, len(faces),
                    shares_batch(network.symbol), write.lines if calibration else [])


def default_output(model, form):
    """Where a model is exported to: <prefix>-<epoch>.onnx, or the prefix <prefix>-gluon, -slim or -int8."""
    return checkpoint.onnx_path(model) if form == "onnx" else f"{checkpoint.parse_model(model)[0]}-{_ENDS[form]}"


def load(model, image_shape=(112, 112)):
    """Read a checkpoint, with or without its head, as a Network. Raises DataError for images of another size."""
    symbol, arg_params, aux_params = checkpoint.load(model)
    symbol = embedding_of(symbol, model)
    check_shapes(model, symbol, {**arg_params, **aux_params}, (1, 3, *image_shape))
    return Network(symbol, *({name: params[name] for name in names} for names, params in (
        ([name for name in symbol.list_arguments() if name != "data"], arg_params),
        (symbol.list_auxiliary_states(), aux_params))), tuple(image_shape))


def shares_batch(symbol):
    """Whether an image's embedding depends on the other images of its batch: the mean over all of it is in there."""
    nodes = json.loads(symbol.tojson())["nodes"]
    return any(node["op"] == "mean" and node.get("attrs", {}).get("axis", "None") in ("None", "()") for node in nodes)


def _onnx(network, path, model, normalised):
    """Write the file `path`. Returns what embeds by it."""
    symbol, *params = _for_inference(network, normalised)
    trace = make_trace(model)
    metadata = {"pixels": PIXELS, "normalised": str(int(normalised)), "model": _name(model),
                PARAMS_SHA256: hash_file(checkpoint.weights_path(model)), "network": trace["network"],
                "loss": trace["loss"], "training_data": Path(trace["training_data"]).name}
    found = onnx_graph.convert(symbol, *params, network.image_shape, metadata, model)
    write_bytes(path, found.SerializeToString())
    run = OnnxNetwork(str(path), network.image_shape)
    return lambda images: run(images)()


def _name(model):
    """A model's name without the folders of this machine, but for its own."""
    prefix, epoch = checkpoint.parse_model(model)
    return f"{'/'.join(Path(prefix).resolve().parts[-2:])},{epoch}"


def _gluon(network, prefix, model, normalised):
    """Write a graph for inference that Gluon's SymbolBlock runs as it is, without the rewriting that is done here."""
    symbol, *params = _for_inference(network, normalised)
    symbol = graph.rewrite(symbol, [graph.batchnorm_2d, graph.flat_fully_connected], data=network.data_shape)
    epoch = checkpoint.parse_model(model)[1]
    checkpoint.save(prefix, epoch, symbol, *params)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the type of `data` is not told, which this call has no place for
            block = mx.gluon.SymbolBlock.imports(f"{prefix}-symbol.json", ["data"],
                                                 str(checkpoint.params_path(prefix, epoch)))
    except mx.base.MXNetError as error:
        raise UserError(f"{prefix}: Gluon cannot load it ({reason(error)})") from error
    return lambda images: block(mx.nd.array(images, dtype="float32")).asnumpy()


def _slim(network, prefix, model, normalised):
    """Write a checkpoint with the original's operators and names, without the head."""
    epoch = checkpoint.parse_model(model)[1]
    checkpoint.save(prefix, epoch, network.symbol, network.arg_params, network.aux_params)
    return Embedder(f"{prefix},{epoch}", [mx.cpu()], image_shape=network.image_shape)


def _for_inference(network, normalised):
    """(symbol, arg_params, aux_params) with batch norm folded, without dropout."""
    symbol, *params = graph.for_inference(network.symbol, network.arg_params, network.aux_params,
                                          data=network.data_shape)
    return (onnx_graph.normalised(symbol) if normalised else symbol, *params)


FORMATS = {"onnx": _onnx, "gluon": _gluon, "mxnet": _slim, "int8": Int8Writer}
_ENDS = {"gluon": "gluon", "mxnet": "slim", "int8": "int8"}
