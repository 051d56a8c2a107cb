"""What a training takes: against what MXNet's own plan of the same graph takes, and the refusal of what cannot fit."""
import re

import pytest

from common import graph
from common.errors import UserError
from common.mxnet_setup import mx
from recognition import memory
from recognition.heads import classification_loss, get_head
from symbols import get_symbol


def planned(symbol, **shapes):
    """Bytes that MXNet sets aside for a training graph beside its arguments."""
    executor = symbol.simple_bind(mx.cpu(), grad_req="write", **shapes)
    return int(re.findall(r"Total (\d+) MB allocated", executor.debug_str())[0]) << 20


@pytest.mark.parametrize("network", ["y1", "vargfacenet"])
def test_feature_maps_are_about_what_mxnet_plans(network):
    shape = (4, 3, 112, 112)
    symbol = get_symbol(network)
    told = memory.network_bytes(symbol, mx.cpu(), shape)
    assert told["feature maps"] == pytest.approx(planned(graph.for_device(symbol, mx.cpu(), data=shape), data=shape),
                                                 rel=0.25)
    on_gpu = memory.network_bytes(symbol, mx.gpu(0), shape)["feature maps"]  # where the graph stays as it is
    assert on_gpu == pytest.approx(planned(symbol, data=shape), rel=0.25)
    assert memory.network_bytes(symbol, mx.cpu(), shape, memonger=True)["feature maps"] < 0.6 * told["feature maps"]


@pytest.mark.parametrize("loss", ["softmax", "arcface", "nsoftmax", "lsoftmax"])
def test_a_head_is_about_what_mxnet_plans(loss):
    rows, size, batch = 20000, 64, 32
    label = mx.sym.Variable("label")
    symbol = classification_loss(get_head(loss, mx.sym.Variable("data"), label, rows, size), label)
    told = memory.head_bytes(loss, rows, size, batch)
    beside = planned(symbol, data=(batch, size), label=(batch,))
    assert sum(told.values()) == pytest.approx(beside + 3 * rows * size * 4, rel=0.35)


def test_weights_are_counted_with_gradient_and_momentum():
    assert memory.head_bytes("softmax", 1000, 8, 4) == {"class weight": 3 * 1000 * 8 * 4, "logits": 2 * 4 * 4 * 1000}
    sampled = memory.head_bytes("softmax", 100, 8, 4, 1000)
    assert sampled["class weight"] == 8 * 4 * (2 * 1000 + 100 + 200)


def test_what_does_not_fit_is_refused_with_advice():
    needs, gib = {"network": 1 << 30, "class weight": 3 << 30}, 1 << 30
    line, = memory.tell(needs, [mx.cpu(0), mx.cpu(1)], lambda device: 9 * gib)
    assert "class weight 3.0 GiB; together 4.0 GiB x 2 contexts of one memory; 9.0 GiB free" in line
    with pytest.raises(UserError, match="this does not fit.*--class-parallel.*--sample-rate"):
        memory.tell(needs, [mx.cpu(0), mx.cpu(1)], lambda device: 7 * gib)
    assert memory.tell(needs, [mx.cpu()], lambda device: 5 * gib)
    assert "free" not in memory.tell(needs, [mx.cpu()], lambda device: None)[0]
    assert memory.free_bytes(mx.cpu()) > 0
