"""The training loop: a symbol, an iterator and a list of callbacks. It knows no network and no loss by name."""
from collections import deque

import numpy as np

from common import graph
from common.errors import UserError
from common.mxnet_setup import mx

LABEL = "softmax_label"
_STEPS_AHEAD = 2  # steps that may wait in MXNet's queue; more would only pile up batches


class Trainer:
    """A network and its loss on their devices, trained data-parallel by SGD.

    embedding: embedding symbol with input `data`. loss: callable, (embedding symbol, label symbol) -> training symbol
    with the outputs `loss_output` and `correct_output`, (N,) each. devices: list of mx.Context. batches: an iterator
    with provide_data, provide_label and batch_size (all devices together). initializer: mx.init.Initializer.
    arg_params, aux_params: dict name -> NDArray to begin with; what they lack is initialised.
    lr, lr_steps, momentum, wd: SGD, its rate divided by ten after each of these steps. Weight decay acts on every
    array, as the original's does. multipliers: dict array name -> (factor of the rate, factor of the decay).
    """

    def __init__(self, embedding, loss, devices, batches, initializer, arg_params=None, aux_params=None, lr=0.1,
                 lr_steps=(), momentum=0.9, wd=0.0005, multipliers=None, kvstore="device"):
        self.embedding, self.devices, self.batch_size = embedding, devices, batches.batch_size
        if self.batch_size % len(devices):
            raise UserError(f"a batch of {self.batch_size} images cannot be shared evenly by {len(devices)} devices")
        shape = (1,) + tuple(batches.provide_data[0].shape[1:])
        network = graph.for_device(embedding, devices[0], data=shape)
        self.module = mx.mod.Module(loss(network, mx.sym.Variable(LABEL)), ["data"], [LABEL], context=devices)
        self.module.bind(batches.provide_data, batches.provide_label)
        self.module.init_params(initializer, arg_params, aux_params, allow_missing=True, allow_extra=True)
        self._scheduler = mx.lr_scheduler.MultiFactorScheduler(list(lr_steps), 0.1, base_lr=lr) if lr_steps else None
        self._optimizer = mx.optimizer.SGD(learning_rate=lr, momentum=momentum, wd=wd, lr_scheduler=self._scheduler,
                                           rescale_grad=1 / self.batch_size)
        for position, set_factors in enumerate((self._optimizer.set_lr_mult, self._optimizer.set_wd_mult)):
            set_factors({name: factors[position] for name, factors in (multipliers or {}).items()})
        self.module.init_optimizer(kvstore=kvstore, optimizer=self._optimizer)
        self.steps = self.epoch = 0
        self._outputs, self._seen = deque(), []

    @property
    def lr(self):
        """The learning rate of the next step."""
        return self._scheduler(self.steps + 1) if self._scheduler else self._optimizer.lr

    def step(self, batch):
        """One step of SGD on a batch. Returns before it is computed."""
        self.module.forward_backward(batch)
        self.module.update()
        self.steps += 1
        # Copies: the arrays themselves are written over by the steps that are under way when they are read.
        self._outputs.append([output.copy() for output in self.module.get_outputs()])
        if len(self._outputs) > _STEPS_AHEAD:
            self._collect()

    def _collect(self):
        self._seen.append([float(output.asnumpy().mean()) for output in self._outputs.popleft()])

    def take_metrics(self):
        """Mean loss and accuracy of the steps since the last call. Raises UserError where a loss is not finite."""
        while self._outputs:
            self._collect()
        loss, accuracy = np.mean(self._seen, axis=0) if self._seen else (np.nan, np.nan)
        if self._seen and not np.isfinite(loss):
            raise UserError(f"the loss became {loss} within {len(self._seen)} steps before step {self.steps}; try a "
                            "lower --lr, or begin with --loss softmax and go on from its model by --pretrained")
        self._seen = []
        return float(loss), float(accuracy)

    def params(self):
        """(arg_params, aux_params) as dict name -> NDArray on the CPU, head included, as they are after this step."""
        mx.nd.waitall()  # MXNet 1.9.1 lets BatchNorm's statistics be read before the step that changes them is done
        return self.module.get_params()


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
