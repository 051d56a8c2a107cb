"""Pictures to embeddings, similarities and decisions, against what NumPy makes of the same pixels."""
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import use_files as files

from common.errors import DataError, UserError
from datasets.images import UnreadableImage
from datasets.recordio import RecordWriter
from datasets.training_set import write_training_set
from recognition.embedding_files import write_embeddings
from recognition.faces import FaceFinder
from recognition.pictures import Picture, Records, find_pictures, picture_file
from recognition.recogniser import Recogniser
from recognition.threshold import Threshold


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return files.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(tmp_path):
    """a/0.png, a/1.png, b/deep/2.png, 3.png and what is no picture."""
    images = files.draw_images(4)
    for name, image in zip(("a/0.png", "a/1.png", "b/deep/2.png", "3.png"), images):
        files.write_image(tmp_path / "in" / name, image)
    (tmp_path / "in" / "note.txt").write_text("no picture")
    return tmp_path / "in"


def recogniser(model, **settings):
    return Recogniser(model, **dict(dict(image_shape=files.SIZE, batch_size=3), **settings))


class Faces:
    """In place of a detector: three faces whose landmarks are the template's, moved and enlarged."""

    def __init__(self):
        self.seen = []

    def __call__(self, image):
        self.seen.append(image.shape)
        boxes = np.array([[0, 0, 60, 60, 0.9], [100, 60, 300, 260, 0.8], [350, 10, 380, 40, 0.99]])
        boxes[:, :4] *= image.shape[1] / 400
        sides = (boxes[:, 2] - boxes[:, 0])[:, None, None]
        return boxes, files.TEMPLATE / 112 * sides + boxes[:, None, :2]


@pytest.fixture
def photograph():
    """(300, 400, 3) uint8 RGB: a green face at 100,60 of 200x200 pixels, a red one at 0,0 of 60x60."""
    image = np.full((300, 400, 3), 128, np.uint8)
    image[60:260, 100:300] = (20, 220, 40)
    image[:60, :60] = (230, 30, 30)
    return image


class TestFaces:
    def test_the_main_face_comes_first_then_the_larger(self, photograph):
        found = FaceFinder((32, 32), Faces()).find(np.ascontiguousarray(photograph[:, :, ::-1]), "x", most=9)
        assert [face.box.tolist() for face in found] == [[100, 60, 300, 260], [0, 0, 60, 60]]  # the third is too small
        for face, colour in zip(found, ((20, 220, 40), (230, 30, 30))):
            assert face.crop.shape == (32, 32, 3)
            assert (face.crop[2:-2, 2:-2] == colour).all()

    def test_as_many_as_asked_for(self, photograph):
        finder = FaceFinder((32, 32), Faces(), min_size=20)
        assert [len(finder.find(photograph, "x", most)) for most in (1, 2, 3, 4)] == [1, 2, 3, 3]
        assert len(finder.find(photograph, "x")) == 1

    def test_large_photographs_are_searched_small_and_cut_large(self, photograph):
        large, faces = cv2.resize(photograph, (4000, 3000), interpolation=cv2.INTER_NEAREST), Faces()
        face = FaceFinder((32, 32), faces).find(large, "x")[0]
        assert faces.seen == [(1200, 1600, 3)]
        np.testing.assert_allclose(face.box, [1000, 600, 3000, 2600])
        thin = np.zeros((2, 4000, 3), np.uint8)
        with pytest.raises(DataError, match="^x: no face found"):  # landmarks that lie outside of it
            FaceFinder((32, 32), faces).find(thin, "x")
        assert faces.seen[-1] == (1, 1600, 3)

    def test_aligned_faces_are_taken_as_they_are(self):
        faces, image = Faces(), files.draw_images(1)[0]
        for detector in (None, faces):
            face, = FaceFinder(files.SIZE, detector).find(image[:, :, ::-1], "x", most=3)
            np.testing.assert_array_equal(face.crop, image)
            assert face.box is None
        assert faces.seen == []

    def test_pictures_without_a_face(self, photograph):
        with pytest.raises(DataError, match="^x: 400x300 pixels; expected an aligned face of 32x32; .*--detector"):
            FaceFinder((32, 32)).find(photograph, "x")
        with pytest.raises(DataError, match="^x: no face found of at least 201 pixels$"):
            FaceFinder((32, 32), Faces(), min_size=201).find(photograph, "x")
        with pytest.raises(DataError, match="^x: no face found"):
            FaceFinder((32, 32), lambda image: (np.empty((0, 5)), np.empty((0, 5, 2)))).find(photograph, "x")
        in_one_place = np.array([[0, 0, 90, 90, 1.]]), np.full((1, 5, 2), 7.)
        with pytest.raises(DataError, match="^x: no face found"):
            FaceFinder((32, 32), lambda image: in_one_place).find(photograph, "x")

    def test_all_kinds_of_pictures(self, folder):
        finder, expected = FaceFinder(files.SIZE), files.draw_images(4)[3]
        path = folder / "3.png"
        for picture in (path, str(path), path.read_bytes(), expected, expected[:, ::-1][:, ::-1]):
            np.testing.assert_array_equal(finder.decode(picture, "x"), expected[:, :, ::-1])

    @pytest.mark.parametrize("picture, message", [
        (b"", "^x: begins with b''"), (b"GIF89a", "as no JPEG, PNG, BMP or WebP does"), (b"\xff\xd8\xff", "header"),
        (b"\x89PNG" + bytes(40), "cannot be decoded"), (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (np.zeros((4, 4, 3)), "float64"), (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        ("none.jpg", "none.jpg: cannot be read")])
    def test_what_is_no_picture(self, picture, message):
        with pytest.raises(DataError, match=message):
            FaceFinder().decode(picture, "x")

    def test_too_many_pixels_are_not_decoded(self, monkeypatch):
        finder = FaceFinder()
        monkeypatch.setattr("recognition.faces.decode_bgr", lambda data, where: pytest.fail("decoded"))
        with pytest.raises(DataError, match="^x: 101x50 pixels; at most 0.005 million are taken$"):
            finder.decode(files.encode(np.zeros((50, 101, 3), np.uint8), ".jpg"), "x", 100 * 50)
        monkeypatch.undo()
        assert finder.decode(files.encode(np.zeros((50, 100, 3), np.uint8)), "x", 100 * 50).shape == (50, 100, 3)

    def test_detectors_that_cannot_be_used(self, tmp_path):
        good = files.write_detector(tmp_path / "mtcnn")
        for settings, message in ((dict(detector=tmp_path), "det1"), (dict(detector=good, min_size=11), "at least 12"),
                                  (dict(detector=Faces(), image_shape=(9, 7)), "square")):
            with pytest.raises(UserError, match=message):
                FaceFinder(**settings)

    def test_with_networks_of_the_cascade(self, tmp_path):
        image = np.full((32, 32, 3), (180, 140, 200), np.uint8)
        photograph = files.photograph_of(image, 6, 80)
        finder = FaceFinder((32, 32), str(files.write_detector(tmp_path / "mtcnn")))
        face, = finder.find(photograph, "x")
        low, high = np.maximum(face.box[:2], 48), np.minimum(face.box[2:], 304)  # the middle of 48 to 304 is bright
        assert (high - low).prod() > 0.5 * 256 ** 2
        assert (face.crop == image[0, 0, ::-1]).all(axis=2).mean() > 0.5
        with pytest.raises(DataError, match="no face found"):
            finder.find(np.zeros_like(photograph), "x")


class TestEmbedding:
    @pytest.mark.parametrize("flip", ["sum", "none", "concat"])
    @pytest.mark.parametrize("raw", [False, True])
    def test_embeddings(self, model, flip, raw):
        faces, images = recogniser(model, flip=flip), files.draw_images(7)
        found = faces.embed_crops(images, raw)
        expected = files.reference(images, flip, raw)
        assert found.shape == (7, faces.emb_size) == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())

    def test_one_picture_or_several(self, model, folder):
        faces, expected = recogniser(model), files.reference(files.draw_images(4))
        names = ["a/0.png", "a/1.png", "b/deep/2.png", "3.png"]
        many = faces.embed([folder / name for name in names])
        assert many.dtype == np.float32
        np.testing.assert_allclose(many, expected, atol=1e-5)
        for picture in (str(folder / "3.png"), folder / "3.png", (folder / "3.png").read_bytes(),
                        files.draw_images(4)[3]):
            np.testing.assert_allclose(faces.embed(picture), expected[3], atol=1e-5)
        np.testing.assert_allclose(faces.embed(files.draw_images(4)), expected, atol=1e-5)
        assert faces.embed([]).shape == (0, 6)

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
    def test_all_pictures_in_order_those_without_a_face_told(self, model, folder, batch_size):
        (folder / "a" / "2.png").write_bytes(b"no image")
        files.write_image(folder / "b" / "large.png", np.zeros((50, 40, 3), np.uint8))
        faces, pictures = recogniser(model, batch_size=batch_size), find_pictures([folder, folder / "3.png"])
        found = list(faces.embed_all(pictures, progress=False))
        assert [Path(one.name).relative_to(folder).as_posix() for one in found] == [
            "3.png", "a/0.png", "a/1.png", "a/2.png", "b/large.png", "b/deep/2.png", "3.png"]
        assert [one.label for one in found if not one.problem] == ["", "a", "a", "deep", ""]
        assert "2.png: begins with" in found[3].problem and "40x50 pixels" in found[4].problem
        expected = files.reference(files.draw_images(4)[[3, 0, 1, 2, 3]])
        np.testing.assert_allclose(np.concatenate([one.embeddings for one in found]), expected, atol=1e-5)

    def test_several_faces_of_a_picture(self, model, photograph):
        faces = recogniser(model, detector=Faces(), batch_size=2)
        pictures = [Picture(str(i), lambda: (files.encode(photograph), "")) for i in range(3)]
        found = list(faces.embed_all(pictures, most=2, progress=False))
        assert [one.embeddings.shape for one in found] == [(2, 6)] * 3
        crops = np.concatenate([[face.crop for face in one.faces] for one in found])
        np.testing.assert_allclose(np.concatenate([one.embeddings for one in found]), files.reference(crops), atol=1e-4)

    def test_pictures_are_read_as_they_are_needed(self, model):
        read, data = [], files.encode(files.draw_images(1)[0])

        class Many:
            def __len__(self):
                return 10 ** 6

            def __iter__(self):
                return (Picture(str(i), lambda i=i: (read.append(i) or data, "")) for i in range(10 ** 6))

        for detector, most in ((None, 100), (Faces(), 20)):  # photographs are larger: fewer are read ahead
            read.clear()
            stream = recogniser(model, detector=detector).embed_all(Many(), progress=False)
            assert [next(stream).name for _ in range(5)] == list("01234")
            stream.close()
            assert len(read) <= max(most, 3 * os.cpu_count())

    def test_many_pictures_that_cannot_be_used(self, model):
        """They are told as they come, not when the next face does."""
        def pictures():
            yield from (Picture(str(i), lambda: (b"none", "")) for i in range(10 ** 6))

        class Many:
            __len__, __iter__ = (lambda self: 10 ** 6), (lambda self: pictures())

        stream = recogniser(model).embed_all(Many(), progress=False)
        assert next(stream).problem
        stream.close()

    def test_embeddings_without_a_direction(self, model):
        black = recogniser(model, flip="none")
        black._embedder = lambda images: np.zeros((len(images), 6))
        with pytest.raises(UserError, match="zero or not finite"):
            black.embed_crops(files.draw_images(2))


class TestComparison:
    def test_similarity_and_decision(self, model, folder):
        first, second = files.reference(files.draw_images(4)[:2])
        expected = float(first @ second)
        paths = folder / "a" / "0.png", folder / "a" / "1.png"
        found = recogniser(model).compare(*paths)
        assert found.similarity == pytest.approx(expected, abs=1e-5)
        assert found.same is None and found.verdict() == "" and found.names == tuple(map(str, paths))
        np.testing.assert_array_equal(np.stack(found.crops), files.draw_images(4)[:2])
        for threshold, verdict in ((expected - 1e-3, "same person"), (expected + 1e-3, "different people")):
            found = recogniser(model, threshold=threshold).compare(*paths)
            assert found.verdict() == verdict and found.threshold == Threshold(threshold)
        assert recogniser(model, threshold=found.similarity).compare(*paths).same is True  # at it

    def test_picture(self, model, folder, recwarn):
        files.write_image(folder / "$a_{$^" / ("long" * 20 + ".png"), files.draw_images(1)[0])
        odd = folder / "$a_{$^" / ("long" * 20 + ".png")
        found = recogniser(model, threshold=0.5).compare(odd, folder / "3.png")
        image = cv2.imdecode(np.frombuffer(found._repr_png_(), np.uint8), 1)
        assert image.shape[0] > 300 and image.shape[1] > 600
        for side, crop in zip((image[120:380, 60:330], image[120:380, 450:720]), found.crops):
            np.testing.assert_allclose(side.mean(axis=(0, 1))[::-1], crop.mean(axis=(0, 1)), atol=30)
        assert "crops" not in repr(found)

    @pytest.mark.parametrize("threshold", [1.5, -2, float("nan")])
    def test_thresholds_that_are_none(self, model, threshold):
        with pytest.raises(UserError, match="expected a cosine"):
            recogniser(model, threshold=threshold)

    def test_unknown_flip(self, model):
        with pytest.raises(UserError, match="concat, none, sum"):
            recogniser(model, flip="both")


class TestRecords:
    def write(self, folder, images, size=files.SIZE):
        write_training_set(folder, [[files.encode(image, ".jpg") for image in part] for part in images], size)

    def test_a_training_set_in_record_order(self, model, tmp_path):
        images = files.draw_images(5)
        self.write(tmp_path, (images[:2], images[2:]))
        pictures = Records(tmp_path / "train.rec")
        assert len(pictures) == 5
        found = list(recogniser(model).embed_all(pictures, progress=False))
        assert [one.name.rpartition(" ")[2] for one in found] == list("12345")
        assert [one.label for one in found] == ["0", "0", "1", "1", "1"]
        embeddings = np.concatenate([one.embeddings for one in found])
        np.testing.assert_allclose(embeddings, files.reference(images), atol=0.05)

    def test_an_index_that_is_cut(self, tmp_path):
        self.write(tmp_path, [files.draw_images(3)])
        index = tmp_path / "train.idx"
        index.write_text("".join(index.read_text().splitlines(keepends=True)[:3]))
        with pytest.raises(DataError, match=r"train.idx: its records end at byte \d+, .*train.rec at byte"):
            Records(tmp_path / "train.rec")

    def test_other_record_files(self, model, tmp_path):
        """Without identity records, not in order, a record without an image, one that is damaged."""
        images = files.draw_images(3)
        with RecordWriter(tmp_path / "some.rec", tmp_path / "some.idx") as writer:
            writer.write(7, 2.5, files.encode(images[0]))
            writer.write(3, 1, files.encode(images[1]))
            writer.write(5, (1, 2, 3), b"")
            writer.write(4, 9, b"is no image")
            writer.write(6, (4, 5), files.encode(images[2]))
        found = list(recogniser(model).embed_all(find_pictures([tmp_path / "some.rec"]), progress=False))
        assert [one.name.rpartition(" ")[2] for one in found] == list("34567")
        assert [one.label for one in found if not one.problem] == ["1", "4", "2.5"]
        assert found[1].problem.startswith(f"{tmp_path}/some.rec record 4: begins with b'is no im'")
        assert found[2].problem == f"{tmp_path}/some.rec record 5: holds no image"
        np.testing.assert_allclose(np.concatenate([one.embeddings for one in found]),
                                   files.reference(images[[1, 2, 0]]), atol=1e-5)

    def test_files_that_cannot_be_used(self, tmp_path):
        self.write(tmp_path, (files.draw_images(1),))
        for paths, message in ((["none.rec"], "none.rec: cannot be read"), (["a.rec", "b.jpg"], "one .rec file"),
                               ([tmp_path / "train.rec", tmp_path], "one .rec file")):
            with pytest.raises(UserError, match=message):
                find_pictures(paths)
        (tmp_path / "train.idx").unlink()
        with pytest.raises(DataError, match="train.idx: cannot be read"):
            find_pictures([tmp_path / "train.rec"])
        with RecordWriter(tmp_path / "empty.rec", tmp_path / "empty.idx") as writer:
            writer.write(0, (1, 1), b"")
        with pytest.raises(DataError, match="empty.rec: no image in 1 records"):
            find_pictures([tmp_path / "empty.rec"])

    def test_folders_without_pictures(self, tmp_path):
        (tmp_path / "none").mkdir()
        with pytest.raises(DataError, match="none: no images; expected .jpg"):
            find_pictures([tmp_path / "none"])
        with pytest.raises(UnreadableImage, match="missing.jpg: cannot be read: No such file"):
            find_pictures([tmp_path / "missing.jpg"])[0].read()


class TestEmbeddingFiles:
    def test_rows_and_list(self, model, folder, tmp_path):
        (folder / "a" / "2.png").write_bytes(b"no image")
        pictures = find_pictures([folder])
        written = write_embeddings(tmp_path / "out" / "e.npy", recogniser(model), pictures, progress=False)
        assert written[:3] == (4, 6, 1) and "2.png" in written.problems[0]
        found = np.load(tmp_path / "out" / "e.npy")
        assert found.dtype == np.float32 and found.flags.c_contiguous
        np.testing.assert_allclose(found, files.reference(files.draw_images(4)[[3, 0, 1, 2]]), atol=1e-5)
        lines = (tmp_path / "out" / "e.csv").read_text().splitlines()
        assert lines[0] == "row,image,label,problem" and lines[1] == f"0,{folder}/3.png,,"
        assert lines[2:4] == [f"1,{folder}/a/0.png,a,", f"2,{folder}/a/1.png,a,"]
        assert lines[4].startswith(f",{folder}/a/2.png,") and lines[5] == f"3,{folder}/b/deep/2.png,deep,"
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["e.csv", "e.npy"]

    def test_lengths_are_kept(self, model, folder, tmp_path):
        write_embeddings(tmp_path / "e.npy", recogniser(model), find_pictures([folder]), raw=True, progress=False)
        np.testing.assert_allclose(np.load(tmp_path / "e.npy"),
                                   files.reference(files.draw_images(4)[[3, 0, 1, 2]], raw=True), rtol=1e-3, atol=0.05)

    @pytest.mark.parametrize("rows", [0, 1, 9, 10, 10 ** 12])
    def test_headers_are_of_one_length(self, rows, tmp_path):
        from recognition.embedding_files import _write_header
        with open(tmp_path / "h", "wb") as file:
            _write_header(file, rows, 10 ** 5)
        assert (tmp_path / "h").stat().st_size == 128

    def test_nothing_is_written(self, model, folder, tmp_path):
        (tmp_path / "e.npy").write_text("old")
        bad = [picture_file(folder / "note.txt")] * 2
        for path, pictures, message in (("e.npy", bad, "none of 2 pictures can be used; the first: .*note.txt: begins"),
                                        ("e.txt", bad, "ends in .npy")):
            with pytest.raises(UserError, match=message):
                write_embeddings(tmp_path / path, recogniser(model), pictures, progress=False)
        assert (tmp_path / "e.npy").read_text() == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["e.npy", "in"]
