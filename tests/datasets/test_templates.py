"""Template sets: written, read, damaged."""
import pytest
from pictures import encode, picture

from common.errors import DataError, UserError
from datasets.pairs import Pair
from datasets.templates import choose_frames, list_frames, load_templates, write_template_set
from datasets.training_set import TrainingSet


@pytest.fixture
def videos(tmp_path, jpegs):
    """Three videos with 2, 3 and 4 frames. Returns {name: folder}."""
    images = iter(jpegs)
    folders = {}
    for name, count in (("Ann/0", 2), ("Ann/1", 3), ("Bo/0", 4)):
        folders[name] = tmp_path / "videos" / name
        folders[name].mkdir(parents=True)
        for frame in range(8, 8 + count):
            (folders[name] / f"{frame}.jpg").write_bytes(next(images))
        (folders[name] / "readme.txt").touch()
    return folders


@pytest.fixture
def pairs(videos):
    return [Pair(videos["Bo/0"], videos["Ann/0"], False), Pair(videos["Ann/0"], videos["Ann/1"], True)]


@pytest.fixture
def folder(tmp_path, pairs):
    write_template_set(tmp_path / "set", pairs, progress=False)
    return tmp_path / "set"


def test_round_trip(folder, jpegs):
    found = load_templates(folder)
    assert found.names == ["Bo/0", "Ann/0", "Ann/1"]
    assert found.pairs.tolist() == [[0, 1], [1, 2]] and found.issame.tolist() == [False, True]
    assert [found.images.read(i) for i in range(9)] == list(zip(
        jpegs[5:9] + jpegs[:5], [0] * 4 + [1] * 2 + [2] * 3))
    found.images.close()


def test_it_is_a_training_set(folder):
    training_set = TrainingSet(folder)
    assert (training_set.num_classes, training_set.num_identities, training_set.image_shape) == (3, 3, (112, 112))
    training_set.close()
    assert sorted(path.name for path in folder.iterdir()) == [
        "pairs.txt", "property", "templates.txt", "train.idx", "train.rec"]


def test_frames_in_the_order_of_their_numbers(videos):
    assert [path.name for path in list_frames(videos["Bo/0"])] == ["8.jpg", "9.jpg", "10.jpg", "11.jpg"]
    assert list_frames(videos["Bo/0"] / "none") == []


@pytest.mark.parametrize("count", [1, 2, 7, 100])
@pytest.mark.parametrize("most", [1, 2, 3, 7, 99])
def test_chosen_frames_are_evenly_spaced(count, most):
    chosen = choose_frames(list(range(count)), most)
    assert len(chosen) == min(count, most) == len(set(chosen)) and chosen == sorted(chosen)
    steps = [b - a for a, b in zip(chosen, chosen[1:])]
    assert not steps or max(steps) - min(steps) <= 1
    assert abs(chosen[0] - (count - 1 - chosen[-1])) <= 1  # as far from the start as from the end


def test_bad_frame_numbers(pairs, tmp_path):
    with pytest.raises(UserError, match="max-frames 0; expected at least 1"):
        write_template_set(tmp_path / "out", pairs, max_frames=0)


def test_nothing_is_written_of_bad_videos(videos, pairs, tmp_path):
    with pytest.raises(DataError, match="no pairs"):
        write_template_set(tmp_path / "out", [])
    (videos["Ann/1"] / "9.jpg").write_bytes(encode(picture(1, (96, 96))))
    with pytest.raises(DataError, match="Ann/1/9.jpg: the image is 96x96; expected 112x112"):
        write_template_set(tmp_path / "out", pairs, progress=False)
    for path in videos["Ann/1"].glob("*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match="Ann/1: no frames"):
        write_template_set(tmp_path / "out", pairs, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_nothing_is_replaced(folder, pairs):
    with pytest.raises(UserError, match="set: exists already; name a new folder"):
        write_template_set(folder, pairs)


@pytest.mark.parametrize("name, text, message", [
    ("templates.txt", "0\tBo/0\n1\tAnn/0\n", r"pairs.txt line 2: found '1 2 1'; .* classes below 2"),
    ("templates.txt", "0\tBo/0\n2\tAnn/0\n", r"templates.txt line 2: found '2\\tAnn/0'; expected '1<TAB>name', the"),
    ("templates.txt", "0\ta\n1\tb\tc\n2\tc\n", "templates.txt line 2"),
    ("templates.txt", "0\ta\n1\tb\n2\t\x1b[2Jc\n", r"templates.txt line 3: found '2\\t\\x1b\[2Jc'"),
    ("templates.txt", "0\n", "templates.txt line 1"),
    ("templates.txt", "0\ta\n1\tb\n2\tc\n3\td\n", "templates.txt: 4 templates; `property` says 3 classes"),
    ("pairs.txt", "", "pairs.txt: no pairs"),
    ("pairs.txt", "0 1 2\n", "pairs.txt line 1: found '0 1 2'"),
    ("pairs.txt", "0 -1 1\n", "pairs.txt line 1"),
    ("pairs.txt", "0 1\n", "pairs.txt line 1"),
    ("pairs.txt", "0 ² 1\n", "pairs.txt line 1"),
    ("property", "3;112;112", "property: found"),
])
def test_parts_that_do_not_fit(folder, name, text, message):
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_templates(folder)


@pytest.mark.parametrize("name", ["templates.txt", "pairs.txt", "property", "train.rec", "train.idx"])
def test_parts_that_are_missing(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        load_templates(folder)
