"""A head whose classes are split over devices, for more classes than one device holds.

Each device has some rows of the class weight and computes their logits for the whole batch. Between devices go the
embeddings (N, D) and, for each part, (N,)-vectors: the label's logit, the row maximum, the row sum of exponentials; and
back the gradient of the embeddings. No logits move. MXNet's own graph over several devices does it: every operator is
in the group of its device, and what crosses over is copied (the original's train_parall.py does it by hand).
"""
from itertools import accumulate

import numpy as np

from common.mxnet_setup import mx
from recognition import heads

PART = "_part"


def split_evenly(num_classes, num_parts):
    """How many classes each part holds: the first get one more where it does not come out even."""
    return [num_classes // num_parts + (part < num_classes % num_parts) for part in range(num_parts)]


def group(part):
    """The name of a part's group of operators."""
    return f"part{part}"


class Split(list):
    """What has a row or a column for each class, in parts, a symbol each."""


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

    def _parts(self, function, *splits):
        """function(number of the part, its parts of the splits) of each part, on its device."""
        found = Split()
        for part, values in enumerate(zip(*splits)):
            with mx.AttrScope(ctx_group=group(part)):
                found.append(function(part, *values))
        return found

    def _variable(self, centres):
        return self._parts(lambda part, count: heads.class_weight(
            part_name("fc7_weight", part), count * centres, self.emb_size), self._counts)

    def softmax(self, no_bias):
        """w_j·x + b_j."""
        def bias(part, count):
            return mx.sym.Variable(part_name("fc7_bias", part), shape=(count,), init=mx.init.Zero())

        return self._parts(lambda part, count, rows: mx.sym.FullyConnected(
            self.embedding, rows, *[] if no_bias else [bias(part, count)],
            num_hidden=count, no_bias=no_bias), self._counts, self.weight())

    def each(self, logits, function):
        return self._parts(lambda _, values: function(values), logits)

    def against(self, features, rows, centres=1, name=None):
        return self._parts(lambda _, count, own: heads.nearest(mx.sym.FullyConnected(
            features, own, num_hidden=count * centres, no_bias=True), count, centres), self._counts, rows)

    def _sum(self, function, split):
        """The sum of function(part) over the parts, on the first device."""
        values = self._parts(lambda part, value: function(part, value), split)
        return sum(values[1:], values[0])

    def at_label(self, logits):
        return self._sum(lambda part, values: mx.sym.pick(values, self._places[part][0], axis=1)
                         * self._places[part][1], logits)

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
        highest, *others = self._parts(lambda _, values: mx.sym.max(values, axis=1), logits)
        for other in others:
            highest = mx.sym.maximum(highest, other)
        return highest

    def row_sum(self, logits):
        return self._sum(lambda _, values: mx.sym.sum(values, axis=1), logits)

    def with_target(self, logits, target):
        def put(part, values):
            local, there = self._places[part]
            own = mx.sym.pick(values, local, axis=1)
            return heads.replaced(values, local, there * target + (1 - there) * own, self._counts[part])
        return self._parts(put, logits)

    def class_states(self, name):
        return self._parts(lambda part, count: heads.state(f"{name}{PART}{part}", 0, (count, self.emb_size)),
                           self._counts)

    def next_states(self, states, moves):
        return self._parts(lambda _, state, move: heads.next_state(state, state + move), states, moves)

    def cross_entropy(self, logits):
        """(The cross entropy of each image, (N,); whether its label's logit is the highest, (N,).)

        log Σ_j exp(z_j − max) over the parts; the maximum needs no gradient, for the sum does not hang on it.
        """
        highest = mx.sym.BlockGrad(self.row_max(logits))
        column, target = mx.sym.expand_dims(highest, 1), self.at_label(logits)
        exponentials = self.each(logits, lambda values: mx.sym.exp(mx.sym.broadcast_sub(values, column)))
        return mx.sym.log(self.row_sum(exponentials)) - (target - highest), target >= highest


def split_loss(loss, embedding, label, counts, emb_size, **settings):
    """The training graph of a split head. counts: classes of each part; settings: see `heads.get_head`.

    Returns the outputs of `heads.classification_loss`; the weights are fc7_weight_part0, ... (C_i·K, D).
    """
    inputs = SplitInputs(embedding, label, counts, emb_size)
    head = heads.build_head(loss, inputs, **settings)
    return heads.training_outputs(head, *inputs.cross_entropy(head.logits))


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
