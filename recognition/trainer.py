"""The training loop: a symbol, an iterator and a list of callbacks. It knows no network and no loss by name."""
import sys
from functools import partial

import numpy as np

from common import graph
from common.errors import UserError
from common.mxnet_setup import mx
from recognition import diagnosis

LABEL = "softmax_label"
_NEXT = "_next_output"


class NotFinite(UserError):
    """Training has come to numbers that are not finite."""


class Trainer:
    """A network and its loss on their devices, trained data-parallel by SGD.

    embedding: embedding symbol with input `data`. loss: callable, (embedding symbol, label symbol) -> training symbol
    with the outputs `loss_output` and `correct_output`, (N,) each; an output <argument>_next_output is what that
    argument shall be in the next step, and no gradient changes it (`params` gives the mean of the devices). devices:
    list of mx.Context. batches: an iterator with provide_data, provide_label and batch_size (all devices together).
    initializer: mx.init.Initializer. arg_params, aux_params: dict name -> NDArray to begin with; what they lack is
    initialised. lr, lr_steps, momentum, wd: SGD, its rate divided by ten after each of these steps; lr_warmup: steps in
    which the rate rises from 0 to lr, in proportion. Weight decay acts on every array, as the original's does.
    multipliers: dict array name -> (factor of the rate, factor of the decay).
    Attributes: steps, epoch; labels, those of the last batch: NDArray (N,).
    """

    def __init__(self, embedding, loss, devices, batches, initializer, arg_params=None, aux_params=None, lr=0.1,
                 lr_steps=(), momentum=0.9, wd=0.0005, multipliers=None, kvstore="device", lr_warmup=0):
        self.embedding, self.devices, self.batch_size = embedding, devices, batches.batch_size
        if self.batch_size % len(devices):
            raise UserError(f"a batch of {self.batch_size} images cannot be shared evenly by {len(devices)} devices")
        shape = (1,) + tuple(batches.provide_data[0].shape[1:])
        network = graph.for_device(embedding, devices[0], data=shape)
        self._bind(network, loss, batches)
        self._init_params(initializer, arg_params or {}, aux_params or {})
        self._scheduler = None
        if lr_steps or lr_warmup:
            self._scheduler = mx.lr_scheduler.MultiFactorScheduler(list(lr_steps) or [sys.maxsize], 0.1, base_lr=lr,
                                                                   warmup_steps=lr_warmup)
        self._sgd = partial(mx.optimizer.SGD, learning_rate=lr, momentum=momentum, wd=wd,
                            rescale_grad=1 / self.batch_size)
        self._optimizer = self._sgd(lr_scheduler=self._scheduler)
        self._init_optimizer(kvstore, multipliers or {})
        self.steps = self.epoch = 0
        self.labels, self._seen = None, []

    def _bind(self, network, loss, batches):
        symbol = loss(network, mx.sym.Variable(LABEL))
        self._states = find_states(symbol)
        self.module = mx.mod.Module(symbol, ["data"], [LABEL], context=self.devices,
                                    fixed_param_names=[*self._states])
        self.module.bind(batches.provide_data, batches.provide_label)

    def _init_params(self, initializer, arg_params, aux_params):
        self.module.init_params(initializer, arg_params, aux_params, allow_missing=True, allow_extra=True)

    def _init_optimizer(self, kvstore, multipliers):
        set_multipliers(self._optimizer, multipliers)
        self.module.init_optimizer(kvstore=kvstore, optimizer=self._optimizer)

    @property
    def lr(self):
        """The learning rate of the next step."""
        return self._scheduler(self.steps + 1) if self._scheduler else self._optimizer.lr

    def step(self, batch):
        """One step of SGD on a batch. Returns before its gradients are computed.

        Raises NotFinite, which names the layer, where the loss is not finite; the parameters stay as they were then.
        """
        outputs = self._forward(batch)
        self._backward()
        # The loss is waited for while the devices are busy with the backward pass: looking at it costs no time.
        found = [np.mean([part.asnumpy() for part in parts], dtype=np.float64) for parts in outputs[:2]]
        if not np.isfinite(found[0]):
            raise NotFinite(f"the loss became {found[0]} at step {self.steps + 1}: {self._diagnose(batch)}")
        self._update(outputs)
        self._seen.append(found)
        self.labels = batch.label[0]
        self.steps += 1

    def _forward(self, batch):
        """Losses and hits of the batch, next values of the states: of each a list of a part from each device."""
        self.module.forward(batch, is_train=True)
        return self.module.get_outputs(merge_multi_context=False)

    def _backward(self):
        self.module.backward()

    def _update(self, outputs):
        self.module.update()
        for name, number in self._states.items():
            for executor, value in zip(self._executors(), outputs[number]):
                value.copyto(executor.arg_dict[name])

    def _executors(self):
        return self.module._exec_group.execs  # Module has no call for them

    def take_metrics(self):
        """Mean loss and accuracy of the steps since the last call."""
        loss, accuracy = np.mean(self._seen, axis=0) if self._seen else (np.nan, np.nan)
        self._seen = []
        return float(loss), float(accuracy)

    def params(self):
        """(arg_params, aux_params) as dict name -> NDArray on the CPU, head included, as they are after this step.

        Raises NotFinite where one is not, so that no such model is saved.
        """
        _wait_for_statistics()
        arg_params, aux_params = self._all_params()
        arrays = {**aux_params, **arg_params}
        self._refuse([name for name, array in arrays.items() if not np.isfinite(array.asnumpy()).all()], arrays)
        return arg_params, aux_params

    def check_params(self):
        """Raise NotFinite where a parameter or statistic, as the first device has it, is not finite."""
        _wait_for_statistics()
        arrays = self._device_arrays()
        self._refuse(diagnosis.not_finite(arrays), arrays)

    def _refuse(self, broken, arrays):
        if broken:
            raise NotFinite(diagnosis.describe(broken, arrays, self.steps))

    def _diagnose(self, batch):
        """In words, why the loss of this batch is not finite; the parameters are still those of its forward pass."""
        arrays = {name: array for name, array in self._device_arrays().items()
                  if name not in self._executors()[0].aux_dict}  # this batch has changed the statistics already
        broken = diagnosis.not_finite(arrays)
        if broken:
            return diagnosis.describe(broken, arrays, self.steps)
        return diagnosis.find_operator(self._executors(), lambda: self._forward(batch), {"data", LABEL, *self._states})

    def _device_arrays(self):
        """Statistics, then parameters, as the first device has them, from the input to the loss: name -> NDArray."""
        executor = self._executors()[0]
        return {name: array for name, array in [*executor.aux_dict.items(), *executor.arg_dict.items()]
                if name not in ("data", LABEL)}

    def _all_params(self):
        return self.module.get_params()


def _wait_for_statistics():
    mx.nd.waitall()  # MXNet 1.9.1 lets BatchNorm's be read before the step that changes them is done


def find_states(symbol):
    """The arguments of a training graph that it gives next values of: name -> number of the output."""
    return {name[:-len(_NEXT)]: number for number, name in enumerate(symbol.list_outputs()) if name.endswith(_NEXT)}


def set_multipliers(optimizer, multipliers):
    """Set factors of rate and weight decay. multipliers: dict array name -> (factor, factor)."""
    for position, set_factors in enumerate((optimizer.set_lr_mult, optimizer.set_wd_mult)):
        set_factors({name: factors[position] for name, factors in multipliers.items()})


class Callback:
    """What happens around the steps. `step` is called after each, `finish` once at the end."""

    def step(self, trainer):
        """After a step."""

    def finish(self, trainer):
        """After the last step."""


def fit(trainer, batches, callbacks, max_steps=0, epochs=0):
    """Train until `max_steps` steps or `epochs` epochs are done (0: no such end)."""
    while not epochs or trainer.epoch < epochs:
        for batch in batches:
            trainer.step(batch)
            for callback in callbacks:
                callback.step(trainer)
            if trainer.steps == max_steps:
                break
        if trainer.steps == max_steps:
            break
        trainer.epoch += 1
        batches.reset()
    for callback in callbacks:
        callback.finish(trainer)
