"""The training loop: a symbol, an iterator and a list of callbacks. It knows no network and no loss by name."""
import sys
from collections import deque
from functools import partial

import numpy as np

from common import graph
from common.errors import UserError
from common.mxnet_setup import mx
from recognition.heads import STATE
from recognition.workers import Alone

LABEL = "softmax_label"
_NEXT = "_next_output"
_STEPS_AHEAD = 2  # steps that may wait in MXNet's queue; more would only pile up batches


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
    multipliers: dict array name -> (factor of the rate, factor of the decay). workers: those of other machines, see
    `workers.connect`; batches are then this worker's part. All begin with the parameters of the first.
    """

    def __init__(self, embedding, loss, devices, batches, initializer, arg_params=None, aux_params=None, lr=0.1,
                 lr_steps=(), momentum=0.9, wd=0.0005, multipliers=None, workers=None, lr_warmup=0):
        self.embedding, self.devices, self.batch_size = embedding, devices, batches.batch_size
        self.workers, self._means = workers or Alone(), {}
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
                            rescale_grad=1 / (self.batch_size * self.workers.size))
        self._optimizer = self._sgd(lr_scheduler=self._scheduler)
        self._init_optimizer(multipliers or {})
        self.steps = self.epoch = 0
        self._outputs, self._seen = deque(), []

    def _bind(self, network, loss, batches):
        symbol = loss(network, mx.sym.Variable(LABEL))
        self._states = find_states(symbol)
        self.module = mx.mod.Module(symbol, ["data"], [LABEL], context=self.devices,
                                    fixed_param_names=[*self._states])
        self.module.bind(batches.provide_data, batches.provide_label)

    def _init_params(self, initializer, arg_params, aux_params):
        self.module.init_params(initializer, arg_params, aux_params, allow_missing=True, allow_extra=True)
        if self.workers.size > 1:
            arg_params, aux_params = self.module.get_params()
            self.workers.share({**arg_params, **aux_params})
            self.module.set_params(arg_params, aux_params)

    def _init_optimizer(self, multipliers):
        set_multipliers(self._optimizer, multipliers)
        self.module.init_optimizer(kvstore=self.workers.kvstore, optimizer=self._optimizer)

    @property
    def lr(self):
        """The learning rate of the next step."""
        return self._scheduler(self.steps + 1) if self._scheduler else self._optimizer.lr

    def step(self, batch):
        """One step of SGD on a batch. Returns before it is computed; raises NotFinite where the loss of an earlier
        step is not finite."""
        outputs = self._compute(batch)
        self.steps, self._means = self.steps + 1, {}
        # Copies: the arrays themselves are written over by the steps that are under way when they are read.
        self._outputs.append([[part.copy() for part in parts] for parts in outputs])
        if len(self._outputs) > _STEPS_AHEAD:
            self._collect()

    def _compute(self, batch):
        """Forward, backward, update. Returns losses and hits of the batch, a list of a part from each device."""
        self.module.forward_backward(batch)
        self.module.update()
        outputs = self.module.get_outputs(merge_multi_context=False)
        for name, number in self._states.items():
            for executor, value in zip(self.module._exec_group.execs, outputs[number]):  # Module has no call for it
                value.copyto(executor.arg_dict[name])
        return outputs[:2]

    def _collect(self):
        step = self.steps - len(self._outputs) + 1
        found = [np.mean([part.asnumpy() for part in parts]) for parts in self._outputs.popleft()]
        if not np.isfinite(found[0]):
            raise NotFinite(f"the loss became {found[0]} at step {step}")
        self._seen.append(found)

    def take_metrics(self):
        """Mean loss and accuracy of the steps since the last call, over all workers, who call it after the same step.
        Raises NotFinite, as `step` does."""
        while self._outputs:
            self._collect()
        seen = np.mean(self._seen, axis=0) if self._seen else (np.nan, np.nan)
        self._seen = []
        return tuple(self.workers.gather(seen).mean(axis=0).tolist())

    def average(self):
        """Until the next step, let `params` give the means over all workers, who call it after the same step, of what
        each has of its own: BatchNorm's statistics and the states of the head."""
        if self.workers.size > 1:
            arg_params, aux_params = self._all_params()
            states = {name: array for name, array in arg_params.items() if name.endswith(STATE)}
            self._means = self.workers.mean({**states, **aux_params})

    def params(self):
        """(arg_params, aux_params) as dict name -> NDArray on the CPU, head included, as they are after this step.

        Raises NotFinite where one is not, so that no such model is saved.
        """
        mx.nd.waitall()  # MXNet 1.9.1 lets BatchNorm's statistics be read before the step that changes them is done
        found = tuple({name: self._means.get(name, array) for name, array in part.items()}
                      for part in self._all_params())
        broken = sorted(name for part in found for name, array in part.items()
                        if not np.isfinite(array.asnumpy()).all())
        if broken:
            raise NotFinite(f"{len(broken)} arrays are not finite after step {self.steps}, {broken[0]} among them")
        return found

    def _all_params(self):
        return self.module.get_params()


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
