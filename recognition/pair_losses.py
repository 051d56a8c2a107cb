"""Losses on pairs and triplets of embeddings, as symbol ops: no class weight. They know no network.

Everywhere the embeddings are L2-normalised first, since that is how faces are compared. Which images come together in
a batch is the business of `recognition.triplet_iter`.
"""
from common.errors import UserError, unknown_name
from common.mxnet_setup import mx
from recognition import margins

LOSSES = {  # loss: its settings, as the original and the ArcFace paper have them
    "triplet": dict(loss_alpha=0.3),
    "atriplet": dict(loss_alpha=0.35),
    "contrastive": dict(loss_m=1.0),
}
_TINY = 1e-14  # squared distance below which a pair counts as one point: the direction between them is undefined


def get_loss(loss, embedding, label, **settings):
    """The outputs of a training graph, as `heads.classification_loss` gives them.

    loss: a name in LOSSES; embedding: symbol (N, D), not normalised, the batch of one device; label: symbol (N,), class
    numbers, float32; settings: those of LOSSES[loss], see the functions of this module.
    Returns a group: `loss_output`, (N/3,) of each triplet or (N,) of each image, whose gradient is N times that of
    their mean, so that the trainer, which divides by N, makes the step of the mean; `correct_output` of the same shape,
    from 0 to 1, without gradient.
    Raises UserError for an unknown loss or setting, and a value that it cannot have.
    """
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    for name, value in settings.items():
        if name not in LOSSES[loss]:
            raise unknown_name(f"setting of loss {loss}", name, LOSSES[loss])
        if value <= 0:
            raise UserError(f"{name} {value}: expected more than 0")
    unit = mx.sym.L2Normalization(mx.sym.cast(embedding, "float32"), mode="instance", name="fc1n")
    return _BUILDERS[loss](unit, label, **dict(LOSSES[loss], **settings))


def check_batch_size(loss, size):
    """Raise UserError, naming the nearest that is, where a device's batch cannot have `size` images for `loss`."""
    if loss == "contrastive" and size < 2:
        raise UserError(f"per_batch_size {size:g}: a batch of pairs has two images or more")
    if loss in ("triplet", "atriplet") and (size < 3 or size % 3):
        raise UserError(f"per_batch_size {size:g}: a batch of triplets is a third anchors, a third positives, a third "
                        f"negatives; the nearest size that can be is {max(3, round(size / 3) * 3)}")


def _outputs(loss, correct, grad_scale=1):
    return mx.sym.Group([mx.sym.MakeLoss(loss, grad_scale=grad_scale, name="loss"),
                         mx.sym.BlockGrad(correct, name="correct")])


def _triplet(unit, label, loss_alpha):
    """max(0, ‖a − p‖² − ‖a − n‖² + α) (Schroff et al., 2015, equation 3)."""
    return _of_triplets(unit, label, loss_alpha, lambda one, other: mx.sym.sum(mx.sym.square(one - other), axis=1))


def _atriplet(unit, label, loss_alpha):
    """max(0, arccos(a·p) − arccos(a·n) + α) (Deng et al., 2019, section 3.1), α in radians."""
    return _of_triplets(unit, label, loss_alpha, lambda one, other: margins.angle(mx.sym.sum(one * other, axis=1)))


def _of_triplets(unit, label, alpha, distance):
    """The batch: N/3 anchors, then their positives, then their negatives. Correct: the negative is the farther one.

    Rows whose labels are no triplet's do not count as correct.
    """
    anchor, positive, negative = mx.sym.split(unit, num_outputs=3, axis=0)
    own, same, other = mx.sym.split(label, num_outputs=3, axis=0)
    near, far = distance(anchor, positive), distance(anchor, negative)
    correct = (far > near) * (own == same) * (own != other)
    return _outputs(mx.sym.relu(near - far + alpha), correct, grad_scale=3)


def _contrastive(unit, label, loss_m):
    """d²/2 for a genuine pair, max(0, m − d)²/2 for an impostor pair (Hadsell et al., 2006, equation 4).

    Of each image the mean over its pairs with all other images of the batch. Correct: the share of these pairs that are
    on their side of d = m.
    """
    squared = mx.sym.maximum(2 - 2 * mx.sym.dot(unit, unit, transpose_b=True), _TINY)
    distance = mx.sym.sqrt(squared)
    genuine = mx.sym.broadcast_equal(mx.sym.expand_dims(label, 1), mx.sym.expand_dims(label, 0))
    pairs = mx.sym.where(genuine, squared, mx.sym.square(mx.sym.relu(loss_m - distance))) / 2
    right = genuine == (distance < loss_m)
    count = mx.sym.sum(mx.sym.ones_like(label), axis=0, keepdims=True)
    others = mx.sym.maximum(count - 1, 1)  # an image and itself: a genuine pair at distance 0, always right
    return _outputs(mx.sym.broadcast_div(mx.sym.sum(pairs, axis=1), others),
                    mx.sym.broadcast_div(mx.sym.sum(right, axis=1) - 1, others))


_BUILDERS = {"triplet": _triplet, "atriplet": _atriplet, "contrastive": _contrastive}
