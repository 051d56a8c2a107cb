"""A head whose classes are worked off in parts, on one device or several, for more classes than fit otherwise.

Each device has some rows of the class weight and computes their logits for the whole batch. Between devices go the
embeddings (N, D) and, for each part, (N,)-vectors: the label's logit, the highest logit, the log of the sum of
exponentials; and back the gradient of the embeddings. No logits move. MXNet's own graph over several devices does it:
every operator is in the group of its device, and what crosses over is copied (the original's train_parall.py does it
by hand).

A part has at most BLOCK rows. Its normalised rows and its logits are thrown away when it is done, and computed again in
the backward pass, so that a device never holds more than one part's: beside the weight, its gradient and its momentum a
head takes nearly nothing. (As in Wijmans et al., 2024, "Cut Your Losses in Large-Vocabulary Language Models".)
"""
import math
from functools import reduce
from itertools import accumulate
from operator import add

import numpy as np

from common.mxnet_setup import mx
from recognition import heads

PART = "_part"
BLOCK = 1 << 14  # rows of a part: few enough for the processor's caches, enough for fast matrix products
_NOTHING = 1e30  # a logit of minus this has no share in any sum


def split_evenly(num_classes, num_parts):
    """How many classes each part holds: the first get one more where it does not come out even."""
    return [num_classes // num_parts + (part < num_classes % num_parts) for part in range(num_parts)]


def split_classes(num_classes, num_devices, centres=1, rate=1):
    """The classes of each part, as evenly as they go, the same number of parts on each device: a list.

    centres: rows that a class has; rate: share of the classes that a step uses.
    """
    blocks = math.ceil(num_classes * centres * rate / (num_devices * BLOCK))
    return split_evenly(num_classes, num_devices * max(1, min(blocks, num_classes // num_devices)))


def device_of(part, num_parts, devices):
    """The device of a part: the first parts are on the first device."""
    return devices[part * len(devices) // num_parts]


def group(part):
    """The name of a part's group of operators."""
    return f"part{part}"


class Split(list):
    """What has a row or a column for each class, in parts, a symbol each. Of logits there may also be known:

    own: the value (N,) of each part in the column that `SplitInputs._places` names;
    target: the label's logit (N,), which the parts themselves then have as -1e30.
    """

    own = target = None


class SplitInputs(heads.Inputs):
    """Inputs of a head in parts. counts: the classes of each."""

    def __init__(self, embedding, label, counts, emb_size):
        # MXNet fails on a variable that several groups read
        super().__init__(mx.sym.identity(embedding), mx.sym.identity(label), sum(counts), emb_size)
        self._counts = counts
        self._places = [self._place(start, count) for start, count in zip(accumulate([0, *counts]), counts)]

    def _place(self, start, count):
        """(Each label's number within a part, cut to what the part has; whether it is in the part, 1 or 0.)"""
        local = self.label - start
        return mx.sym.clip(local, 0, count - 1), (local >= 0) * (local <= count - 1)

    def order(self):
        """An output to stand before the others, so that a graph's gradients are worked out part by part, from the last
        to the first: MXNet goes by the order of arguments, and with the embedding in front it would hold the gradients
        of all parts at once."""
        rows, = self._weights.values()
        shapes = self._parts(lambda _, own: mx.sym.shape_array(own), rows, kept=True)  # an operator without a gradient
        return mx.sym.concat(*shapes[::-1], dim=0, name="order")

    def _parts(self, function, *splits, kept=False):
        """function(number of the part, its parts of the splits) of each part, on its device.

        kept: whether the result stays in memory for the backward pass; else it is computed again there.
        """
        found = Split()
        for part, values in enumerate(zip(*splits)):
            with mx.AttrScope(ctx_group=group(part), **{} if kept else {"__force_mirroring__": "True"}):
                found.append(function(part, *values))
        return found

    def _variable(self, centres):
        return self._parts(lambda part, count: heads.class_weight(
            part_name("fc7_weight", part), count * centres, self.emb_size), self._counts)

    def softmax(self, no_bias):
        """w_j·x + b_j."""
        return self._parts(lambda part, count, rows: mx.sym.FullyConnected(
            self.embedding, rows, *[] if no_bias else [_bias(part, count)],
            num_hidden=count, no_bias=no_bias), self._counts, self.weight())

    def each(self, logits, function):
        return self._parts(lambda _, values: function(values), logits)

    def against(self, features, rows, centres=1, name=None):
        return self._parts(lambda _, count, own: heads.nearest(mx.sym.FullyConnected(
            features, own, num_hidden=count * centres, no_bias=True), count, centres), self._counts, rows)

    def _sum(self, function, split):
        """The sum of function(part) over the parts, on the first device."""
        values = self._parts(lambda part, value: function(part, value), split, kept=True)
        return sum(values[1:], values[0])

    def _own(self, logits):
        if logits.own is None:
            logits.own = self._parts(lambda part, values: mx.sym.pick(values, self._places[part][0], axis=1), logits,
                                     kept=True)
        return logits.own

    def at_label(self, logits):
        return self._sum(lambda part, own: own * self._places[part][1], self._own(logits))

    def of_label(self, rows):
        return self._sum(lambda part, values: mx.sym.broadcast_mul(
            mx.sym.take(values, self._places[part][0]), mx.sym.expand_dims(self._places[part][1], 1)), rows)

    def scattered(self, values):
        def put(part, count):  # those of other parts go to one more row, which is cut off
            local, there = self._places[part]
            place = mx.sym.expand_dims(there * local + (1 - there) * count, 0)
            rows = mx.sym.scatter_nd(values, place, shape=(count + 1, self.emb_size))
            return mx.sym.slice_axis(rows, axis=0, begin=0, end=count)
        return self._parts(put, self._counts)

    def row_max(self, logits):
        return reduce(mx.sym.maximum, self._parts(lambda _, values: mx.sym.max(values, axis=1), logits, kept=True))

    def row_sum(self, logits):
        return self._sum(lambda _, values: mx.sym.sum(values, axis=1), logits)

    def with_target(self, logits, target):
        def put(part, own):
            there = self._places[part][1]
            return there * target + (1 - there) * own
        return self._replaced(logits, self._parts(put, self._own(logits), kept=True))

    def _replaced(self, logits, own):
        """The logits with `own` in the columns that the places name."""
        changed = self._parts(lambda part, values, own: heads.replaced(
            values, self._places[part][0], own, self._counts[part]), logits, own)
        changed.own = own
        return changed

    def class_states(self, name):
        return self._parts(lambda part, count: heads.state(f"{name}{PART}{part}", 0, (count, self.emb_size)),
                           self._counts)

    def next_states(self, states, moves):
        return self._parts(lambda _, state, move: heads.next_state(state, state + move), states, moves)

    def head_logits(self, logits, target):
        """As `with_target`, but the parts get no target: each can be worked off before the target is known."""
        def put(part, own):
            return own - self._places[part][1] * (own + _NOTHING)
        others = self._replaced(logits, self._parts(put, self._own(logits), kept=True))
        others.target = target
        return others

    def cross_entropy(self, logits):
        """(The cross entropy of each image, (N,); whether its label's logit is the highest, (N,).)

        A part's log Σ_j exp(z_j) is z_j − log softmax_j of any of its classes j, here of the highest.
        """
        if logits.target is None:
            logits = self.head_logits(logits, self.at_label(logits))
        places = self._parts(lambda _, values: mx.sym.argmax(values, axis=1), logits, kept=True)
        highest = self._parts(lambda _, values, place: mx.sym.pick(values, place, axis=1), logits, places, kept=True)
        log_p = self.each(logits, lambda values: mx.sym.log_softmax(values, axis=1))
        sums = self._parts(lambda _, values, place, high: high - mx.sym.pick(values, place, axis=1),
                           log_p, places, highest, kept=True)
        sums.append(logits.target)
        largest = mx.sym.BlockGrad(reduce(mx.sym.maximum, sums))
        total = reduce(add, (mx.sym.exp(value - largest) for value in sums))
        return mx.sym.log(total) + largest - logits.target, logits.target >= reduce(mx.sym.maximum, highest)


def _bias(part, count):
    return mx.sym.Variable(part_name("fc7_bias", part), shape=(count,), init=mx.init.Zero())


def split_loss(loss, embedding, label, counts, emb_size, **settings):
    """The training graph of a split head. counts: classes of each part; settings: see `heads.get_head`.

    Returns the outputs of `heads.classification_loss`; the weights are fc7_weight_part0, ... (C_i·K, D).
    """
    inputs = SplitInputs(embedding, label, counts, emb_size)
    head = heads.build_head(loss, inputs, **settings)
    return mx.sym.Group([inputs.order(), *heads.training_outputs(head, *inputs.cross_entropy(head.logits))])


def split_params(params, counts):
    """The arrays of a plain head, (C·K, ...) each, as those of its parts. Other arrays stay as they are.

    params: dict name -> NDArray; counts: classes of each part. Nothing is lost: `merge_params` gives them back.
    """
    found = {}
    for name, array in params.items():
        if not name.startswith("fc7_") or array.shape[0] % sum(counts):
            found[name] = array
            continue
        ends = np.cumsum(counts) * (array.shape[0] // sum(counts))
        for part, (start, end) in enumerate(zip([0, *ends], ends)):
            found[part_name(name, part)] = array[int(start):int(end)]
    return found


def part_name(name, part):
    """The name of a part's array, of that of the plain head's."""
    stem, suffix = (name[:-len(heads.STATE)], heads.STATE) if name.endswith(heads.STATE) else (name, "")
    return f"{stem}{PART}{part}{suffix}"


def merge_params(params):
    """The inverse of `split_params`, on the CPU: the plain form, which any number of devices can take up."""
    parts, found = {}, {}
    for name, array in params.items():
        stem, marked, end = name.partition(PART)
        if not marked:
            found[name] = array
            continue
        number, suffix = end.partition("_")[0], "_".join(["", *end.split("_")[1:]])
        parts.setdefault(stem + suffix, {})[int(number)] = array.as_in_context(mx.cpu())
    for name, arrays in parts.items():
        found[name] = mx.nd.concat(*(arrays[number] for number in sorted(arrays)), dim=0)
    return found
