"""Training with a head in parts: the network data-parallel, the classes split over the devices."""
import copy

from common.mxnet_setup import mx
from recognition.class_parallel import PART, device_of, group, merge_params, split_params
from recognition.trainer import LABEL, Trainer, find_states, of_kind, set_multipliers

_EMBEDDING = "embedding"


class SplitTrainer(Trainer):
    """A Trainer whose head is in parts, as many on each device.

    loss: callable, (embedding symbol (N, D), label symbol) -> training symbol, of operators in the groups
    `class_parallel.group(0)`, ..., see `class_parallel.split_loss`; counts: the classes of each part, see
    `class_parallel.split_classes`. The rest as for Trainer. arg_params and `params` hold the head in its plain form,
    fc7_weight in one.
    """

    def __init__(self, embedding, loss, counts, devices, batches, *args, **kwargs):
        self._counts = counts
        super().__init__(embedding, loss, devices, batches, *args, **kwargs)

    def _bind(self, network, loss, batches):
        self.module = mx.mod.Module(network, ["data"], None, context=self.devices)
        self.module.bind(batches.provide_data)
        shape, = (shape for _, shape in self.module.output_shapes)
        symbol = loss(mx.sym.Variable(_EMBEDDING), mx.sym.Variable(LABEL))
        self._states = find_states(symbol)
        unlearnt = {LABEL, *self._states}
        self._head = symbol.simple_bind(
            self.devices[0], group2ctx={group(part): self._device(part) for part in range(len(self._counts))},
            grad_req={name: "null" if name in unlearnt else "write" for name in symbol.list_arguments()},
            **{_EMBEDDING: shape, LABEL: (self.batch_size,)})
        self._attributes = symbol.attr_dict()
        self._names = [name for name in symbol.list_arguments() if name not in unlearnt | {_EMBEDDING}]

    def _device(self, part):
        return device_of(part, len(self._counts), self.devices)

    def _init_params(self, initializer, arg_params, aux_params):
        super()._init_params(initializer, arg_params, aux_params)
        self._arrays = self._make_arrays()
        given = split_params(arg_params, self._counts)
        for name, array in self._arrays.items():
            if name in given:
                given[name].copyto(array)
            else:
                initializer(mx.init.InitDesc(name, self._attributes.get(name, {})), array)
        self.workers.share(self._arrays)

    def _make_arrays(self):
        """The parameters and states of the head: name -> NDArray."""
        return {name: self._head.arg_dict[name] for name in [*self._names, *self._states]}

    def _init_optimizer(self, multipliers):
        super()._init_optimizer(multipliers)
        optimizer = self._sgd(lr_scheduler=copy.copy(self._scheduler))
        set_multipliers(optimizer, {name: multipliers[stem] for name in self._names for stem in multipliers
                                    if name.startswith(f"{stem}{PART}")})
        optimizer.idx2name = dict(enumerate(self._names))  # given earlier, it would spare biases the decay
        self._update_head = mx.optimizer.get_updater(optimizer)

    def _forward(self, batch):
        self.module.forward(batch, is_train=True)
        embedding, = self.module.get_outputs()  # of all devices, on the first
        embedding.copyto(self._head.arg_dict[_EMBEDDING])
        self._prepare(batch.label[0]).copyto(self._head.arg_dict[LABEL])
        outputs = self._head.forward(is_train=True)
        _, loss, correct, *_ = outputs
        return [[loss], [correct]], outputs

    def _backward(self):
        self._head.backward()
        self.module.backward([self._head.grad_dict[_EMBEDDING]])

    def _update(self, outputs):
        self.module.update()
        for number, name in enumerate(self._names):
            gradient = self._gradient(name)
            self.workers.sum(name, gradient)
            self._update_head(number, gradient, self._arrays[name])
        for name, number in self._states.items():
            self.workers.sum(name, outputs[number])
            (outputs[number] / self.workers.size).copyto(self._head.arg_dict[name])

    def _executors(self):
        return [*super()._executors(), self._head]

    def _device_arrays(self):
        return {**super()._device_arrays(), **self._arrays}

    def _prepare(self, label):
        """Get the head ready for a batch of these labels; returns them as the head is to have them."""
        return label

    def _gradient(self, name):
        return self._head.grad_dict[name]

    def _all_params(self):
        arg_params, aux_params = self.module.get_params()
        return {**arg_params, **merge_params(self._arrays)}, aux_params

    def _kept(self):
        return {**super()._kept(), **{f"arg:{name}": array for name, array in merge_params(self._arrays).items()}}

    def _own_arrays(self):
        return [{f"aux:{name}": array for name, array in executor.aux_dict.items()}
                for executor in self.module._exec_group.execs]

    def _take(self, arrays):
        super()._take(arrays)
        given = split_params(of_kind(arrays, "arg:"), self._counts)
        for name, array in self._arrays.items():
            given[name].copyto(array)

    def _momenta(self):
        states = self._update_head.states
        parts = {name: states.get(number) for number, name in enumerate(self._names)}
        return {**super()._momenta(), **merge_params({k: array for k, array in parts.items() if array is not None})}

    def _take_momenta(self, momenta):
        own = set(self.module._param_names)
        super()._take_momenta({name: array for name, array in momenta.items() if name in own})
        given = split_params({name: array for name, array in momenta.items() if name not in own}, self._counts)
        for number, name in enumerate(self._names):
            if name in given:
                self._update_head.states[number], self._update_head.states_synced[number] = given[name], False
