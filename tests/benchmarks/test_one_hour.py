"""The split on which the best hour's settings are chosen: no person is on both sides, no pair is of one image twice."""
import numpy as np
import pytest

from benchmarks import one_hour
from benchmarks.resume import write_faces
from datasets.packs import load_pack
from datasets.training_set import TrainingSet
from recognition.train import parse_args


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """(the whole set, the folder of its split)."""
    folder = tmp_path_factory.mktemp("hour")
    write_faces(folder / "faces")
    one_hour.split(folder / "faces", folder / "split", 3)
    return TrainingSet(folder / "faces"), folder / "split"


def test_no_person_is_on_both_sides(halves):
    whole, folder = halves
    names = {whole.read(row)[0]: whole.label(row) for row in range(len(whole))}
    kept = TrainingSet(folder / "training")
    stay = {names[kept.read(row)[0]] for row in range(len(kept))}
    pack = load_pack(folder / "packs" / "held_out.bin")
    held = {names[image] for image in pack.images}
    assert not stay & held and stay | held == set(range(whole.num_classes))
    assert len(held) == round(one_hour.HELD_OUT * whole.num_classes)


def test_pairs(halves):
    whole, folder = halves
    names = {whole.read(row)[0]: whole.label(row) for row in range(len(whole))}
    pack = load_pack(folder / "packs" / "held_out.bin")
    pairs = list(zip(pack.images[::2], pack.images[1::2]))
    assert len(pairs) == one_hour.PAIRS and pack.issame.sum() == one_hour.PAIRS // 2
    assert [names[first] == names[second] for first, second in pairs] == pack.issame.tolist()
    assert all(first != second for first, second in pairs)


@pytest.mark.parametrize("name", one_hour.CANDIDATES)
def test_candidates_can_be_trained(name):
    candidate = one_hour.CANDIDATES[name]
    assert sum(share for share, _ in candidate.stages) == pytest.approx(1)
    for _, text in candidate.stages:
        parse_args([*candidate.network, *text.split(), "--dataset", "demo"])


def test_people_of_one_image_are_in_no_genuine_pair():
    pairs = np.array(one_hour.draw_pairs({0: np.array([7]), 1: np.array([1, 2, 3])}, np.random.RandomState(0)))
    assert set(pairs[::2].ravel()) == {1, 2, 3} and (pairs[::2, 0] != pairs[::2, 1]).all()
    assert set(pairs[1::2].ravel()) == {1, 2, 3, 7}
