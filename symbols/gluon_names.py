"""Layers under the names that Gluon gives them, for the networks that the original built as Gluon blocks."""
from collections import Counter

from common.mxnet_setup import mx


class Scope:
    """A name prefix, with a count of each kind of layer within it: <prefix>conv0, <prefix>conv1, ...

    An operator is named <prefix><kind><number>_fwd, its parameters <prefix><kind><number>_<parameter>.
    net_act: 'prelu' (one slope for the whole layer, starting at 0.25) or 'relu'; bn_mom: share of the old moving mean
    and variance that a step keeps; eps: BatchNorm's.
    """

    def __init__(self, prefix, net_act, bn_mom, eps=1e-5):
        self._prefix, self._act, self._bn = prefix, net_act, dict(momentum=bn_mom, eps=eps)
        self._counts = Counter()

    def name(self, kind):
        """The next free name of this kind."""
        self._counts[kind] += 1
        return f"{self._prefix}{kind}{self._counts[kind] - 1}"

    def scope(self, prefix):
        """A scope within this one, its counts its own. prefix: such as 'stage1_'."""
        return Scope(self._prefix + prefix, self._act, self._bn["momentum"], self._bn["eps"])

    def conv(self, data, filters, kernel, stride=1, pad=None, groups=1):
        """Square convolution without bias that keeps the map's size (at stride 1) where `pad` is not given."""
        name, pad = self.name("conv"), kernel // 2 if pad is None else pad
        return mx.sym.Convolution(
            data, weight=mx.sym.Variable(f"{name}_weight"), name=f"{name}_fwd", num_filter=filters, num_group=groups,
            kernel=(kernel, kernel), stride=(stride, stride), pad=(pad, pad), dilate=(1, 1), layout="NCHW",
            no_bias=True)

    def bn(self, data):
        """Batch norm."""
        name = self.name("batchnorm")
        variables = {role: mx.sym.Variable(f"{name}_{stored}") for role, stored in (
            ("gamma", "gamma"), ("beta", "beta"), ("moving_mean", "running_mean"), ("moving_var", "running_var"))}
        return mx.sym.BatchNorm(data, name=f"{name}_fwd", axis=1, fix_gamma=False, use_global_stats=False, **self._bn,
                                **variables)

    def act(self, data):
        """The network's activation."""
        if self._act == "relu":
            return self.relu(data)
        name = self.name("prelu")
        slope = mx.sym.Variable(f"{name}_alpha", shape=(1,), init=mx.init.Constant(0.25))
        return mx.sym.LeakyReLU(data, slope, name=f"{name}_fwd", act_type="prelu")

    def relu(self, data):
        """ReLU, whatever the network's activation is."""
        return mx.sym.Activation(data, name=f"{self.name('relu')}_fwd", act_type="relu")

    def pool(self, data, kind, kernel, stride, pad=0):
        """'max' or 'avg' pooling (the zeros of the padding counted)."""
        counted = dict(count_include_pad=True) if kind == "avg" else {}
        return mx.sym.Pooling(
            data, name=f"{self.name('pool')}_fwd", pool_type=kind, kernel=(kernel, kernel), stride=(stride, stride),
            pad=(pad, pad), global_pool=False, layout="NCHW", pooling_convention="valid", **counted)

    def add(self, left, right):
        """Sum of two maps of one shape."""
        return mx.sym.elemwise_add(left, right, name=self.name("elemwise_add"))

    def concat(self, *maps):
        """Maps behind each other along the channels."""
        return mx.sym.Concat(*maps, dim=1, name=self.name("concat"))
