"""Heads: from embeddings and labels to class logits, as symbol ops. A head knows no network.

x̂ and ŵ_j are the normalised embedding and class centres, θ_j the angle between them, y the label. A loss is a line in
LOSSES (its settings, at its paper's values) and in _HEADS (how it is built).
"""
import math
from collections import namedtuple

from common.errors import UserError, unknown_name
from common.mxnet_setup import mx
from recognition import margins

_ANGULAR = dict(loss_s=64.0, loss_m1=1.0, loss_m2=0.0, loss_m3=0.0, loss_intra=0.0, loss_inter=0.0, loss_mhe=0.0,
                loss_s_start=0.0, margin_start=0, margin_warmup=0)
_ANNEALED = dict(loss_m1=4, loss_lambda=1000.0, loss_lambda_min=5.0, loss_lambda_gamma=0.12, loss_lambda_power=1.0,
                 loss_lambda_freeze=0)
LOSSES = {  # loss: its settings
    "softmax": dict(fc7_no_bias=False, loss_incay=0.0),
    "nsoftmax": _ANGULAR,
    "arcface": dict(_ANGULAR, loss_m2=0.5, loss_beyond="cosine"),
    "cosface": dict(_ANGULAR, loss_m3=0.35),
    "combined": dict(_ANGULAR, loss_m2=0.3, loss_m3=0.2),
    "cm1": dict(_ANGULAR, loss_m2=0.3, loss_m3=0.2),
    "cm2": dict(_ANGULAR, loss_m1=0.9, loss_m2=0.4, loss_m3=0.15),
    "sphereface135": dict(_ANGULAR, loss_m1=1.35),
    "subcenter": dict(_ANGULAR, loss_m2=0.5, loss_k=3),
    "sphereface": dict(_ANNEALED, loss_s=0.0),
    "lsoftmax": _ANNEALED,
    "curricularface": dict(loss_s=64.0, loss_m2=0.5),
    "magface": dict(loss_s=64.0, loss_m_low=0.45, loss_m_high=0.8, loss_norm_low=10.0, loss_norm_high=110.0,
                    loss_norm_weight=35.0),
    "adaface": dict(loss_s=64.0, loss_m=0.4, loss_h=0.333),
    "centre": dict(fc7_no_bias=False, loss_centre=0.003, loss_alpha=0.5),
}
_BEYOND = {"line": margins.monotonic_arcface, "easy": margins.easy_arcface}
_EXPECTED = {  # setting: (whether a value will do, what is expected)
    "loss_s": (lambda scale: scale >= 0, "more than 0"),
    "loss_s_start": (lambda scale: scale >= 0, "0 or more"),
    "loss_k": (lambda centres: centres >= 1, "1 or more centres of a class"),
    "loss_norm_low": (lambda length: length > 0, "more than 0"),
    "loss_beyond": (("cosine", *_BEYOND).__contains__, "cosine, line or easy"),
}

Head = namedtuple("Head", "logits states penalty")
Head.__doc__ = """What a head gives. logits: symbol (N, C). penalty: symbol (N,), added to the cross entropy, or None.

states: symbols named <argument>_next, the value that this argument shall have in the next step (moving means, the
number of the step); such arguments are no parameters: no gradient changes them.
"""
STATE, NEXT = "_state", "_next"  # how the names of these arguments, and of their next values, end


def loss_settings(loss, **settings):
    """The settings of `loss`, with those given put over its own. Raises UserError for an unknown loss or setting."""
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    for name in settings:
        if name not in LOSSES[loss]:
            raise unknown_name(f"setting of loss {loss}", name, LOSSES[loss])
    resolved = dict(LOSSES[loss], **settings)
    for name, (holds, expected) in _EXPECTED.items():
        if name in resolved and not holds(resolved[name]):
            raise UserError(f"{name} {resolved[name]}: expected {expected}")
    if resolved.get("loss_s") == 0 and loss in _HEADS and loss != "sphereface":
        raise UserError(f"loss_s 0: {loss} needs a scale, more than 0")
    if resolved.get("loss_s_start") and not (resolved["margin_start"] or resolved["margin_warmup"]):
        raise UserError(f"loss_s_start {resolved['loss_s_start']}: without --margin-start or --margin-warmup it never "
                        "grows to loss_s")
    if resolved.get("loss_beyond") in _BEYOND and (resolved["loss_m1"], resolved["loss_m3"]) != (1, 0):
        raise UserError(f"loss_beyond {resolved['loss_beyond']}: for loss_m1 1 and loss_m3 0 alone")
    return resolved


def get_logits(loss, embedding, label, num_classes, emb_size=None, **settings):
    """Logits of a head after margin and scale, symbol (N, num_classes). For the arguments see `get_head`."""
    return get_head(loss, embedding, label, num_classes, emb_size, **settings).logits


def get_head(loss, embedding, label, num_classes, emb_size=None, **settings):
    """A head.

    embedding: symbol (N, D), not normalised; label: symbol (N,), class numbers in [0, num_classes), float32.
    emb_size: D; needed only where `embedding` is not a network on 112×112 images, whose D is worked out here.
    settings: those of LOSSES[loss]; see the functions of this module for what they do.
    Returns a Head; the class weight is `fc7_weight`, (num_classes, D).
    Raises UserError for an unknown loss or setting, and a value that it cannot have.
    """
    return build_head(loss, Inputs(embedding, label, num_classes, emb_size or embedding_size(embedding)), **settings)


def build_head(loss, inputs, **settings):
    """A Head on Inputs. Raises UserError as `get_head` does."""
    return _HEADS.get(loss, _combined)(inputs, **loss_settings(loss, **settings))


def embedding_size(embedding):
    """The width of a network's embedding; None where it shows only when bound."""
    if "data" not in embedding.list_arguments() or embedding.name == "data":
        return None
    return embedding.infer_shape(data=(1, 3, 112, 112))[1][0][1]


class Inputs:
    """What a head is built on: embedding (N, D), label (N,), C classes, each with K centres.

    Whatever has a row or a column for each class goes through its methods alone, so that a subclass may split it.
    """

    def __init__(self, embedding, label, num_classes, emb_size):
        self.embedding = mx.sym.cast(embedding, "float32")  # of a network in float16, too
        self.label, self.num_classes, self.emb_size = label, num_classes, emb_size
        self._weights = {}  # a variable that is used twice must be one object

    def weight(self, centres=1):
        """fc7_weight, (C·K, D)."""
        if centres not in self._weights:
            self._weights[centres] = self._variable(centres)
        return self._weights[centres]

    def _variable(self, centres):
        return class_weight("fc7_weight", self.num_classes * centres, self.emb_size)

    def norm(self):
        """‖x‖, (N,)."""
        return _norm(self.embedding)

    def softmax(self, no_bias):
        """w_j·x + b_j, (N, C)."""
        return mx.sym.FullyConnected(self.embedding, self.weight(), num_hidden=self.num_classes, no_bias=no_bias,
                                     name="fc7")

    def each(self, logits, function):
        """function of logits (N, C), or of rows (C, ...), that treats every class by itself."""
        return function(logits)

    def against(self, features, rows, centres=1, name=None):
        """features (N, D) times the rows (C·K, D), the greatest over the K centres of a class: (N, C)."""
        logits = mx.sym.FullyConnected(features, rows, num_hidden=self.num_classes * centres, no_bias=True, name=name)
        return nearest(logits, self.num_classes, centres)

    def cosines(self, scale, features=None, centres=1):
        """(scale·cos θ_j, (N, C); ŵ). The scale goes onto the embeddings: one pass less over the (N, C) logits."""
        unit = self.each(self.weight(centres), lambda rows: mx.sym.L2Normalization(rows, mode="instance"))
        if features is None:
            features = mx.sym.L2Normalization(self.embedding, mode="instance", name="fc1n")
            features = mx.sym.broadcast_mul(features, scale) if isinstance(scale, mx.sym.Symbol) else features * scale
        return self.against(features, unit, centres, "fc7"), unit

    def scaled_cosines(self, scale, centres=1):
        """(scale·cos θ_j; the scale; ŵ). scale: a number, of which 0 stands for ‖x‖, or a symbol of shape (1, 1)."""
        if isinstance(scale, mx.sym.Symbol):
            logits, unit = self.cosines(scale, centres=centres)
            return logits, self.spread(mx.sym.reshape(scale, (1,))), unit
        if scale:
            logits, unit = self.cosines(scale, centres=centres)
            return logits, scale, unit
        logits, unit = self.cosines(1, self.embedding, centres)
        return logits, self.norm(), unit

    def at_label(self, logits):
        """The label's logit, (N,)."""
        return mx.sym.pick(logits, self.label, axis=1)

    def of_label(self, rows):
        """The row of each label, (N, D), of rows (C, D)."""
        return mx.sym.take(rows, self.label)

    def scattered(self, values):
        """Rows (C, D) with the values (N, D) at their labels; those of a class must be the same."""
        return mx.sym.scatter_nd(values, mx.sym.expand_dims(self.label, 0), shape=(self.num_classes, self.emb_size))

    def row_max(self, logits):
        """The highest logit of each row, (N,)."""
        return mx.sym.max(logits, axis=1)

    def row_sum(self, logits):
        """The sum of each row, (N,)."""
        return mx.sym.sum(logits, axis=1)

    def class_states(self, name):
        """A state with a row for each class, (C, D), 0 at the start."""
        return state(name, 0, (self.num_classes, self.emb_size))

    def next_states(self, states, moves):
        """The symbols that say what such a state, moved by `moves` (C, D), shall be in the next step: a list."""
        return [next_state(states, states + moves)]

    def spread(self, scalar):
        """A symbol of shape (1,) as (N,)."""
        return mx.sym.broadcast_like(scalar, self.label)

    def with_target(self, logits, target):
        """Put `target` (N,) in the place of the label's logit of each row.

        One copy of the logits, of which one number a row is touched: MXNet 1.9.1 has no differentiable assignment in
        place. (A one-hot mask and its products, as in the original, are three more arrays of (N, C).)
        """
        return replaced(logits, self.label, target, self.num_classes)


    def head_logits(self, logits, target):
        """The logits of a head: those of the other classes, and `target` (N,) for the label."""
        return self.with_target(logits, target)


def replaced(logits, columns, values, width):
    """Logits (N, width) with `values` (N,) in the columns (N,)."""
    row = mx.sym.cast(mx.sym.contrib.arange_like(columns, axis=0), "int64")
    place = row * width + mx.sym.cast(columns, "int64")  # in integers: float32 counts to 2²⁴ only
    changed = mx.sym.contrib.index_copy(mx.sym.reshape(logits, (-1, 1)), place, mx.sym.reshape(values, (-1, 1)))
    return mx.sym.reshape(changed, (-1, width))


def _norm(vectors):
    """The length of each row, with a finite derivative (0) where it is 0."""
    return mx.sym.sqrt(mx.sym.sum(mx.sym.square(vectors), axis=1) + 1e-20)


def class_weight(name, rows, emb_size):
    """A variable of (rows, emb_size); emb_size None: found when it is bound."""
    return mx.sym.Variable(name, shape=emb_size and (rows, emb_size), init=mx.init.Normal(0.01))


def nearest(logits, classes, centres):
    """The greatest over the K centres of a class, (N, C), of logits (N, C·K)."""
    return logits if centres == 1 else mx.sym.max(mx.sym.reshape(logits, (-1, classes, centres)), axis=2)


def state(name, start, shape=(1,)):
    """A variable that no gradient changes; see Head."""
    return mx.sym.Variable(f"fc7_{name}{STATE}", shape=shape, init=mx.init.Constant(start))


def next_state(variable, value):
    """The symbol that says what this state shall be in the next step."""
    return mx.sym.BlockGrad(value, name=variable.name + NEXT)


def _moved(variable, value, share):
    """The moving mean of a state and a value, a symbol of shape (1,), and its symbol for the next step."""
    value = mx.sym.BlockGrad(variable * (1 - share) + value * share)
    return value, next_state(variable, value)


def _softmax(inputs, fc7_no_bias, loss_incay):
    """Softmax. loss_incay: weight of 1/‖x‖² of images that are classified right (Yuan et al., 2017, feature incay)."""
    logits = inputs.softmax(fc7_no_bias)
    if not loss_incay:
        return Head(logits, [], None)
    correct = mx.sym.BlockGrad(inputs.at_label(logits) >= inputs.row_max(logits))
    return Head(logits, [], loss_incay * correct / mx.sym.maximum(mx.sym.square(inputs.norm()), 1e-10))


def _centre(inputs, fc7_no_bias, loss_centre, loss_alpha):
    """Softmax with the centre loss (Wen et al., 2016): λ/2·‖x − c_y‖², c_j moved by α·Σ(x − c_j)/(1 + n_j)."""
    centres = inputs.class_states("centre")
    away = inputs.embedding - mx.sym.BlockGrad(inputs.of_label(centres))
    same = mx.sym.broadcast_equal(mx.sym.expand_dims(inputs.label, 1), mx.sym.expand_dims(inputs.label, 0))  # (N, N)
    move = mx.sym.broadcast_div(mx.sym.dot(same, away), 1 + mx.sym.sum(same, axis=1, keepdims=True)) * loss_alpha
    # Images of a class all have its move, of which one is taken.
    states = inputs.next_states(centres, inputs.scattered(move))
    penalty = mx.sym.sum(mx.sym.square(away), axis=1) * (loss_centre / 2)
    return Head(inputs.softmax(fc7_no_bias), states, penalty)


def _combined(inputs, loss_s, loss_m1, loss_m2, loss_m3, loss_intra, loss_inter, loss_mhe, loss_s_start, margin_start,
              margin_warmup, loss_k=1, loss_beyond="cosine"):
    """s·(cos(m1·θ_y + m2) − m3) for the label, s·cos θ_j for the others (Deng et al., 2019, equation 4).

    loss_s: 0 for ‖x‖. loss_k: centres of a class, of which the nearest counts (Deng et al., 2020, sub-centre ArcFace).
    loss_beyond: of ArcFace, where θ_y + m2 is beyond π: 'cosine' goes on (the original since 2019), 'line' falls on
    (the original in 2018); 'easy' has no margin where θ_y is beyond π/2.
    margin_start, margin_warmup: steps without a margin, and then steps in which it grows in proportion.
    loss_s_start: the scale without a margin, which grows to loss_s as the margin grows; 0: loss_s.
    loss_intra, loss_inter, loss_mhe: weights of the losses of `_penalties`.
    """
    margin = loss_m1, loss_m2, loss_m3
    grows = (margin_start or margin_warmup) and (margin != (1, 0, 0) or loss_s_start)  # else nothing hangs on the step
    share, states = _warm_up(margin_start, margin_warmup) if grows else (None, [])
    scale = loss_s_start + mx.sym.reshape(share, (1, 1)) * (loss_s - loss_s_start) if loss_s_start else loss_s
    logits, length, centres = inputs.scaled_cosines(scale, loss_k)
    cosine = inputs.at_label(logits) / length
    penalty = _penalties(inputs, cosine, centres, loss_k, loss_intra, loss_inter, loss_mhe)
    if margin == (1, 0, 0):
        return Head(logits, states, penalty)
    if share is not None:
        share = inputs.spread(share)
        margin = 1 + share * (loss_m1 - 1), share * loss_m2, share * loss_m3
    if loss_beyond in _BEYOND:
        target = _BEYOND[loss_beyond](cosine, margin[1])
    else:
        target = margins.combined(cosine, *margin)
    return Head(inputs.head_logits(logits, length * target), states, penalty)


def _warm_up(start, steps):
    """How much of the margin acts in this step, 0 to 1, as a symbol of shape (1,), and the states that count it."""
    step, states = _step()
    return mx.sym.clip((step - start + 1) / (steps + 1), 0, 1), states


def _step():
    """The number of this step, from 0, as a symbol of shape (1,), and the states of a Head that counts it."""
    step = state("step", 0)
    return mx.sym.BlockGrad(step), [next_state(step, step + 1)]


def sub_centres(weight, centres):
    """The centres of a head, weight (C, D), as (C * centres, D): each itself, and copies that MXNet's random numbers
    move by about a tenth of its length, for equal ones would have equal gradients and so stay equal."""
    copies = mx.nd.repeat(weight, centres, axis=0)
    lengths = mx.nd.norm(copies, axis=1, keepdims=True)
    noise = mx.nd.random.normal(0, 0.1 / weight.shape[1] ** 0.5, copies.shape) * lengths
    noise[::centres] = 0
    return copies + noise


def _penalties(inputs, cosine, centres, loss_k, intra, inter, mhe):
    """The weighted sum, (N,), of losses on angles; None where every weight is 0.

    intra: θ_y/π (Deng et al., 2019, equation 5); inter: −mean over j ≠ y of the angle between w_y and w_j, by π
    (equation 6); mhe: mean over j ≠ y of 1/‖ŵ_y − ŵ_j‖² (Liu et al., 2018, hyperspherical energy, of the batch's
    classes).
    """
    if (inter or mhe) and loss_k > 1:
        raise UserError(f"loss_k {loss_k}: loss_inter and loss_mhe are of classes with one centre each")
    parts = [margins.angle(cosine) * (intra / math.pi)] if intra else []
    if inter or mhe:
        others = inputs.num_classes - 1
        between = inputs.against(inputs.of_label(centres), centres)
        between = inputs.with_target(between, inputs.spread(mx.sym.ones((1,))))  # itself, without a gradient
        if inter:
            parts.append(inputs.row_sum(inputs.each(between, margins.angle)) * (-inter / (math.pi * others)))
        if mhe:
            opposite = inputs.with_target(between, inputs.spread(-mx.sym.ones((1,))))
            energy = inputs.row_sum(inputs.each(opposite, lambda cosines: 1 / (2 - 2 * cosines)))
            parts.append((energy - 0.25) * (mhe / others))  # itself counted as its own opposite
    return sum(parts[1:], parts[0]) if parts else None


def _annealed(inputs, m, cosine, loss_lambda, loss_lambda_min, loss_lambda_gamma, loss_lambda_power,
              loss_lambda_freeze):
    """(λ·cos θ + ψ(θ)) / (1 + λ), and the states that make λ fall to its least value (Liu et al., 2017, section 4)."""
    step, states = _step()
    gone = mx.sym.maximum(step - loss_lambda_freeze, 0)
    weight = inputs.spread(mx.sym.maximum(loss_lambda * (1 + loss_lambda_gamma * gone) ** -loss_lambda_power,
                                          loss_lambda_min))
    return (weight * cosine + margins.sphere(cosine, m)) / (1 + weight), states


def _sphereface(inputs, loss_s, loss_m1, **annealing):
    """A-Softmax (Liu et al., 2017): ‖x‖·ψ(θ_y), ‖x‖·cos θ_j. loss_s: 0 for ‖x‖, else the scale of normalised x."""
    logits, length, _ = inputs.scaled_cosines(loss_s)
    target, states = _annealed(inputs, loss_m1, inputs.at_label(logits) / length, **annealing)
    return Head(inputs.head_logits(logits, length * target), states, None)


def _lsoftmax(inputs, loss_m1, **annealing):
    """L-Softmax (Liu et al., 2016): ‖w_y‖·‖x‖·ψ(θ_y), w_j·x: the class weight keeps its length."""
    logits, own = inputs.softmax(True), inputs.of_label(inputs.weight())
    length = inputs.norm() * _norm(own)
    target, states = _annealed(inputs, loss_m1, inputs.at_label(logits) / length, **annealing)
    return Head(inputs.head_logits(logits, length * target), states, None)


def _curricularface(inputs, loss_s, loss_m2):
    """CurricularFace (Huang et al., 2020): negatives harder than the target count (t + cos θ_j)·cos θ_j.

    t is the moving mean of cos θ_y, with a share of 0.01 for the new batch.
    """
    logits, _ = inputs.cosines(1)
    cosine = inputs.at_label(logits)
    now, moved = _moved(state("target_mean", 0), _batch_mean(cosine), 0.01)
    limit = mx.sym.expand_dims(mx.sym.cos(margins.angle(cosine) + loss_m2), 1)

    def harder(logits):
        hard = mx.sym.broadcast_greater(logits, limit)
        return mx.sym.where(hard, logits * mx.sym.broadcast_add(logits, mx.sym.reshape(now, (1, 1))), logits)

    logits = inputs.each(logits, lambda part: loss_s * harder(part))
    return Head(inputs.head_logits(logits, loss_s * margins.monotonic_arcface(cosine, loss_m2)), [moved], None)


def _batch_mean(values):
    return mx.sym.mean(values, axis=0, keepdims=True)


def _magface(inputs, loss_s, loss_m_low, loss_m_high, loss_norm_low, loss_norm_high, loss_norm_weight):
    """MagFace (Meng et al., 2021): ArcFace with a margin that grows with a = ‖x‖, and λ_g·(a/u² + 1/a) beside it.

    a is cut to loss_norm_low .. loss_norm_high (l, u), for which the margin goes from loss_m_low to loss_m_high.
    """
    logits, _ = inputs.cosines(loss_s)
    cosine = inputs.at_label(logits) / loss_s
    length = mx.sym.clip(inputs.norm(), loss_norm_low, loss_norm_high)
    slope = (loss_m_high - loss_m_low) / (loss_norm_high - loss_norm_low)
    margin = loss_m_low + slope * (length - loss_norm_low)
    target = loss_s * margins.monotonic_arcface(cosine, margin)
    penalty = loss_norm_weight * (length / loss_norm_high ** 2 + 1 / length)
    return Head(inputs.head_logits(logits, target), [], penalty)


def _adaface(inputs, loss_s, loss_m, loss_h):
    """AdaFace (Kim et al., 2022): cos(θ_y − m·q) − (m + m·q), q the image's quality, from how long its embedding is.

    q = (‖x‖ − mean)/deviation·h, cut to −1 .. 1, with moving means of the batch's mean and deviation (share 0.01).
    """
    logits, _ = inputs.cosines(loss_s)
    norms = mx.sym.BlockGrad(mx.sym.clip(inputs.norm(), 1e-3, 100))
    mean = _batch_mean(norms)
    deviation = mx.sym.sqrt(mx.sym.sum(mx.sym.square(mx.sym.broadcast_sub(norms, mean)), axis=0, keepdims=True)
                            / mx.sym.maximum(mx.sym.sum(mx.sym.ones_like(norms), axis=0, keepdims=True) - 1, 1))
    mean, mean_state = _moved(state("norm_mean", 20), mean, 0.01)
    deviation, deviation_state = _moved(state("norm_deviation", 100), deviation, 0.01)
    quality = mx.sym.clip((norms - inputs.spread(mean)) / (inputs.spread(deviation) + 1e-3) * loss_h, -1, 1)
    theta = margins.angle(inputs.at_label(logits) / loss_s) - loss_m * quality
    target = mx.sym.cos(mx.sym.clip(theta, 1e-3, math.pi - 1e-3)) - loss_m * (1 + quality)
    return Head(inputs.head_logits(logits, loss_s * target), [mean_state, deviation_state], None)


_HEADS = {  # those that are no combined margin
    "softmax": _softmax, "centre": _centre, "sphereface": _sphereface, "lsoftmax": _lsoftmax,
    "curricularface": _curricularface, "magface": _magface, "adaface": _adaface,
}


def cross_entropy(logits, label):
    """(The cross entropy of each image, (N,); whether its label's logit is the highest, (N,).)"""
    log_probability = mx.sym.log_softmax(logits, axis=1)
    target = mx.sym.pick(log_probability, label, axis=1)
    return -target, target >= mx.sym.max(log_probability, axis=1)


def classification_loss(head, label):
    """Cross entropy and whether the label's logit is the highest, as the outputs of a training graph.

    head: Head, or its logits, symbol (N, C); label: symbol (N,). Returns a group: `loss_output` (N,), the cross
    entropy of each image and the head's penalty, whose gradient is that of the sum over the batch; `correct_output`
    (N,), 1 or 0, without gradient; and the head's states.
    """
    head = head if isinstance(head, Head) else Head(head, [], None)
    return training_outputs(head, *cross_entropy(head.logits, label))


def training_outputs(head, loss, correct):
    """The outputs that `classification_loss` describes. loss, correct: (N,)."""
    loss = loss if head.penalty is None else loss + head.penalty
    return mx.sym.Group([mx.sym.MakeLoss(loss, name="loss"), mx.sym.BlockGrad(correct, name="correct"), *head.states])
