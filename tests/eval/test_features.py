"""MegaFace feature files: format, lists, and the dump with its resuming and its unreadable images."""
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError, UserError
from eval import features, gen_megaface

ROOT = Path(__file__).resolve().parents[2]
FACESCRUB = ["Ann/1.png", "Ann/2.png", "Bob Lee/3.jpg.png"]
MEGAFACE = ["001/9@N00/a.png", "001/9@N00/b.png", "002/7@N01/a.png"]


class Embed:
    """Linear in the pixels; counts what it is given. `weight` is seeded, so that two of them are two networks."""

    image_shape = (8, 8)

    def __init__(self, emb_size=5, seed=0):
        self.emb_size, self.images = emb_size, 0
        self.weight = np.random.RandomState(seed).standard_normal((192, emb_size))

    def __call__(self, images):
        self.images += len(images)
        assert images.dtype == np.uint8 and images.flags.c_contiguous
        return (images.reshape(len(images), -1) @ self.weight).astype(np.float32)


@pytest.fixture
def images(tmp_path):
    """The images of both sets, with their lists; returns dict entry -> (3, 8, 8) uint8 RGB."""
    made = {}
    for name, entries in (("facescrub", FACESCRUB), ("megaface", MEGAFACE)):
        (tmp_path / f"{name}_lst").write_text("".join(f"{entry}\n" for entry in entries))
        for entry in entries:
            made[entry] = np.random.RandomState(len(made)).randint(0, 256, (3, 8, 8)).astype(np.uint8)
            path = tmp_path / name / entry
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), made[entry][::-1].transpose(1, 2, 0))
    return made


def dump(tmp_path, kind, *embeds, **settings):
    return features.dump_features(kind, tmp_path / f"{kind}_lst", tmp_path / kind, tmp_path / "out", embeds,
                                  batch_size=2, progress=False, **settings)


def read(tmp_path, kind, entry):
    return features.read_feature(features.feature_path(tmp_path / "out", kind, entry, "insightface"))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def expected(image, embed):
    both = [embed(np.ascontiguousarray(part)[None])[0].astype(float) for part in (image, image[..., ::-1])]
    return unit(both[0] + both[1])


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40).filter(any))
@settings(max_examples=30, deadline=None)
def test_a_feature_comes_back(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("feature") / "a.bin"
    features.write_feature(path, values)
    found = features.read_feature(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(values, np.float32))
    assert path.read_bytes() == struct.pack(f"<4i{len(values)}f", len(values), 1, 4, 5, *values)
    assert features.is_complete(path, len(values)) and not features.is_complete(path, len(values) + 1)


@pytest.mark.parametrize("data, message", [
    (b"", "0 bytes: expected a header of 16"),
    (struct.pack("<4if", 2, 1, 4, 5, 1), "20 bytes: expected 24 for 2 dimensions"),
    (struct.pack("<4i3f", 2, 1, 4, 5, 1, 2, 3), "28 bytes: expected 24"),
    (struct.pack("<4i2f", 1, 2, 8, 5, 1, 2), r"header \(1, 2, 8, 5\): expected \(dimensions, 1, 4, 5\)"),
    (struct.pack("<4i", 0, 1, 4, 5), r"header \(0, 1, 4, 5\)"),
    (struct.pack("<4i2f", 2, 1, 4, 5, 1, float("nan")), "not finite"),
    (struct.pack("<4i2f", 2, 1, 4, 5, 0, -0.0), "zeros alone")])
def test_damaged_features_are_refused(tmp_path, data, message):
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"a.bin: .*{message}"):
        features.read_feature(path)
    with pytest.raises(UserError, match="cannot be read"):
        features.read_feature(tmp_path / "none.bin")
    assert not features.is_complete(tmp_path / "none.bin", 2)


@pytest.mark.parametrize("kind, line, message", [
    ("facescrub", "alone.jpg", "expected folder/image"),
    ("megaface", "a/b.jpg", "expected folder/folder/image"),
    ("facescrub", "../a/b.jpg", "without '..'"),
    ("facescrub", "a/../../b/c.jpg", "without '..'"),
    ("facescrub", "/a/b.jpg", "below the root"),
    ("facescrub", "x/p/ok.jpg", "feature file of another entry, 'p/ok.jpg'")])
def test_bad_list_entries_are_named(tmp_path, kind, line, message):
    path = tmp_path / "lst"
    path.write_text(f"{'q/' if kind == 'megaface' else ''}p/ok.jpg\n\n{line}\n")
    with pytest.raises(UserError, match=f"lst line 3: .*{message}"):
        features.read_list(path, kind)


def test_lists_are_read(tmp_path):
    path = tmp_path / "lst"
    path.write_text("p/a.jpg\r\n\n  p/b.jpg \np/a.jpg\nmore/above/p/c.jpg\n")
    assert features.read_list(path, "facescrub") == ["p/a.jpg", "p/b.jpg", "more/above/p/c.jpg"]
    assert features.feature_path("out", "facescrub", "more/above/p/c.jpg", "x") == Path("out/facescrub/p/c.jpg_x.bin")
    path.write_text("\n")
    with pytest.raises(UserError, match="holds no entry"):
        features.read_list(path, "facescrub")
    with pytest.raises(UserError, match="cannot be read"):
        features.read_list(tmp_path / "none", "facescrub")


@pytest.mark.parametrize("kind, entries", [("facescrub", FACESCRUB), ("megaface", MEGAFACE)])
def test_features_are_their_definition(tmp_path, images, kind, entries):
    embed = Embed()
    assert dump(tmp_path, kind, embed) == features.Dump(3, 0, [])
    for entry in entries:
        found = read(tmp_path, kind, entry)
        np.testing.assert_allclose(found, expected(images[entry], embed), atol=1e-6)
        assert (tmp_path / "out" / kind / f"{entry}_insightface.bin").is_file()


def test_an_ensemble_is_joined(tmp_path, images):
    first, second = Embed(5), Embed(7, seed=1)
    dump(tmp_path, "facescrub", first, second)
    for entry in FACESCRUB:
        parts = [expected(images[entry], embed) for embed in (first, second)]
        np.testing.assert_allclose(read(tmp_path, "facescrub", entry), np.concatenate(parts) / np.sqrt(2), atol=1e-6)


def test_complete_features_are_kept(tmp_path, images):
    dump(tmp_path, "facescrub", Embed())
    kept, cut = (features.feature_path(tmp_path / "out", "facescrub", entry, "insightface") for entry in FACESCRUB[:2])
    before = kept.stat().st_mtime_ns
    cut.write_bytes(cut.read_bytes()[:-1])
    embed = Embed()
    assert dump(tmp_path, "facescrub", embed) == features.Dump(1, 2, [])
    assert embed.images == 2  # one image and its twin
    assert kept.stat().st_mtime_ns == before
    np.testing.assert_allclose(features.read_feature(cut), expected(images[FACESCRUB[1]], embed), atol=1e-6)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"\xff\xd8 not a picture"), Path.unlink,
                                    lambda path: path.write_bytes(b"")])
def test_unreadable_images_get_a_placeholder_and_another_try(tmp_path, images, damage):
    path = tmp_path / "facescrub" / FACESCRUB[1]
    whole = path.read_bytes()
    damage(path)
    embed = Embed()
    assert dump(tmp_path, "facescrub", embed) == features.Dump(2, 0, [FACESCRUB[1]])
    listed = tmp_path / "out" / "facescrub_insightface_unreadable.txt"
    assert listed.read_text() == f"{FACESCRUB[1]}\n"
    assert features.read_unreadable(tmp_path / "out", "facescrub", "insightface") == {FACESCRUB[1]}
    found = read(tmp_path, "facescrub", FACESCRUB[1])
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    assert dump(tmp_path, "facescrub", embed) == features.Dump(0, 2, [FACESCRUB[1]])
    assert listed.read_text() == f"{FACESCRUB[1]}\n"
    path.write_bytes(whole)
    assert dump(tmp_path, "facescrub", embed) == features.Dump(1, 2, [])
    assert not listed.exists()
    found = read(tmp_path, "facescrub", FACESCRUB[1])
    np.testing.assert_allclose(found, expected(images[FACESCRUB[1]], embed), atol=1e-6)


def test_placeholders_match_nothing():
    probes = unit(np.random.RandomState(0).standard_normal((200, 128)))
    distractors = np.array([features.placeholder("megaface", f"a/b/{i}.jpg", 128) for i in range(50)])
    assert np.linalg.norm(probes[:, None] - distractors, axis=2).min() > 98  # out of reach by distance
    assert (probes @ unit(distractors).T).max() < 0.5  # and a stranger by angle
    faces = np.array([features.placeholder("facescrub", f"a/{i}.jpg", 128) for i in range(50)])
    np.testing.assert_allclose(np.linalg.norm(faces, axis=1), 1)
    assert np.abs(faces @ faces.T - np.eye(50)).max() < 0.5  # two of them do not match one another


def test_a_stopped_run_leaves_nothing_that_passes_for_a_feature(tmp_path, images, monkeypatch):
    (tmp_path / "facescrub" / FACESCRUB[0]).unlink()

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(features._Writer, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        dump(tmp_path, "facescrub", Embed())
    monkeypatch.undo()
    assert dump(tmp_path, "facescrub", Embed()) == features.Dump(0, 2, [FACESCRUB[0]])


def test_bad_images_and_roots_stop_with_their_name(tmp_path, images):
    cv2.imwrite(str(tmp_path / "facescrub" / FACESCRUB[2]), np.zeros((9, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"3.jpg.png: .*9x8.*expected 8x8"):
        dump(tmp_path, "facescrub", Embed())
    with pytest.raises(UserError, match="holds none of the first images.*such as 001"):
        features.dump_features("megaface", tmp_path / "megaface_lst", tmp_path, tmp_path / "out", [Embed()])


def test_unusable_embeddings_are_said(tmp_path, images):
    embed = Embed()
    embed.weight[:] = 0
    with pytest.raises(UserError, match="facescrub, 2 images from Ann/1.png on: 2 of 2 embeddings are zero"):
        dump(tmp_path, "facescrub", embed)


def test_a_folder_is_not_mixed(tmp_path):
    model, other = tmp_path / "a.params", tmp_path / "b.params"
    model.write_bytes(b"one")
    other.write_bytes(b"two")
    features.claim(tmp_path / "out", "x", {"a,1": model})
    features.claim(tmp_path / "out", "x", {"the same elsewhere,1": model})
    features.claim(tmp_path / "out", "y", {"b,1": other})
    for models in ({"b,1": other}, {"a,1": model, "b,1": other}):
        with pytest.raises(UserError, match="made by another model"):
            features.claim(tmp_path / "out", "x", models)


def test_flags_of_both_spellings():
    args = gen_megaface.parse_args(["--model", "m,1", "--batch_size", "3", "--image_size", "3,8,8"])
    assert (args.batch_size, args.image_size, args.algo, args.output) == (3, "3,8,8", "insightface", "./feature_out")
    args = gen_megaface.parse_args(["--model", "m,1", "--batch-size", "3", "--image-size", "3,8,8", "--gpu", "-1"])
    assert (args.batch_size, args.image_size, args.gpu) == (3, "3,8,8", -1)


def tiny_model(folder):
    """A checkpoint for 8x8 images with 6-dimensional embeddings, drawn from the folder's name."""
    from common.checkpoint import save
    from common.mxnet_setup import mx

    symbol = mx.sym.FullyConnected(mx.sym.Flatten(mx.sym.Variable("data")), num_hidden=6, name="pre_fc1")
    rng = np.random.RandomState(len(folder.name))
    params = {"pre_fc1_weight": mx.nd.array(rng.standard_normal((6, 192))), "pre_fc1_bias": mx.nd.zeros(6)}
    save(str(folder / "model"), 1, mx.sym.identity(symbol, name="fc1"), params, {})


def run(folder, *flags):
    return subprocess.run([sys.executable, str(ROOT / "eval" / "gen_megaface.py"), "--image_size", "3,8,8", *flags],
                          cwd=str(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command(tmp_path, images):
    for name in ("a", "bb"):
        (tmp_path / name).mkdir()
        tiny_model(tmp_path / name)
    (tmp_path / "megaface" / MEGAFACE[0]).write_bytes(b"broken")
    sets = ["--facescrub-lst", "facescrub_lst", "--facescrub-root", "facescrub", "--megaface-lst", "megaface_lst",
            "--megaface-root", "megaface", "--devices", "cpu"]
    done = run(tmp_path, "--model", "a/model,1|bb/model,1", *sets)
    assert done.returncode == 0, done.stderr
    assert "facescrub: 3 features written, 0 kept, unreadable images: 0\n" in done.stdout
    assert "megaface: 2 features written, 0 kept, unreadable images: 1 (see feature_out/megaface_" in done.stdout
    assert f"unreadable: megaface/{MEGAFACE[0]}" in done.stderr and "img/s" in done.stderr
    assert len(features.read_feature(tmp_path / "feature_out/facescrub/Ann/1.png_insightface.bin")) == 12
    done = run(tmp_path, "--model", "bb/model,1", *sets)
    assert done.returncode == 2 and "another model" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("flags, message", [
    (["--facescrub-lst", "", "--megaface-lst", ""], "nothing to do"),
    (["--image_size", "1,8,8"], "expected 3,height,width"),
    (["--facescrub-lst", "", "--algo", "../x"], "expected a name without '/'")])
def test_bad_flags(monkeypatch, flags, message):
    monkeypatch.setattr(sys, "argv", ["gen_megaface.py", "--model", "m,1", *flags])
    with pytest.raises(UserError, match=message):
        gen_megaface.main()
