"""Embeddings of pairs: mirrored images, templates, and what is kept on disk."""
import cv2
import numpy as np
import pytest

from common.errors import UserError
from datasets.packs import load_pack, write_pack
from datasets.pairs import Pair
from datasets.targets import load_target
from datasets.templates import load_templates, write_template_set
from eval import pair_embeddings, verification
from eval.pair_embeddings import EmbeddingCache, embed_target, mean_norm


def encode(seed, suffix=".png"):
    return cv2.imencode(suffix, np.random.RandomState(seed).randint(0, 256, (16, 16, 3)).astype(np.uint8))[1].tobytes()


def embed(images):
    """Not the same for an image and its mirrored twin; (N, 5) float32."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    return flat @ np.random.RandomState(0).standard_normal((flat.shape[1], 5)).astype(np.float32)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def pack(tmp_path):
    write_pack(tmp_path / "faces.bin", [encode(seed) for seed in (0, 1, 2, 0, 3, 4)], [True, False, True])
    return load_pack(tmp_path / "faces.bin", (16, 16))


@pytest.fixture
def templates(tmp_path):
    """Three videos of 1, 2 and 4 frames; two pairs."""
    for name, frames in (("a/0", 1), ("a/1", 2), ("b/0", 4)):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for frame in range(frames):
            (tmp_path / "videos" / name / f"{frame}.jpg").write_bytes(encode(10 * frames + frame, ".jpg"))
    a, b, c = (tmp_path / "videos" / name for name in ("a/0", "a/1", "b/0"))
    write_template_set(tmp_path / "ytf", [Pair(a, b, True), Pair(c, a, False)], (16, 16), progress=False)
    return load_templates(tmp_path / "ytf")


@pytest.mark.parametrize("flip", ["sum", "concat", "none"])
def test_mirrored_images_are_used_as_told(pack, flip):
    images = pack.decode(0, 6)
    plain, mirrored = embed(images).astype(float), embed(images[..., ::-1]).astype(float)
    expected = {"sum": plain + mirrored, "concat": np.concatenate([plain, mirrored], axis=1), "none": plain}[flip]
    passes = embed_target(pack, embed, flip, batch_size=4, progress=False)
    np.testing.assert_allclose(pair_embeddings.pair_embeddings(pack, passes, flip), unit(expected), rtol=1e-5)
    norms = [np.linalg.norm(plain, axis=1)] + [np.linalg.norm(mirrored, axis=1)] * (flip != "none")
    assert mean_norm(pack, passes, flip) == pytest.approx(np.mean(norms), rel=1e-6)


def test_unknown_use_of_mirrored_images(pack):
    with pytest.raises(UserError, match="'twice'.*concat"):
        verification.test(pack, None, 1, "twice")


def test_a_template_is_the_mean_of_its_images(templates):
    found = verification.test(templates, embed, nfolds=1, flip="none", batch_size=2, progress=False)
    values = embed(templates.decode_these(range(7))).astype(float)
    means = [values[:1].mean(0), values[1:3].mean(0), values[3:].mean(0)]
    np.testing.assert_allclose(found.embeddings, unit(np.array([means[i] for i in (0, 1, 2, 0)])), rtol=1e-5)
    assert found.result.issame.tolist() == [True, False]
    np.testing.assert_array_equal(templates.pair(1), templates.decode_these([5, 0]))


def test_a_template_set_is_a_target(templates, tmp_path):
    path, = verification.find_targets("ytf", tmp_path)
    assert load_target(path, (16, 16)).name == "ytf"
    assert verification.find_targets("", tmp_path) == [tmp_path / "ytf"]
    assert verification.find_targets(str(tmp_path / "ytf"), ".") == [tmp_path / "ytf"]
    with pytest.raises(UserError, match=r"ytf: images of \(16, 16\); expected \(112, 112\)"):
        load_target(path)


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model-symbol.json").write_text("{}")
    (tmp_path / "model-0001.params").write_bytes(b"one")
    return f"{tmp_path}/model,1"


def test_embeddings_are_computed_once(pack, templates, model, tmp_path):
    calls = []

    def compute(target, flip):
        calls.append((target.name, flip))
        return embed_target(target, embed, flip, progress=False)

    def passes(target, flip, model=model):
        return EmbeddingCache(tmp_path / "kept", model).passes(target, flip, lambda: compute(target, flip))

    for target in (pack, templates):
        first = passes(target, "none")
        np.testing.assert_array_equal(passes(target, "none"), first)
        both = passes(target, "sum")  # those of the mirrored images were not there
        np.testing.assert_array_equal(passes(target, "concat"), both)
        np.testing.assert_array_equal(passes(target, "none"), both)
    assert calls == [("faces", "none"), ("faces", "sum"), ("ytf", "none"), ("ytf", "sum")]
    (tmp_path / "model-0001.params").write_bytes(b"two")
    passes(pack, "sum")
    assert calls[4:] == [("faces", "sum")]
    write_pack(pack.path, [encode(9)] + pack.images[1:], pack.issame)
    passes(load_pack(pack.path, (16, 16)), "sum")
    assert len(calls) == 6
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    passes(templates, "sum")  # damaged: computed again
    assert len(calls) == 7 and passes(templates, "sum").shape[0] == 2 and len(calls) == 7
    path = max((tmp_path / "kept").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    np.save(path, np.load(path) * np.inf)
    assert np.isfinite(passes(templates, "sum")).all() and len(calls) == 8


def test_nothing_is_kept_without_a_folder(pack, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert EmbeddingCache(None, "not,there").passes(pack, "sum", lambda: "computed") == "computed"
    assert sorted(tmp_path.rglob("*")) == before
