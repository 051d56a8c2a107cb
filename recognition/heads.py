"""Heads: from embeddings and labels to class logits, as symbol ops. A head knows no network.

Every head over normalised embeddings x̂ and class centres ŵ is the combined margin of the ArcFace paper (Deng et al.,
2019, equation 4): z_y = s·(cos(m1·θ_y + m2) − m3) for the label y, z_j = s·cos θ_j for the others.
"""

from common.errors import UserError, unknown_name
from common.mxnet_setup import mx

# loss name -> its settings, with the values of the original. 'softmax' alone works on raw embeddings, with a bias.
LOSSES = {
    "softmax": dict(fc7_no_bias=False),
    "nsoftmax": dict(loss_s=64.0, loss_m1=1.0, loss_m2=0.0, loss_m3=0.0),
    "arcface": dict(loss_s=64.0, loss_m1=1.0, loss_m2=0.5, loss_m3=0.0),
    "cosface": dict(loss_s=64.0, loss_m1=1.0, loss_m2=0.0, loss_m3=0.35),
    "combined": dict(loss_s=64.0, loss_m1=1.0, loss_m2=0.3, loss_m3=0.2),
}

def loss_settings(loss, **settings):
    """The settings of `loss`, with those given put over its own. Raises UserError for an unknown loss or setting."""
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    for name in settings:
        if name not in LOSSES[loss]:
            raise unknown_name(f"setting of loss {loss}", name, LOSSES[loss])
    resolved = dict(LOSSES[loss], **settings)
    if resolved.get("loss_s", 1) <= 0:
        raise UserError(f"loss_s {resolved['loss_s']}: the scale must be greater than 0")
    return resolved


def get_logits(loss, embedding, label, num_classes, emb_size=None, **settings):
    """Logits of a head.

    embedding: symbol (N, D), not normalised; label: symbol (N,), class numbers in [0, num_classes), float32.
    emb_size: D; needed only where `embedding` is not a network on 112×112 images, whose D is worked out here.
    settings: loss_s (scale), loss_m1, loss_m2 (radians), loss_m3; for 'softmax' fc7_no_bias.
    Returns the logits after margin and scale, (N, num_classes); the class weight is `fc7_weight`, (num_classes, D).
    Raises UserError for an unknown loss or setting.
    """
    settings = loss_settings(loss, **settings)
    emb_size = emb_size or _emb_size(embedding)
    weight = mx.sym.Variable("fc7_weight", shape=emb_size and (num_classes, emb_size), init=mx.init.Normal(0.01))
    if loss == "softmax":
        return mx.sym.FullyConnected(embedding, weight, num_hidden=num_classes, no_bias=settings["fc7_no_bias"],
                                     name="fc7")
    scale = settings["loss_s"]
    centres = mx.sym.L2Normalization(weight, mode="instance", name="fc7_centres")
    # The scale goes onto the embeddings, (N, D): one pass less over the (N, C) logits.
    features = mx.sym.L2Normalization(embedding, mode="instance", name="fc1n") * scale
    logits = mx.sym.FullyConnected(features, centres, num_hidden=num_classes, no_bias=True, name="fc7")
    margins = settings["loss_m1"], settings["loss_m2"], settings["loss_m3"]
    if margins == (1, 0, 0):
        return logits
    target = scale * target_cosine(mx.sym.pick(logits, label, axis=1) / scale, *margins)
    return _set_at_label(logits, label, target, num_classes)


def _emb_size(embedding):
    """The width of a network's embedding; None where it shows only when bound."""
    if "data" not in embedding.list_arguments() or embedding.name == "data":
        return None
    return embedding.infer_shape(data=(1, 3, 112, 112))[1][0][1]


def target_cosine(cosine, m1, m2, m3):
    """cos(m1·θ + m2) − m3 of θ = arccos(cosine).

    cosine: symbol, any shape. Like the original since 2019 it is not made monotonic beyond m1·θ + m2 = π.
    """
    if (m1, m2) == (1, 0):
        return cosine - m3
    return mx.sym.cos(angle(cosine) * m1 + m2) - m3


def angle(cosine):
    """θ = arccos(cosine) in radians, by the half-angle formula, with a finite derivative everywhere.

    The derivative of arccos itself is infinite at ±1, which a float32 cosine reaches (and oversteps) by rounding;
    there the direction of steepest change is undefined, and the derivative here is 0.
    """
    opposite, adjacent = 1 - cosine, 1 + cosine
    tiny = 1e-14
    return 2 * mx.sym.arctan(mx.sym.sqrt(mx.sym.maximum(opposite, tiny) / mx.sym.maximum(adjacent, tiny)))


def _set_at_label(logits, label, target, num_classes):
    """Put `target` (N,) in the place of the label's logit of each row.

    One copy of the logits, of which one number a row is touched: MXNet 1.9.1 has no differentiable assignment in
    place. (A one-hot mask and its products, as in the original, are three more arrays of (N, C).)
    """
    row = mx.sym.cast(mx.sym.contrib.arange_like(label, axis=0), "int64")
    place = row * num_classes + mx.sym.cast(label, "int64")  # in integers: float32 counts to 2²⁴ only
    flat = mx.sym.reshape(logits, (-1, 1))
    changed = mx.sym.contrib.index_copy(flat, place, mx.sym.reshape(target, (-1, 1)))
    return mx.sym.reshape(changed, (-1, num_classes), name="fc7_margin")


def classification_loss(logits, label):
    """Cross entropy and whether the label's logit is the highest, as the outputs of a training graph.

    logits: symbol (N, C); label: symbol (N,). Returns a group: `loss_output` (N,), the cross entropy of each image,
    whose gradient is that of the sum over the batch; `correct_output` (N,), 1 or 0, without gradient.
    """
    log_probability = mx.sym.log_softmax(logits, axis=1)
    target = mx.sym.pick(log_probability, label, axis=1)
    correct = target >= mx.sym.max(log_probability, axis=1)
    return mx.sym.Group([mx.sym.MakeLoss(-target, name="loss"), mx.sym.BlockGrad(correct, name="correct")])
