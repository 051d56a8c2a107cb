"""Galleries: who is nearest, by NumPy; what is added and removed; files that are damaged or of another model. And the
thresholds at which unknown faces are rejected."""
import json
import zipfile

import numpy as np
import pytest
import use_files as files
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError, UserError
from common.files import hash_file
from datasets.embedding_store import hash_model
from eval.results import make_entry, write_results
from recognition.gallery import Gallery, load_gallery
from recognition.recogniser import Recogniser
from recognition.threshold import Threshold, make_threshold, read_threshold


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def draw(names, seed=0, dimensions=8):
    """A gallery with an embedding for each of the names, and the embeddings (N, D) float32."""
    rows = unit(np.random.RandomState(seed).normal(size=(len(names), dimensions))).astype(np.float32)
    gallery = Gallery("hash", "sum", "models/r100,1")
    for number, (name, row) in enumerate(zip(names, rows)):
        gallery.add(name, str(number), row)
    return gallery, rows


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "ü", "人", "d e"]), min_size=1, max_size=12), st.integers(0, 1000))
def test_search_is_by_the_mean_of_each_identity(names, seed):
    gallery, rows = draw(names, seed)
    probes = unit(np.random.RandomState(seed + 1).normal(size=(3, 8)))
    means = {name: unit(rows[[own == name for own in names]].astype(np.float64).mean(axis=0)) for name in names}
    for probe, found in zip(probes, gallery.search(probes, Threshold(0.1), most=3)):
        expected = sorted(means, key=lambda name, probe=probe: -(probe @ means[name]))[:3]
        assert [match.name for match in found] == expected
        np.testing.assert_allclose([match.similarity for match in found], [probe @ means[name] for name in expected])
        assert [match.accepted for match in found] == [bool(probe @ means[name] >= 0.1) for name in expected]
    assert {match.accepted for found in gallery.search(probes) for match in found} == {None}


def test_the_order_of_enrolment_changes_nothing(tmp_path):
    names = ["a", "b", "a", "c", "a"]
    gallery, rows = draw(names)
    turned = Gallery("hash", "sum", "models/r100,1")
    for number in (4, 2, 0, 3, 1):
        turned.add(names[number], str(number), rows[number])
    assert gallery.search(rows) == turned.search(rows)
    gallery.save(tmp_path / "1.npz")
    turned.save(tmp_path / "2.npz")
    assert [gallery.identities(), len(gallery)] == [dict(a=3, b=1, c=1), 5]
    with np.load(tmp_path / "1.npz", allow_pickle=False) as one, np.load(tmp_path / "2.npz") as other:
        assert all(np.array_equal(one[name], other[name]) for name in one.files)
        np.testing.assert_array_equal(one["embeddings"], rows[[0, 2, 4, 1, 3]])
        assert one["names"].tolist() == ["a", "a", "a", "b", "c"] and str(one["model"]) == "hash"


def test_add_replace_remove():
    gallery, rows = draw(["a", "b"])
    gallery.search(rows)
    gallery.add("a", "0", rows[1])
    assert len(gallery) == 2 and gallery.search(rows[1:])[0][0].name in "ab"
    assert gallery.search(rows[:1])[0][0].similarity == pytest.approx(rows[0] @ rows[1], abs=1e-6)
    gallery.remove("a")
    assert gallery.identities() == {"b": 1} and ("a", "0") not in gallery and ("b", "1") in gallery
    assert gallery.search(rows[1:])[0] == gallery.search(rows[1:], most=1)[0]
    with pytest.raises(UserError, match="no identity 'a' among the 1 of the gallery, such as b$"):
        gallery.remove("a")
    gallery.remove("b")
    with pytest.raises(UserError, match="gallery is empty"):
        gallery.search(rows)


def test_saved_and_loaded(tmp_path):
    gallery, rows = draw(["ü", "", "a,b\n", "人" * 200])
    gallery.save(tmp_path / "new" / "g.npz")
    found = load_gallery(tmp_path / "new" / "g.npz")
    assert found.identities() == gallery.identities() and found.search(rows, most=9) == gallery.search(rows, most=9)
    assert (found.model, found.flip, found.model_name) == ("hash", "sum", "models/r100,1")
    for name in list(gallery.identities()):
        gallery.remove(name)
    gallery.save(tmp_path / "g.npz")
    assert load_gallery(tmp_path / "g.npz").identities() == {}


def test_another_model_or_flip():
    gallery = draw(["a"])[0]
    gallery.check("hash", "sum", "g.npz")
    with pytest.raises(UserError, match=r"^g.npz: was made with another model \(models/r100,1, hash; this one is oth"):
        gallery.check("other", "sum", "g.npz")
    with pytest.raises(UserError, match="^g.npz: was made with --flip sum, not none$"):
        gallery.check("hash", "none", "g.npz")


def test_damaged_files(tmp_path):
    draw(["a", "b"])[0].save(tmp_path / "g.npz")
    data = (tmp_path / "g.npz").read_bytes()
    random = np.random.RandomState(0)
    for number in range(120):
        damaged = bytearray(data)
        if number % 2:
            damaged = damaged[:random.randint(len(data))]
        else:
            damaged[random.randint(len(data))] ^= 1 << random.randint(8)
        (tmp_path / "bad.npz").write_bytes(damaged)
        try:
            load_gallery(tmp_path / "bad.npz")
        except DataError as error:
            assert str(error).startswith(f"{tmp_path}/bad.npz: no gallery, or damaged")
    np.savez_compressed(tmp_path / "bad.npz", names=np.zeros(10 ** 6))
    with pytest.raises(DataError, match=r"bad.npz: no gallery, or damaged: its \d+ bytes announce 8000128 of numbers"):
        load_gallery(tmp_path / "bad.npz")
    with pytest.raises(DataError, match="no such gallery; make it with search.py enrol"):
        load_gallery(tmp_path / "none.npz")


@pytest.mark.parametrize("changed", [
    dict(names=np.array(["a"])), dict(names=np.array([1, 2])), dict(embeddings=np.ones((2, 8), np.float32)),
    dict(embeddings=np.eye(2, 8)), dict(embeddings=np.full((2, 8), np.nan, np.float32)),
    dict(embeddings=np.ones(2, np.float32)), dict(digests=np.array([["a"], ["b"]])), dict(model=np.array(["a", "b"])),
    dict(names=np.array(["a", None], object)), dict(flip=None)], ids=str)
def test_other_files(tmp_path, changed):
    """Among them one with a pickle, which is never read."""
    draw(["a", "b"])[0].save(tmp_path / "g.npz")
    with np.load(tmp_path / "g.npz") as file:
        values = {**{name: file[name] for name in file.files}, **changed}
    np.savez(tmp_path / "bad.npz", **{name: value for name, value in values.items() if value is not None})
    with pytest.raises(DataError, match="bad.npz: no gallery, or damaged"):
        load_gallery(tmp_path / "bad.npz")
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as file:
        file.writestr("other.txt", "no arrays")
    with pytest.raises(DataError, match="bad.npz: no gallery, or damaged"):
        load_gallery(tmp_path / "bad.npz")


class TestEnrolment:
    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory):
        return files.write_model(tmp_path_factory.mktemp("model"))

    @pytest.fixture
    def faces(self, model):
        return Recogniser(model, image_shape=files.SIZE, batch_size=4)

    @pytest.fixture
    def people(self, tmp_path):
        images = files.draw_images(6)
        for name, image in zip(("Ada/1.png", "Ada/2.png", "Grace/1.png", "Alan.png"), images):
            files.write_image(tmp_path / "people" / name, image)
        (tmp_path / "people" / "bad.jpg").write_bytes(b"")
        (tmp_path / "people" / ".hidden.png").write_bytes(b"")
        (tmp_path / "people" / "Nobody").mkdir()
        return tmp_path / "people"

    def test_folders_and_single_pictures(self, faces, people, tmp_path):
        done = faces.enrol(people, tmp_path / "g.npz", progress=False)
        assert done.added == 4 and done.known == 0 and len(done.left_out) == 1 and "bad.jpg" in done.left_out[0]
        assert done.gallery.identities() == {"Ada": 2, "Alan": 1, "Grace": 1}
        rows = files.reference(files.draw_images(6))
        mean = unit(rows[:2].sum(axis=0))
        best, second, *_ = faces.search(people / "Ada" / "1.png", tmp_path / "g.npz")
        assert best.name == "Ada" and best.similarity == pytest.approx(rows[0] @ mean, abs=1e-5)
        assert second.similarity == pytest.approx(max(rows[0] @ rows[2], rows[0] @ rows[3]), abs=1e-5)
        assert best.accepted is None
        faces.threshold = make_threshold(0.9999)
        probe = files.draw_images(6)[5]
        assert [match.accepted for match in faces.search(probe, done.gallery)] == [False] * 3
        assert faces.search(people / "Alan.png", done.gallery)[0][::2] == ("Alan", True)

    def test_again_adds_what_is_new(self, faces, people, tmp_path, monkeypatch):
        faces.enrol(people, tmp_path / "g.npz", progress=False)
        files.write_image(people / "Ada" / "3.png", files.draw_images(6)[4])
        files.write_image(people / "Ada" / "copy.png", files.draw_images(6)[0])
        files.write_image(people / "Edsger.png", files.draw_images(6)[5])
        (people / "Grace" / "1.png").rename(people / "Grace" / "renamed.png")
        embedded = []
        real = faces.embed_crops
        monkeypatch.setattr(faces, "embed_crops", lambda crops, raw: embedded.extend(crops) or real(crops, raw))
        done = faces.enrol(people, tmp_path / "g.npz", progress=False)
        assert (done.added, done.known, len(embedded)) == (2, 5, 2)
        assert load_gallery(tmp_path / "g.npz").identities() == {"Ada": 3, "Alan": 1, "Edsger": 1, "Grace": 1}

    def test_a_run_that_is_stopped_keeps_what_it_has(self, faces, people, tmp_path, monkeypatch):
        real, calls = faces.embed_crops, []

        def stopping(crops, raw):
            calls.append(crops)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(crops, raw)

        faces._batch_size = 2
        monkeypatch.setattr(faces, "embed_crops", stopping)
        with pytest.raises(KeyboardInterrupt):
            faces.enrol(people, tmp_path / "g.npz", progress=False)
        assert len(load_gallery(tmp_path / "g.npz")) == 2
        monkeypatch.undo()
        done = faces.enrol(people, tmp_path / "g.npz", progress=False)
        assert (done.added, done.known) == (2, 2)

    def test_a_gallery_in_memory(self, faces, people, model, tmp_path):
        gallery = Gallery(faces.model_hash, "sum")
        assert faces.enrol(people, gallery, progress=False).gallery is gallery
        assert len(gallery) == 4 and gallery.model == hash_model(model)

    def test_another_model_is_refused(self, faces, people, tmp_path):
        faces.enrol(people, tmp_path / "g.npz", progress=False)
        before = (tmp_path / "g.npz").read_bytes()
        (tmp_path / "other").mkdir()
        other = Recogniser(files.write_model(tmp_path / "other", seed=1), image_shape=files.SIZE)
        for call in (lambda: other.enrol(people, tmp_path / "g.npz"), lambda: other.search("x", tmp_path / "g.npz")):
            with pytest.raises(UserError, match="g.npz: was made with another model"):
                call()
        with pytest.raises(UserError, match="^the gallery: was made with another model"):
            other.search("x", load_gallery(tmp_path / "g.npz"))
        assert (tmp_path / "g.npz").read_bytes() == before

    def test_folders_without_people(self, faces, tmp_path):
        (tmp_path / "empty").mkdir()
        for name, message in (("empty", "no images"), ("none", "no such folder")):
            with pytest.raises(DataError, match=message):
                faces.enrol(tmp_path / name, tmp_path / "g.npz")
        assert not (tmp_path / "g.npz").exists()


class TestThresholds:
    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory):
        return files.write_model(tmp_path_factory.mktemp("model"))

    @pytest.fixture
    def results(self, model, tmp_path):
        def entry(target, digest, cosines, **more):
            exact = [dict(asked=far, threshold=cosine, enough=far > 1e-4)
                     for far, cosine in zip((.1, 1e-3, 1e-4), cosines)]
            more = dict(dict(flip="sum", model="models/m,1", exact_tar_at_far=exact), **more)
            return make_entry("verification", target, target, {}, trace=dict(model_sha256=digest), **more)

        own = hash_file(f"{model.partition(',')[0]}-0001.params")
        write_results(tmp_path, [entry("lfw", own, (.2, .3, .4)), entry("lfw", "other", (.5, .6, .7)),
                                 entry("cfp", own, (.25, None, .4), flip="none"), entry("odd", own, ("a", 7, .4)),
                                 entry("old", own, (), exact_tar_at_far=1)])
        return tmp_path / "results.json"

    def test_of_this_model_at_this_far(self, model, results):
        found = read_threshold(results, 1e-3, model, target="lfw")
        assert found == Threshold(.3, 1e-3, "lfw") and str(found) == "0.3000 (FAR 0.001 on lfw)"
        assert read_threshold(results, 0.1, model, "none", "cfp").cosine == .25
        assert found.decide(np.array([.2999, .3, .4])).tolist() == [False, True, True]
        assert found.strangers(100) == pytest.approx(1 - .999 ** 100) and Threshold(.3).strangers(5) is None

    @pytest.mark.parametrize("settings, message", [
        (dict(far=0.01), "no threshold at FAR 0.01; those on lfw are at 0.001, 0.1$"),
        (dict(far=1e-4), "lfw has too few impostor pairs for FAR 0.0001; usable are 0.001, 0.1$"),
        (dict(target=None), "verifications on cfp, lfw, odd, old; choose one with --target$"),
        (dict(target="ytf"), "no verification on 'ytf', only on cfp, lfw, odd, old$"),
        (dict(target="cfp"), "its threshold is for --flip none, not sum$"),
        (dict(target="cfp", flip="none"), "too few impostor pairs for FAR 0.001; usable are 0.1$"),
        (dict(target="old"), "verification on old has no exact thresholds; repeat it$"),
        (dict(target="odd"), "threshold 7 at FAR 0.001 on odd; expected a cosine$")])
    def test_what_the_file_does_not_say(self, model, results, settings, message):
        with pytest.raises(UserError, match=message):
            read_threshold(results, **dict(dict(far=1e-3, model=model, target="lfw"), **settings))

    def test_another_model(self, results, tmp_path):
        (tmp_path / "other").mkdir()
        with pytest.raises(UserError, match="holds no verification of .*/other/model,1, only of models/m,1"):
            read_threshold(results, 1e-3, files.write_model(tmp_path / "other", seed=1))

    def test_other_files(self, model, tmp_path):
        (tmp_path / "results.json").write_text(json.dumps([]))
        with pytest.raises(UserError, match="holds no verification of .*, only of none"):
            read_threshold(tmp_path / "results.json", 1e-3, model)
        (tmp_path / "results.json").write_text("{")
        with pytest.raises(DataError, match="not JSON"):
            read_threshold(tmp_path / "results.json", 1e-3, model)
