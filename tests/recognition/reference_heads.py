"""The heads over classes in float64 NumPy, written from the papers, and what runs a head on arrays."""
from types import SimpleNamespace

import numpy as np

from common.mxnet_setup import mx
from recognition import heads


class Reference:
    """A loss in float64: x (N, D), w (C·K, D), y (N,) integers, states: dict name -> value.

    What has no gradient (moving means and the like) is evaluated at x0 and w0.
    """

    def __init__(self, loss, y, states, x0, w0, **settings):
        self.y, self.states, self.x0, self.w0 = y, states, x0, w0
        self.s = SimpleNamespace(**dict(heads.LOSSES[loss], **settings))
        self._head = getattr(self, loss, self.combined)
        self._rows = np.arange(len(y))

    def logits_and_penalty(self, x, w):
        return self._head(x, w)

    def loss(self, x, w):
        """Cross entropy and penalty, (N,)."""
        logits, penalty = self._head(x, w)
        top = logits.max(axis=1)
        return top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - logits[self._rows, self.y] + penalty

    def gradients(self, x, w, step=1e-6):
        """Of the summed loss in x and w, by central differences."""
        return self._differences(lambda at: self.loss(at, w), x, step), self._differences(
            lambda at: self.loss(x, at), w, step)

    def _differences(self, loss, at, step):
        found = np.zeros_like(at)
        for place in np.ndindex(*at.shape):
            shift = np.zeros_like(at)
            shift[place] = step
            found[place] = (loss(at + shift) - loss(at - shift)).sum() / (2 * step)
        return found

    def _cos(self, x, w, centres=1):
        cos = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
        return np.clip(cos.reshape(len(x), -1, centres).max(axis=2), -1, 1)

    def _put(self, logits, target):
        logits = logits.copy()
        logits[self._rows, self.y] = target
        return logits

    def softmax(self, x, w):
        logits = x @ w.T
        right = (self.x0 @ self.w0.T).argmax(axis=1) == self.y
        return logits, self.s.loss_incay * right / (x ** 2).sum(axis=1)

    def centre(self, x, w):
        away = x - self.states["centre"][self.y]
        return x @ w.T, self.s.loss_centre / 2 * (away ** 2).sum(axis=1)

    def moved_centres(self, x):
        """Wen et al., 2016, equation 4: each centre by the mean, with one more in the count, of its class's images."""
        moved = self.states["centre"].copy()
        for label in set(self.y):
            away = x[self.y == label] - self.states["centre"][label]
            moved[label] += self.s.loss_alpha * away.sum(axis=0) / (1 + len(away))
        return moved

    def combined(self, x, w):
        s = self.s
        cos = self._cos(x, w, getattr(s, "loss_k", 1))
        share = np.clip((self.states["step"] - s.margin_start + 1) / (s.margin_warmup + 1), 0, 1)
        length = np.linalg.norm(x, axis=1) if s.loss_s == 0 else np.full(len(x), s.loss_s)
        if s.loss_s_start:
            length = np.full(len(x), (1 - share) * s.loss_s_start + share * s.loss_s)
        theta = np.arccos(cos[self._rows, self.y])
        m1, m2, m3 = 1 + share * (s.loss_m1 - 1), share * s.loss_m2, share * s.loss_m3
        target = np.cos(m1 * theta + m2) - m3
        if getattr(s, "loss_beyond", "cosine") == "line":
            target = np.where(theta + m2 < np.pi, target, np.cos(theta) - m2 * np.sin(m2))
        elif getattr(s, "loss_beyond", "cosine") == "easy":
            target = np.where(theta < np.pi / 2, target, np.cos(theta))
        return length[:, None] * self._put(cos, target), s.loss_intra * theta / np.pi + (
            self._between(w) if s.loss_inter or s.loss_mhe else 0)

    def _between(self, w):
        unit, others = w / np.linalg.norm(w, axis=1, keepdims=True), len(w) - 1
        cos = unit @ unit.T
        np.fill_diagonal(cos, 1)
        angles = np.arccos(np.clip(cos, -1, 1)).sum(axis=1)
        energy = (1 / (2 - 2 * cos + 1e99 * np.eye(len(w)))).sum(axis=1)
        return ((self.s.loss_mhe * energy - self.s.loss_inter / np.pi * angles) / others)[self.y]

    def _annealed(self, cos):
        s, theta = self.s, np.arccos(cos)
        piece = np.minimum(np.floor(s.loss_m1 * theta / np.pi), s.loss_m1 - 1)
        psi = (-1.0) ** piece * np.cos(s.loss_m1 * theta) - 2 * piece
        gone = max(0, self.states["step"] - s.loss_lambda_freeze)
        weight = max(s.loss_lambda_min, s.loss_lambda * (1 + s.loss_lambda_gamma * gone) ** -s.loss_lambda_power)
        return (weight * cos + psi) / (1 + weight)

    def sphereface(self, x, w):
        cos = self._cos(x, w)
        length = np.full(len(x), self.s.loss_s) if self.s.loss_s else np.linalg.norm(x, axis=1)
        return self._put(cos * length[:, None], length * self._annealed(cos[self._rows, self.y])), 0

    def lsoftmax(self, x, w):
        length = np.linalg.norm(x, axis=1) * np.linalg.norm(w, axis=1)[self.y]
        return self._put(x @ w.T, length * self._annealed(self._cos(x, w)[self._rows, self.y])), 0

    @staticmethod
    def _falling(cos, m):
        return np.where(np.arccos(cos) + m < np.pi, np.cos(np.arccos(cos) + m), cos - m * np.sin(m))

    def curricularface(self, x, w):
        cos, m = self._cos(x, w), self.s.loss_m2
        now = 0.99 * self.states["target_mean"] + 0.01 * self._cos(self.x0, self.w0)[self._rows, self.y].mean()
        target = cos[self._rows, self.y]
        hard = cos > np.cos(np.arccos(target) + m)[:, None]
        return self.s.loss_s * self._put(np.where(hard, cos * (now + cos), cos), self._falling(target, m)), 0

    def magface(self, x, w):
        low, high = self.s.loss_norm_low, self.s.loss_norm_high
        length = np.clip(np.linalg.norm(x, axis=1), low, high)
        m = self.s.loss_m_low + (self.s.loss_m_high - self.s.loss_m_low) * (length - low) / (high - low)
        cos = self._cos(x, w)
        target = self._falling(cos[self._rows, self.y], m)
        return self.s.loss_s * self._put(cos, target), self.s.loss_norm_weight * (length / high ** 2 + 1 / length)

    def adaface(self, x, w):
        norms = np.clip(np.linalg.norm(self.x0, axis=1), 1e-3, 100)
        mean = 0.99 * self.states["norm_mean"] + 0.01 * norms.mean()
        deviation = 0.99 * self.states["norm_deviation"] + 0.01 * norms.std(ddof=1)
        quality = np.clip((norms - mean) / (deviation + 1e-3) * self.s.loss_h, -1, 1)
        cos, m = self._cos(x, w), self.s.loss_m
        theta = np.clip(np.arccos(cos[self._rows, self.y]) - m * quality, 1e-3, np.pi - 1e-3)
        return self.s.loss_s * self._put(cos, np.cos(theta) - m * (1 + quality)), 0


def run(loss, x, w, y, states=None, bias=None, dtype="float32", **settings):
    """A head on arrays: `logits` (N, C), `loss` and `correct` (N,), gradients of the summed loss `d_x`, `d_w`, `next`
    (dict state -> its next value). dtype: of the embeddings."""
    data, label = mx.sym.Variable("data", dtype=dtype), mx.sym.Variable("label")
    num_classes = len(w) // settings.get("loss_k", heads.LOSSES[loss].get("loss_k", 1))
    head = heads.get_head(loss, data, label, num_classes, w.shape[1], **settings)
    symbol = mx.sym.Group([heads.classification_loss(head, label), mx.sym.BlockGrad(head.logits, name="logits")])
    learnt = [name for name in symbol.list_arguments() if name in ("data", "fc7_weight")]
    executor = symbol.simple_bind(
        mx.cpu(), data=x.shape, label=y.shape, type_dict={"data": dtype, "label": "float32"},
        grad_req={name: "write" if name in learnt else "null" for name in symbol.list_arguments()})
    values = dict(data=x, label=y, fc7_weight=w, fc7_bias=bias,
                  **{f"fc7_{name}_state": np.reshape(value, np.shape(value) or 1)
                     for name, value in (states or {}).items()})
    for name, value in values.items():
        if name in executor.arg_dict:
            executor.arg_dict[name][:] = 0 if value is None else value
    outputs = {name: output.asnumpy() for name, output in zip(symbol.list_outputs(), executor.forward(is_train=True))}
    executor.backward()
    following = {name[len("fc7_"):-len("_state_next_output")]: value for name, value in outputs.items()
                 if "_state_next_" in name}
    gradients = {short: executor.grad_dict[name].asnumpy() for short, name in (("d_x", "data"), ("d_w", "fc7_weight"))}
    return SimpleNamespace(logits=outputs["logits_output"], loss=outputs["loss_output"],
                           correct=outputs["correct_output"], next=following, **gradients)
