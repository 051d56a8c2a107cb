"""The training loop: a symbol, an iterator and a list of callbacks. It knows no network and no loss by name."""
import json
import sys
from functools import partial

import numpy as np

from common import graph
from common.errors import DataError, UserError
from common.mxnet_setup import mx
from recognition import diagnosis
from recognition.workers import Alone

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
    multipliers: dict array name -> (factor of the rate, factor of the decay). workers: those of other machines, see
    `workers.connect`; batches are then this worker's part. All begin with the parameters of the first. seed: of
    dropout, whose masks hang on it, on the step's number and the worker's alone.
    resumed: (numbers, arrays), what `state` gave, the arrays as NumPy arrays: the training goes on from there, and
    arg_params and aux_params are not looked at. On as many devices every number is what it would have been without the
    stop. Raises DataError where the arrays are of another network.
    Attributes: steps, epoch; labels, those of the last batch: NDArray (N,).
    """

    def __init__(self, embedding, loss, devices, batches, initializer, arg_params=None, aux_params=None, lr=0.1,
                 lr_steps=(), momentum=0.9, wd=0.0005, multipliers=None, workers=None, lr_warmup=0, seed=0,
                 resumed=None):
        self.embedding, self.devices, self.batch_size = embedding, devices, batches.batch_size
        self.workers, self._gathered = workers or Alone(), None
        if self.batch_size % len(devices):
            raise UserError(f"a batch of {self.batch_size} images cannot be shared evenly by {len(devices)} devices")
        shape = (1,) + tuple(batches.provide_data[0].shape[1:])
        network = graph.for_device(embedding, devices[0], data=shape)
        self._seed, self._draws = seed, draws_random(network)
        numbers, arrays = resumed or (dict(step=0, epoch=0, metrics=[], devices=len(devices)), {})
        self.steps, self.epoch, self._seen = numbers["step"], numbers["epoch"], list(numbers["metrics"])
        self.labels = None
        self._bind(network, loss, batches)
        self._init_params(initializer, *[{}, {}] if resumed else [arg_params or {}, aux_params or {}])
        if resumed:
            self._check(arrays)
            self._take(arrays)
        self._scheduler = None
        if lr_steps or lr_warmup:
            self._scheduler = mx.lr_scheduler.MultiFactorScheduler(list(lr_steps) or [sys.maxsize], 0.1, base_lr=lr,
                                                                   warmup_steps=lr_warmup)
        self._sgd = partial(mx.optimizer.SGD, learning_rate=lr, momentum=momentum, wd=wd,
                            rescale_grad=1 / (self.batch_size * self.workers.size), begin_num_update=self.steps)
        self._optimizer = self._sgd(lr_scheduler=self._scheduler)
        self._init_optimizer(multipliers or {})
        if resumed:  # after the kvstore has given all devices the same
            self._take_own(arrays, numbers["devices"])
            self._take_momenta(of_kind(arrays, "mom:"))

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
        """One step of SGD on a batch. Returns before its gradients are computed.

        Raises NotFinite, which names the layer, where the loss is not finite; the parameters stay as they were then.
        """
        parts, outputs = self._run(batch)
        self._backward()
        # The loss is waited for while the devices are busy with the backward pass: looking at it costs no time.
        found = [float(np.mean([part.asnumpy() for part in one], dtype=np.float64)) for one in parts]
        if not np.isfinite(found[0]):
            raise NotFinite(f"the loss became {found[0]} at step {self.steps + 1}: {self._diagnose(batch)}")
        self._update(outputs)
        self._seen.append(found)
        self.labels = batch.label[0]
        self.steps, self._gathered = self.steps + 1, None

    def _run(self, batch):
        if self._draws:  # MXNet tells nobody where its random numbers are, so that each step begins them anew
            mx.random.seed(step_seed(self._seed, self.steps, self.workers.rank))
        return self._forward(batch)

    def _forward(self, batch):
        """(Losses and hits of the batch, lists of a part from each device; all outputs, for `_update`)."""
        self.module.forward(batch, is_train=True)
        outputs = self.module.get_outputs(merge_multi_context=False)
        return outputs[:2], outputs

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
        """Mean loss and accuracy since the last call, over all workers, who call it after the same step."""
        seen = np.mean(self._seen, axis=0) if self._seen else (np.nan, np.nan)
        self._seen = []
        return tuple(self.workers.gather(seen).mean(axis=0).tolist())

    def params(self):
        """(arg_params, aux_params) as dict name -> NDArray on the CPU, head included, as they are after this step.

        Raises NotFinite where one is not, so that no such model is saved.
        """
        mx.nd.waitall()  # MXNet 1.9.1 lets BatchNorm's statistics be read before the step that changes them is done
        arg_params, aux_params = map(dict, self._all_params())
        for name in self._gathered[0] if self._gathered else ():
            values = [own[name].as_in_context(mx.cpu()) for own in self._gathered]
            (aux_params if name.startswith("aux:") else arg_params)[name[4:]] = mx.nd.add_n(*values) / len(values)
        self._check_finite({**aux_params, **arg_params})
        return arg_params, aux_params

    def gather(self):
        """Until the next step, let `params` and `state` know what every worker's devices have of their own:
        BatchNorm's statistics and states of the head. All workers call it after the same step."""
        if self.workers.size > 1:
            mx.nd.waitall()
            self._gathered = self.workers.everyones(self._own_arrays())
            if self._seen:
                self._seen = self.workers.gather(np.ravel(self._seen)).mean(axis=0).reshape(-1, 2).tolist()

    def _all_params(self):
        return self.module.get_params()

    def check_params(self):
        """Raise NotFinite where a parameter or statistic, as the first device has it, is not finite."""
        mx.nd.waitall()  # as for `params`
        self._check_finite(self._device_arrays())

    def _check_finite(self, arrays):
        """Raise NotFinite where one is not. arrays: dict name -> NDArray, the parameters in the order of the graph."""
        broken = diagnosis.not_finite(arrays)
        if broken:
            raise NotFinite(diagnosis.describe(broken, arrays, self.steps))

    def _diagnose(self, batch):
        """In words, why the loss of this batch is not finite; the parameters are still those of its forward pass."""
        arrays = {name: array for name, array in self._device_arrays().items()
                  if name not in self._executors()[0].aux_dict}  # this batch has changed the statistics already
        broken = diagnosis.not_finite(arrays)
        if broken:
            return diagnosis.describe(broken, arrays, self.steps)
        return diagnosis.find_operator(self._executors(), lambda: self._run(batch), {"data", LABEL, *self._states})

    def _device_arrays(self):
        """Statistics, then parameters, as the first device has them, from the input to the loss: name -> NDArray."""
        executor = self._executors()[0]
        return {name: array for name, array in [*executor.aux_dict.items(), *executor.arg_dict.items()]
                if name not in ("data", LABEL)}

    def state(self):
        """All that the next steps hang on: (numbers, a dict that JSON can hold; arrays, dict name -> NDArray).

        The names are arg:<name>, aux:<name> and mom:<name> (momenta), and device<k>/... where those of device k are
        its own, the devices of all workers counted, see `gather`; a split head is in its plain form. The arrays may be
        those of the training: read them before the next step. Raises NotFinite as `params` does.
        """
        mx.nd.waitall()
        arrays = {**{f"mom:{name}": array for name, array in self._momenta().items()}, **self._kept()}
        self._check_finite(arrays)
        return dict(step=self.steps, epoch=self.epoch, metrics=list(self._seen),
                    devices=len(self.devices) * self.workers.size), arrays

    def _kept(self):
        """Parameters and statistics, under their names in a state."""
        first = self._executors()[0].arg_dict  # not get_params, whose mean over three devices rounds
        arrays = {f"arg:{name}": first[name] for name in self.module._param_names}
        for device, own in enumerate(self._gathered or self._own_arrays()):
            arrays.update({_of_device(device, name): array for name, array in own.items()})
        return arrays

    def _own_arrays(self):
        """What each device has of its own: a list of dict name -> NDArray."""
        return [{**{f"aux:{name}": array for name, array in executor.aux_dict.items()},
                 **{f"arg:{name}": executor.arg_dict[name] for name in self._states}}
                for executor in self._executors()]

    def _check(self, arrays):
        """Raise DataError unless these are the arrays of this network and head."""
        expected, found = ({name: tuple(array.shape) for name, array in part.items()
                            if not name.startswith(("mom:", _DEVICE))} for part in (self._kept(), arrays))
        wrong = sorted(name for name in {**expected, **found} if expected.get(name) != found.get(name))
        if wrong:
            raise DataError(f"the saved state is of another network or head: {len(wrong)} arrays differ; {wrong[0]!r} "
                            f"has shape {found.get(wrong[0])}, expected {expected.get(wrong[0])}")

    def _take(self, arrays):
        """Set the parameters to those of a state."""
        self.module.set_params(*(of_kind(arrays, kind) for kind in ("arg:", "aux:")), allow_extra=True)

    def _take_own(self, arrays, devices):
        """Set what each device has of its own to that of a state of so many devices."""
        same = devices == len(self.devices) * self.workers.size
        for device, own in enumerate(self._own_arrays(), len(self.devices) * self.workers.rank):
            for name, array in own.items():
                array[:] = _value_on(device if same else range(devices), name, arrays)
        self.module._params_dirty = True  # the module's own copy is behind

    def _momenta(self):
        updater = self._updater()
        found = {name: updater.states.get(self._key(name, 0)) for name in self.module._param_names}
        return {name: array for name, array in found.items() if array is not None}

    def _take_momenta(self, momenta):
        updater = self._updater()
        for name, array in momenta.items():
            for device in range(1 if self.module._update_on_kvstore else len(self.devices)):
                updater.states[self._key(name, device)] = array.copy()
                updater.states_synced[self._key(name, device)] = False  # which brings it to its device

    def _updater(self):
        return self.module._kvstore._updater if self.module._update_on_kvstore else self.module._updater

    def _key(self, name, device):
        """What the updater calls an array."""
        if self.module._update_on_kvstore:
            return name
        return self.module._param_names.index(name) * len(self.devices) + device


_DEVICE = "device"


def _of_device(device, name):
    return f"{_DEVICE}{device}/{name}" if device else name


def _value_on(devices, name, arrays):
    """What an array is on a device, or the mean of what it was on several."""
    if isinstance(devices, int):
        return arrays[_of_device(devices, name)]
    return np.mean([arrays[_of_device(device, name)] for device in devices], axis=0)


def of_kind(arrays, kind):
    """Those NumPy arrays of a state whose names begin with `kind`, without it: name -> NDArray."""
    return {name[len(kind):]: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()
            if name.startswith(kind)}


def draws_random(symbol):
    """Whether a graph draws random numbers: Dropout, or an operator that samples."""
    return any(node["op"] == "Dropout" or node["op"].startswith(("_random", "_sample"))
               for node in json.loads(symbol.tojson())["nodes"])


def step_seed(seed, step, worker=0):
    """The seed of the random numbers of one step of a worker, from 0 to 2³¹ - 1."""
    return int(np.random.SeedSequence([seed, step, worker] if worker else [seed, step]).generate_state(1)[0]) >> 1


def find_states(symbol):
    """The arguments of a training graph that it gives next values of: name -> number of the output."""
    return {name[:-len(_NEXT)]: number for number, name in enumerate(symbol.list_outputs()) if name.endswith(_NEXT)}


def set_multipliers(optimizer, multipliers):
    """Set factors of rate and weight decay. multipliers: dict array name -> (factor, factor)."""
    for position, set_factors in enumerate((optimizer.set_lr_mult, optimizer.set_wd_mult)):
        set_factors({name: factors[position] for name, factors in multipliers.items()})


class Callback:
    """What happens around the steps.

    `start` is called once before the first of them, of a training that goes on too; `step` after each; `epoch` at the
    end of each epoch, when the next has begun; `finish` once at the end, unless the training was stopped before it.
    """

    def start(self, trainer):
        """Before the first step."""

    def step(self, trainer):
        """After a step."""

    def epoch(self, trainer):
        """After an epoch."""

    def finish(self, trainer):
        """After the last step."""

    def state(self):
        """What a training that goes on must know, as a dict that JSON can hold."""
        return {}

    def restore(self, state):
        """Go on where `state()` was taken."""


def fit(trainer, batches, callbacks, max_steps=0, epochs=0, stopped=lambda: False):
    """Train until `max_steps` steps or `epochs` epochs are done (0: no such end), or `stopped()` is true after a step.

    trainer and batches may come from a state, and need not be at their start. Returns whether the end was reached.
    """
    def tell(what):
        for callback in callbacks:
            getattr(callback, what)(trainer)

    def at_end():
        return max_steps and trainer.steps >= max_steps or epochs and trainer.epoch >= epochs

    tell("start")
    while not at_end() and not stopped():
        for batch in batches:
            trainer.step(batch)
            tell("step")
            if at_end() or stopped():
                break
        else:
            trainer.epoch += 1
            batches.reset()
            tell("epoch")
    if not at_end():
        return False
    tell("finish")
    return True
