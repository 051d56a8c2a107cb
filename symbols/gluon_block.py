"""A network as a Gluon block, its parameters under the names that checkpoints have."""
from common import checkpoint, graph
from common.errors import UserError
from common.mxnet_setup import mx
from symbols.blocks import IMAGE_SHAPE

_DATA_SHAPE = (1, *IMAGE_SHAPE)
_STARTS = dict(bias="zeros", beta="zeros", gamma="ones")  # by the end of a name; as `Module.init_params` has it


class EmbeddingBlock(mx.gluon.SymbolBlock):
    """Images (N, 3, 112, 112) RGB 0..255, float32 or uint8 -> embeddings (N, D) float32, not normalised.

    symbol: embedding symbol, kept as the attribute `symbol`. `collect_params()` has its arguments and auxiliary
    states under their own names, whatever block this one is put into; their shapes are known, so that nothing waits
    for a first batch. The initializer given to `initialize` draws the weights alone: slopes of PReLU begin at 0.25,
    scales and moving variances at 1, all else at 0.
    What runs is `common.graph.for_device` of the symbol, for the device on which the images lie: no call has to tell
    it. A hybridized block around this one keeps the graph of its own first batch until it is hybridized anew. (Memory
    that the setting `memonger` would save is not: Gluon keeps every map.)
    """

    def __init__(self, symbol):
        super().__init__(symbol, mx.sym.Variable("data", dtype="float32"))
        self.symbol, self._device_type = symbol, None
        arguments, _, states = symbol.infer_shape(data=_DATA_SHAPE)
        shapes = dict(zip(symbol.list_arguments() + symbol.list_auxiliary_states(), arguments + states))
        attributes = symbol.attr_dict()
        for name, parameter in self.collect_params().items():
            parameter.shape = shapes[name]
            parameter.init = attributes.get(name, {}).get("__init__", _STARTS.get(name.rsplit("_", 1)[-1]))

    def forward(self, x):
        """Embed `x`, an NDArray (or, within a block that is traced, a symbol). Raises UserError for another shape."""
        if isinstance(x, mx.nd.NDArray):
            if x.shape[1:] != IMAGE_SHAPE:
                raise UserError(f"images of shape {x.shape}; expected (N, 3, 112, 112)")
            self._take_graph(x.context)
        else:
            self._take_graph(mx.context.current_context())  # Gluon traces under the device of the batch
        return super().forward(x)

    def _take_graph(self, device):
        kind = "gpu" if device.device_type == "gpu" else "cpu"  # pinned and shared memory are the CPU's
        if kind != self._device_type:
            (data, _), self._device_type = self._cached_graph, kind
            self._clear_cached_op()
            self._cached_graph = data, graph.for_device(self.symbol, mx.Context(kind), data=_DATA_SHAPE)

    def reset_ctx(self, ctx):
        """Move the parameters to other devices. (What SymbolBlock has fails, once it has run, in MXNet 1.9.1.)"""
        self.collect_params().reset_ctx(ctx)

    def load_checkpoint(self, model, ctx=None):
        """Take the parameters of a checkpoint.

        model: 'prefix,epoch'. ctx: a mx.Context or a list of them; None: where the parameters are, the CPU if nowhere.
        Raises UserError or DataError for a checkpoint that is missing, damaged or of another network.
        """
        _, epoch = checkpoint.parse_model(model)
        arg_params, aux_params = checkpoint.load_pretrained(model, epoch, self.symbol, _DATA_SHAPE)
        if ctx is not None:
            self.initialize(mx.init.Zero(), ctx, force_reinit=True)
        self.collect_params().load_dict({**arg_params, **aux_params}, ignore_extra=True, cast_dtype=True)

    def get_params(self):
        """(arg_params, aux_params) as dict name -> NDArray on the CPU, each the mean over the devices."""
        mx.nd.waitall()  # MXNet 1.9.1 lets BatchNorm's statistics be read before the step that changes them is done
        params = self.collect_params()
        return tuple({name: _mean(params[name].list_data()) for name in names if name in params}
                     for names in (self.symbol.list_arguments(), self.symbol.list_auxiliary_states()))

    def export(self, path, epoch=0):
        """Write <path>-symbol.json, with the original's operators and names, and <path>-<epoch>.params."""
        checkpoint.save(path, epoch, self.symbol, *self.get_params())


def _mean(copies):
    return mx.nd.add_n(*(array.copyto(mx.cpu()) for array in copies)) / len(copies)
