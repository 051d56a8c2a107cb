"""PartialFC: which classes are drawn, what a step does to them, and that all of them are the whole head."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_class_parallel import SGD, Batches, images_of, network, run_steps, split_trainer

from common.mxnet_setup import mx
from recognition import class_parallel
from recognition.partial_fc import PartialTrainer, sample_classes, sample_sizes

OWN = dict(loss_s=16.0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_all_positives_and_no_class_twice(data):
    count = data.draw(st.integers(1, 60))
    positives = data.draw(st.lists(st.integers(0, count - 1), max_size=20))
    size = data.draw(st.integers(max(1, len(set(positives))), count))
    chosen = sample_classes(count, size, np.array(positives, int), np.random.RandomState(data.draw(st.integers(0, 99))))
    assert len(chosen) == size and (np.diff(chosen) > 0).all() and 0 <= chosen[0] and chosen[-1] < count
    assert set(positives) <= set(chosen.tolist())


def test_others_are_drawn_evenly():
    random, counts = np.random.RandomState(0), np.zeros(20)
    for _ in range(4000):
        counts[sample_classes(20, 6, np.array([3, 3]), random)] += 1
    assert counts[3] == 4000
    np.testing.assert_allclose(np.delete(counts, 3) / 4000, 5 / 19, atol=0.03)


def test_sizes_hold_every_class_of_a_batch():
    assert sample_sizes([1000, 999, 10], 0.1, 32) == [100, 100, 10]
    assert sample_sizes([1000], 0.01, 32) == [32]


def partial_trainer(loss, counts, rate, batches, arg_params, **own):
    sizes = sample_sizes(counts, rate, 2)  # two identities a batch

    def head(embedding, label):
        return class_parallel.split_loss(loss, embedding, label, sizes, 16, **own)
    return PartialTrainer(network(), head, counts, sizes, [mx.cpu(part) for part in range(len(counts))], batches,
                          mx.init.Xavier(), arg_params, seed=5, **SGD)


@pytest.mark.parametrize("loss, own", [("arcface", OWN), ("subcenter", OWN)], ids=str)
def test_all_classes_are_the_whole_head(loss, own):
    """Weight decay included, for every row is drawn."""
    batches = Batches(*images_of(5, 60), 12)
    mx.random.seed(0)
    whole = split_trainer(loss, [3, 2], batches, **own)
    sampled = partial_trainer(loss, [3, 2], 1.0, batches, whole.params()[0], **own)
    for _ in range(3):
        np.testing.assert_allclose(run_steps(sampled, batches, 4), run_steps(whole, batches, 4), rtol=1e-4, atol=1e-5)
    for name, array in whole.params()[0].items():
        np.testing.assert_allclose(sampled.params()[0][name].asnumpy(), array.asnumpy(), rtol=1e-3, atol=1e-4)


def two_identities(first, second):
    images, _ = images_of(2, 12)
    return Batches(images, np.array([first, second] * 6), 12)


def test_a_step_touches_the_drawn_classes_alone():
    batches, start = two_identities(1, 7), np.random.RandomState(0).standard_normal((10, 16)).astype(np.float32)
    trainer = partial_trainer("arcface", [6, 4], 0.5, batches, {"fc7_weight": mx.nd.array(start)}, **OWN)
    seen = np.zeros(10, bool)
    for _ in range(3):
        before = trainer.params()[0]["fc7_weight"].asnumpy()
        run_steps(trainer, batches, 1)
        moved = (trainer.params()[0]["fc7_weight"].asnumpy() != before).any(axis=1)
        drawn = np.concatenate([trainer._rows[0].asnumpy(), 6 + trainer._rows[1].asnumpy()])
        assert set(np.flatnonzero(moved)) == set(drawn.tolist())
        assert {1, 7} <= set(drawn.tolist()) and len(drawn) == 5
        seen[drawn] = True
    assert seen.sum() > 5  # other negatives in each step


def test_a_step_is_that_of_the_plain_head_on_the_drawn_rows():
    batches = two_identities(1, 7)
    start = {"fc7_weight": mx.nd.array(np.random.RandomState(0).standard_normal((10, 16)))}
    trainer = partial_trainer("arcface", [6, 4], 0.5, batches, start, **OWN)
    first = trainer.params()[0]
    loss = run_steps(trainer, batches, 1)
    drawn = np.concatenate([trainer._rows[0].asnumpy(), 6 + trainer._rows[1].asnumpy()]).astype(int)
    images, label = images_of(2, 12)[0], np.array([1, 7] * 6)
    alone = Batches(images, np.searchsorted(drawn, label), 12)
    first["fc7_weight"] = first["fc7_weight"][mx.nd.array(drawn)]
    plain = split_trainer("arcface", [3, 2], alone, first, **OWN)
    np.testing.assert_allclose(loss, run_steps(plain, alone, 1), rtol=1e-5)


def test_samples_hang_on_seed_and_step():
    batches = two_identities(0, 9)
    start = {name: array for name, array in partial_trainer("arcface", [6, 4], 0.5, batches, {},
                                                            **OWN).params()[0].items()}
    runs = [partial_trainer("arcface", [6, 4], 0.5, batches, start, **OWN) for _ in range(2)]
    assert run_steps(runs[0], batches, 3) == run_steps(runs[1], batches, 3)
