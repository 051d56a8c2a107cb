"""IJB's metadata, the file of features, and both commands on rendered faces in the official layout."""
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from ijb_folder import write_folder

from common.errors import DataError, UserError
from common.face_align import TEMPLATE, align
from datasets.rendered_face import draw, landmarks
from datasets.rendered_parameters import random_conditions, random_identity
from eval import ijb, ijb_1n, ijb_11, ijb_meta
from eval.ijb_features import embed_faces
from eval.results import read_results

ROOT = Path(__file__).resolve().parents[2]
SUBJECTS = [  # templates, media, images: 6 subjects, 12 templates, 24 images
    [[[0, 1], [2]], [[3]]], [[[4]], [[5, 6]]], [[[7], [8]], [[9]], [[10, 11]]],
    [[[12]], [[13], [14]]], [[[15, 16]], [[17]]], [[[18, 19], [20]], [[21], [22]], [[23]]]]
NUM_IMAGES = 24


@pytest.fixture(scope="session")
def faces():
    """JPEGs of rendered faces somewhere in a larger picture, and their landmarks."""
    encoded, points = [], []
    for subject, templates in enumerate(SUBJECTS):
        random = np.random.RandomState(subject)
        identity = random_identity(random)
        for _ in [image for media in templates for medium in media for image in medium]:
            how = random_conditions(random)
            left, top = random.randint(0, 40, 2)
            picture = cv2.copyMakeBorder(draw(identity, how), top, 40, left, 40, cv2.BORDER_REPLICATE)
            encoded.append(cv2.imencode(".jpg", picture[:, :, ::-1])[1].tobytes())
            points.append(landmarks(identity, how) + [left, top])
    return encoded, np.array(points)


@pytest.fixture
def data(tmp_path, faces):
    write_folder(tmp_path, "IJBC", SUBJECTS, *faces)
    return tmp_path


@pytest.fixture
def model(tmp_path):
    """A checkpoint of means over 8x8 pixels, mixed to 16 dimensions."""
    from common.checkpoint import save
    from common.mxnet_setup import mx

    pooled = mx.sym.Pooling(mx.sym.Cast(mx.sym.Variable("data"), "float32"), kernel=(8, 8), stride=(8, 8),
                            pool_type="avg")
    symbol = mx.sym.FullyConnected(mx.sym.Flatten(pooled) - 110, num_hidden=16, name="pre_fc1")
    weight = np.random.RandomState(0).standard_normal((16, 588))
    save(str(tmp_path / "net" / "model"), 1, mx.sym.identity(symbol, name="fc1"),
         {"pre_fc1_weight": mx.nd.array(weight), "pre_fc1_bias": mx.nd.zeros(16)}, {})
    return f"{tmp_path}/net/model,1"


def meta(data, name):
    return ijb_meta.meta_path(data, "IJBC", name)


def change(path, line, text):
    """Replace a line of a file, or add one behind its end."""
    lines = path.read_text().splitlines()
    lines[line - 1:line] = [text]
    path.write_text("\n".join(lines) + "\n")


class Embed:
    """Linear in the pixels; counts its images; `fail` makes it stop after so many."""

    emb_size, image_shape = 4, (112, 112)

    def __init__(self, fail=None):
        self.count, self.fail = 0, fail

    def __call__(self, images):
        self.count += len(images)
        if self.fail is not None and self.count > 2 * self.fail:
            raise KeyboardInterrupt
        return images[:, :, 20:90, 20:60].reshape(len(images), 3, -1).mean(axis=2) @ np.ones((3, 4)) + 1


def embed(data, network, **settings):
    images = ijb_meta.read_images(data, "IJBC")
    return embed_faces(network, images, ijb_meta.image_folder(data, "IJBC"), data / "out", "ijbc",
                       settings.pop("model_hash", "m"), batch_size=5, progress=False, **settings)


def test_metadata(data, faces):
    images = ijb_meta.read_images(data, "IJBC")
    assert images.names == [f"{number}.jpg" for number in range(NUM_IMAGES)]
    assert images.templates[:7].tolist() == [3, 3, 3, 10, 17, 24, 24]
    assert images.medias[:7].tolist() == [0, 0, 1, 0, 1000, 1000, 1000]
    np.testing.assert_allclose(images.landmarks, faces[1], atol=1e-3)
    np.testing.assert_allclose(images.scores, 0.5 + np.arange(NUM_IMAGES) / 100, rtol=1e-6)
    known = np.unique(images.templates)
    pairs = ijb_meta.read_pairs(meta(data, "template_pair_label.txt"), known)
    assert len(pairs.first) == 6 * 8 and pairs.issame.sum() == 8
    assert (pairs.first[0], pairs.second[0], pairs.issame[0]) == (3, 10, True)
    paths = ijb_meta.subject_paths(data, "IJBC")
    gallery = ijb_meta.read_subjects(paths["G2"], known)
    assert (gallery.templates.tolist(), gallery.subjects.tolist()) == ([17, 52, 80], [1, 3, 5])
    assert len(ijb_meta.read_subjects(paths["probes"], known).templates) == 8


def test_pairs_in_odd_clothes(tmp_path):
    """Blank lines, carriage returns, tabs, a missing end of line; in blocks and in one."""
    path = tmp_path / "pairs.txt"
    path.write_bytes(b"1 2 0\r\n\n3\t1  1\n2 2 1")
    pairs = ijb_meta.read_pairs(path, np.array([1, 2, 3]))
    assert [part.tolist() for part in pairs] == [[1, 3, 2], [2, 1, 2], [False, True, True]]


def test_many_pairs(tmp_path):
    random = np.random.RandomState(0)
    rows = np.column_stack([random.randint(0, 50, (500, 2)), random.randint(0, 2, 500)])
    path = tmp_path / "pairs.txt"
    np.savetxt(path, rows, "%d")
    pairs = ijb_meta.read_pairs(path, np.arange(50))
    np.testing.assert_array_equal(np.column_stack(pairs), rows)
    line = 1 + np.argmax((rows[:, :2] == 7).any(1))
    with pytest.raises(DataError, match=f"pairs.txt line {line}: template 7 has no image"):
        ijb_meta.read_pairs(path, np.delete(np.arange(50), 7))


@pytest.mark.parametrize("line", ["3 10", "3 10 1 1", "3 x 1", "3 10 2", "3 -10 1", "3 10.0 1", "3 10 nan"])
def test_bad_pairs(data, line):
    path = meta(data, "template_pair_label.txt")
    change(path, 5, line)
    with pytest.raises(DataError, match=f"label.txt line 5: found '{line}'; expected 'template1 template2 0|1'"):
        ijb_meta.read_pairs(path, np.unique(ijb_meta.read_images(data, "IJBC").templates))


@pytest.mark.parametrize("file, line, text, message", [
    ("face_tid_mid.txt", 4, "3.jpg 10", "tid_mid.txt line 4: found '3.jpg 10'; expected 'image template media'"),
    ("face_tid_mid.txt", 2, "1.jpg 3 x", "line 2: .* expected 'image template media'"),
    ("name_5pts_score.txt", 3, "2.jpg 1 2 3", "score.txt line 3: .* ten numbers"),
    ("name_5pts_score.txt", 3, "2.jpg 1 2 3 4 5 6 7 8 9 10 nan", "score.txt line 3: .* all finite"),
    ("name_5pts_score.txt", 3, "2.jpg 1 2 3 4 5 6 7 8 9 ten 1", "score.txt line 3: .* ten numbers"),
    ("name_5pts_score.txt", 7, "x.jpg 1 2 3 4 5 6 7 8 9 10 1", "line 7: image 'x.jpg'; line 7 of .* has '6.jpg'"),
    ("name_5pts_score.txt", 25, "24.jpg 1 2 3 4 5 6 7 8 9 10 1", "25 images; .* has 24: expected the same")])
def test_bad_lists_of_images(data, file, line, text, message):
    change(meta(data, file), line, text)
    with pytest.raises(DataError, match=message):
        ijb_meta.read_images(data, "IJBC")


@pytest.mark.parametrize("line, text, message", [
    (1, "3,0,img/3.jpg", "G1.csv line 1: found '3 0 .*expected a header"),
    (2, "3", "G1.csv line 2: found '3'; expected 'template,subject,...'"),
    (3, "3,9", "G1.csv line 3: template 3 shows subject 9, an earlier line says 0"),
    (4, "4,0", "G1.csv line 4: template 4 has no image")])
def test_bad_galleries(data, line, text, message):
    path = ijb_meta.subject_paths(data, "IJBC")["G1"]
    change(path, line, text)
    with pytest.raises(DataError, match=message):
        ijb_meta.read_subjects(path, np.unique(ijb_meta.read_images(data, "IJBC").templates))


@pytest.mark.parametrize("read, text, message", [(ijb_meta.read_pairs, "\n", "no pairs"),
                                                 (ijb_meta.read_subjects, "TEMPLATE_ID,SUBJECT_ID\n", "no templates")])
def test_lists_that_are_missing_or_empty(tmp_path, read, text, message):
    path = tmp_path / "list"
    with pytest.raises(DataError, match="list: cannot be read: "):
        read(path, np.arange(3))
    path.write_text(text)
    with pytest.raises(DataError, match=f"list: {message}"):
        read(path, np.arange(3))


def test_an_empty_list_of_images(data):
    meta(data, "face_tid_mid.txt").write_text("")
    with pytest.raises(DataError, match="tid_mid.txt: no images"):
        ijb_meta.read_images(data, "IJBC")


def test_features_are_of_aligned_faces(data, faces):
    found = embed(data, Embed())
    pictures = [align(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1], np.round(points, 3))
                .transpose(2, 0, 1) for jpeg, points in zip(*faces)]
    assert found.numbers.tolist() == list(range(NUM_IMAGES))
    for part, planes in enumerate((np.array(pictures), np.array(pictures)[..., ::-1])):
        np.testing.assert_allclose(found[np.arange(NUM_IMAGES)][:, part], Embed()(planes), rtol=1e-4)


def test_features_are_made_once_and_go_on(data):
    whole = embed(data, Embed())[np.arange(NUM_IMAGES)]
    network = Embed()
    embed(data, network)
    assert network.count == 0
    (data / "out" / "ijbc_features.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        embed(data, Embed(fail=12))
    assert json.loads((data / "out" / "ijbc_features.json").read_text())["done"] == 10
    network = Embed()
    np.testing.assert_array_equal(embed(data, network)[np.arange(NUM_IMAGES)], whole)
    assert network.count == 2 * 14
    with pytest.raises(UserError, match="embeddings of another model; name another --output"):
        embed(data, Embed(), model_hash="other")
    path = meta(data, "name_5pts_score.txt")
    path.write_text(path.read_text().replace("0.50", "0.51"))
    with pytest.raises(UserError, match="embeddings of another images"):
        embed(data, Embed())
    (data / "out" / "ijbc_features.json").write_text("{}")
    with pytest.raises(DataError, match="features.json: damaged; delete it and ijbc_features.npy"):
        embed(data, Embed())


def test_missing_and_broken_images(data):
    folder = ijb_meta.image_folder(data, "IJBC")
    (folder / "9.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(DataError, match="9.jpg: the image .* cannot be decoded"):
        embed(data, Embed())
    for number in (3, 4):
        (folder / f"{number}.jpg").unlink()
    with pytest.raises(DataError, match="2 of 24 images are missing, the first is 3.jpg; with --skip-missing"):
        embed(data, Embed())
    (data / "out" / "ijbc_features.json").unlink()
    found = embed(data, Embed(), skip_missing=True)
    assert found.numbers.tolist() == [number for number in range(NUM_IMAGES) if number not in (3, 4, 9)]
    assert (found[np.arange(21)] != 0).all()
    for number in (3, 4):
        (folder / f"{number}.jpg").write_bytes((folder / "5.jpg").read_bytes())
    with pytest.raises(UserError, match="3 images were left out, the first is number 3; delete"):
        embed(data, Embed())
    for path in folder.iterdir():
        path.unlink()
    assert len(embed(data, Embed(), skip_missing=True).numbers) == 21  # what is done needs no images
    (data / "out" / "ijbc_features.json").unlink()
    with pytest.raises(DataError, match="24 of 24 images are missing, .* is it the folder of the images?"):
        embed(data, Embed(), skip_missing=True)


def test_landmarks_of_no_face_and_features_of_no_use(data):
    class Diverged(Embed):
        def __call__(self, images):
            return np.full((len(images), 4), np.nan)

    with pytest.raises(UserError, match="^images 1 to 5: 5 of 5 embeddings are zero or not finite"):
        embed(data, Diverged())
    change(meta(data, "name_5pts_score.txt"), 6, "5.jpg 1 1 1 1 1 1 1 1 1 1 0.9")
    (data / "out" / "ijbc_features.json").unlink()
    with pytest.raises(DataError, match="score.txt line 6: landmarks .* all in one place"):
        embed(data, Embed())


def run(monkeypatch, command, *flags):
    monkeypatch.setattr(sys, "argv", [f"{command.__name__}.py", *map(str, flags)])
    command.main()


def brute_templates(model, faces):
    """Templates of the variant N1D1F1, in float64."""
    from common.embedder import Embedder

    aligned = np.array([align(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1],
                              np.round(points, 3)).transpose(2, 0, 1) for jpeg, points in zip(*faces)])
    network = Embedder(model)
    values = network(aligned).astype(float) + network(np.ascontiguousarray(aligned[..., ::-1]))
    values *= 0.5 + np.arange(NUM_IMAGES)[:, None] / 100
    sums = [[np.sum([values[medium].mean(0) for medium in media], axis=0) for media in templates]
            for templates in SUBJECTS]
    return [[one / np.linalg.norm(one) for one in subject] for subject in sums]


def test_both_commands(data, model, faces, monkeypatch, capsys):
    shared = ["--data-dir", data, "--output", data / "out", "--record", data / "all.csv", "--devices", "cpu"]
    run(monkeypatch, ijb_11, "--model", model, *shared)
    printed = capsys.readouterr().out
    assert "IJBC 1:1: 24 images, 14 templates, 8 genuine pairs, 40 impostor pairs\n" in printed
    for variant in ijb.VARIANTS:
        assert f"[IJBC][{variant.name}] {variant.meaning}\n[IJBC][{variant.name}] TAR at FAR 1e-6: " in printed
    assert "[IJBC] D: times the detector score: " in printed
    assert "note: 40 impostor pairs are too few for FAR 1e-6, 1e-5, 1e-4, 1e-3, 1e-2; read" in printed
    made = (data / "out" / "ijbc_features.npy").stat().st_mtime_ns
    prefix, _, epoch = model.rpartition(",")
    run(monkeypatch, ijb_1n, "--model-prefix", prefix, "--model-epoch", epoch, *shared, "--variants", "N1D1F1")
    printed = capsys.readouterr().out
    assert "IJBC 1:N: 24 images, 8 probes, 3 templates in G1, 3 templates in G2\n" in printed
    assert (data / "out" / "ijbc_features.npy").stat().st_mtime_ns == made
    verified, identified = read_results(data / "out" / "results.json")
    assert (verified["protocol"], identified["protocol"], verified["variant"]) == ("ijb-11", "ijb-1n", "N1D1F1")
    templates = brute_templates(model, faces)
    pairs = [(one == other, first[0] @ second) for one, first in enumerate(templates)
             for other, subject in enumerate(templates) for second in subject[1:]]
    wrong = sorted((score for same, score in pairs if not same), reverse=True)
    for far, allowed in (("1e-6", 0), ("1e-2", 0), ("1e-1", 4)):
        expected = np.mean([score > wrong[allowed] for same, score in pairs if same])
        assert verified["figures"][f"tar@{far}"] == pytest.approx(expected)
    rates = []
    for gallery in (0, 1):
        ranks = [np.argsort([-first[0] @ probe for first in templates[gallery::2]]).tolist().index(subject // 2) + 1
                 for subject, parts in enumerate(templates) for probe in parts[1:] if subject % 2 == gallery]
        rates.append(np.mean([rank <= 1 for rank in ranks]))
    assert identified["figures"]["rank-1"] == pytest.approx(np.mean(rates))
    assert identified["figures"]["rank-5"] == 1
    for entry in (verified, identified):
        assert [(data / "out" / picture["file"]).read_bytes()[:4] for picture in entry["pictures"]] == [b"\x89PNG"] * 2
        assert all(len(row) == len(table["columns"]) for table in entry["tables"] for row in table["rows"])
    assert len((data / "all.csv").read_text().splitlines()) == 3
    run(monkeypatch, ijb_11, "--model", model, *shared, "--variants", "N0D0F0,N0D1F0")  # takes the place of the first
    assert [entry["variant"] for entry in read_results(data / "out" / "results.json")] == ["N1D1F1", "N0D0F0"]


def test_what_skipping_leaves_out_is_counted(data, model, monkeypatch, capsys):
    for number in (3, 4):  # the only images of a probe of subject 0 and of the gallery template of subject 1
        (ijb_meta.image_folder(data, "IJBC") / f"{number}.jpg").unlink()
    shared = ["--model", model, "--data-dir", data, "--skip-missing", "--variants", "N1D1F1", "--devices", "cpu"]
    run(monkeypatch, ijb_11, *shared)
    printed = capsys.readouterr().out
    assert "note: 2 of 24 images left out for want of images" in printed and "note: 13 of 48 pairs left out" in printed
    run(monkeypatch, ijb_1n, *shared)
    printed = capsys.readouterr().out
    assert "note: 1 of 3 templates of G2 left out" in printed and "note: 1 of 8 templates of probes left out" in printed
    assert (data / "net" / "ijb" / "results.json").is_file()


def test_a_template_that_keeps_no_image_at_all(data, model, monkeypatch):
    for path in ijb_meta.image_folder(data, "IJBC").iterdir():
        if path.stem != "0":
            path.unlink()
    for command, message in (ijb_11, "no pair is left"), (ijb_1n, "G2: no template is left"):
        with pytest.raises(UserError, match=message):
            run(monkeypatch, command, "--model", model, "--data-dir", data, "--skip-missing", "--devices", "cpu")


@pytest.mark.parametrize("flags", [[], ["--model", "a,1", "--model-prefix", "a"]])
def test_a_model_is_named_once(monkeypatch, flags):
    with pytest.raises(UserError, match="either --model PREFIX,EPOCH or --model-prefix"):
        run(monkeypatch, ijb_11, *flags)


def test_an_error_is_one_line(tmp_path):
    done = subprocess.run([sys.executable, str(ROOT / "eval" / "ijb_1n.py"), "--model", "a,1", "--data-dir", tmp_path],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {tmp_path}/IJBC/meta/ijbc_face_tid_mid.txt: cannot be read: No such file")


def test_real_faces_verify_well(face_data, tmp_path, monkeypatch):
    """The public checkpoint on templates made of photographs of LFW."""
    people = sorted((face_data / "lfw" / "images").iterdir())
    people = [sorted(person.iterdir()) for person in people if len(list(person.iterdir())) >= 4][:8]
    encoded = [path.read_bytes() for person in people for path in person[:4]]
    subjects = [[[[4 * number], [4 * number + 1]], [[4 * number + 2, 4 * number + 3]]] for number in range(8)]
    write_folder(tmp_path, "IJBB", subjects, encoded, np.broadcast_to(TEMPLATE, (32, 5, 2)))
    run(monkeypatch, ijb_11, "--model", face_data / "models/y1/model,0", "--data-dir", tmp_path, "--target", "ijbb",
        "--output", tmp_path / "out", "--variants", "N1D1F1", "--batch-size", 16)
    (entry,) = read_results(tmp_path / "out" / "results.json")
    assert entry["target"] == "IJBB" and entry["figures"]["tar@1e-1"] == 1
