"""The verification protocol, what it writes, and its command."""
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from datasets.packs import Pack, load_pack, write_pack
from eval import verification
from eval.results import make_entry
from eval.verification_report import as_dict, bad_cases

ROOT = Path(__file__).resolve().parents[2]


class PixelPack:
    """Images (2N, 3, H, W) that need no decoding."""

    name, path = "pixels", "pixels.bin"

    def __init__(self, images, issame):
        self.images, self.issame = images, np.asarray(issame)

    def decode(self, start, stop):
        return self.images[start:stop]

    def decode_these(self, numbers):
        return self.images[numbers]

    def distinct(self):
        return np.arange(len(self.images))

    def of_pairs(self, values):
        return values

    def pair(self, number):
        return self.images[2 * number:2 * number + 2]


def pooled(images):
    """The feature of the golden file: mean over 4x4 pixels, minus 110."""
    means = images.reshape(len(images), 3, images.shape[2] // 4, 4, -1, 4).mean(axis=(3, 5))
    return means.reshape(len(images), -1).astype(np.float32) - 110


def face_like(pairs, noise, seed=0):
    """(2 * pairs, 3, 16, 16) uint8, every other pair genuine."""
    rng = np.random.RandomState(seed)
    images = rng.uniform(60, 160, (2 * pairs, 3, 4, 4))
    images[1::4] = images[0::4]
    images = np.repeat(np.repeat(images, 4, axis=2), 4, axis=3) + rng.normal(0, noise, (2 * pairs, 3, 16, 16))
    return images.clip(0, 255).astype(np.uint8), np.arange(pairs) % 2 == 0


@pytest.fixture
def pack(tmp_path):
    images, issame = face_like(40, 60)
    encoded = [cv2.imencode(".png", image[::-1].transpose(1, 2, 0))[1].tobytes() for image in images]
    write_pack(tmp_path / "faces.bin", encoded, issame)
    return load_pack(tmp_path / "faces.bin", (16, 16))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["easy600", "hard600", "odd601"])
@pytest.mark.parametrize("nfolds", [10, 1])
def test_evaluate_equals_the_original(golden, name, nfolds):
    data = np.load(golden / "verification_evaluate.npz")
    result = verification.evaluate(data[f"{name}_emb"], data[f"{name}_same"], nfolds)
    accuracies = data[f"{name}_nf{nfolds}_acc"]
    np.testing.assert_allclose(result.accuracies, accuracies, rtol=1e-14)
    assert result.accuracy == pytest.approx(accuracies.mean(), rel=1e-14)
    assert result.accuracy_std == pytest.approx(accuracies.std(), rel=1e-14)
    point = result.tar_at_far[0]
    np.testing.assert_allclose([point.tar, point.tar_std, point.far], data[f"{name}_nf{nfolds}_val_valstd_far"],
                               rtol=1e-14)
    assert [point.asked for point in result.tar_at_far] == [1e-3, 1e-4]
    assert result.tar_at_far[1].tar <= point.tar and result.tar_at_far[1].threshold <= point.threshold
    assert result.thresholds.shape == (nfolds,) and result.threshold == pytest.approx(result.thresholds.mean())


def test_pca_changes_the_accuracy_alone(golden):
    data = np.load(golden / "verification_evaluate.npz")
    plain = verification.evaluate(data["hard600_emb"], data["hard600_same"])
    result = verification.evaluate(data["hard600_emb"], data["hard600_same"], pca=8)
    np.testing.assert_allclose(result.accuracies, data["hard600_pca8_acc"], rtol=1e-14)
    assert result.tar_at_far[0][:5] == plain.tar_at_far[0][:5] and result.auc == plain.auc
    assert sum(map(len, bad_cases(result))) == round(600 * (1 - result.accuracy))


@pytest.mark.parametrize("batch_size", [7, 32, 64, 1000])  # odd tails, and a pack smaller than the batch
def test_test_equals_the_original(golden, batch_size):
    data = np.load(golden / "verification_test_tiny.npz")
    planes = data["emb0"].reshape(-1, 3, 28, 28) + 110
    images = np.repeat(np.repeat(planes, 4, axis=2), 4, axis=3)  # any image with these means has these features
    pack = PixelPack(images, np.arange(60) % 2 == 0)
    found = verification.test(pack, pooled, batch_size=batch_size, progress=False)
    assert found.result.accuracy == pytest.approx(float(data["acc2"]), rel=1e-14)
    assert found.result.accuracy_std == pytest.approx(float(data["std2"]), rel=1e-14)
    assert found.xnorm == pytest.approx(float(data["xnorm"]), rel=1e-13)
    np.testing.assert_allclose(found.embeddings, unit(data["emb0"].astype(float) + data["emb1"]), rtol=1e-12)


def test_batches_are_all_of_one_size_and_flip_can_be_left_out():
    images, issame = face_like(9, 30)
    seen = []

    def embed(batch):
        seen.append(batch.shape)
        return pooled(batch)

    plain = verification.test(PixelPack(images, issame), embed, nfolds=3, flip="none", batch_size=8, progress=False)
    assert seen == [(8, 3, 16, 16)] * 3
    np.testing.assert_allclose(plain.embeddings, unit(pooled(images).astype(float)), rtol=1e-12)
    assert plain.xnorm == pytest.approx(np.linalg.norm(pooled(images), axis=1).mean(), rel=1e-6)


def test_images_that_come_twice_are_embedded_once(pack):
    """And score as if each had been embedded by itself."""
    pack.images[30:70] = pack.images[:40]
    plain, seen = PixelPack(pack.decode(0, len(pack.images)), pack.issame), []

    def embed(batch):
        seen.append(len(batch))
        return pooled(batch)

    found = verification.test(pack, embed, batch_size=7, progress=False)
    expected = verification.test(plain, pooled, progress=False)
    np.testing.assert_allclose(found.embeddings, expected.embeddings, rtol=1e-12)
    assert found.xnorm == pytest.approx(expected.xnorm) and found.result.accuracy == expected.result.accuracy
    assert 2 * len(set(pack.images)) <= sum(seen) < 2 * len(set(pack.images)) + 14 < 2 * len(pack.images)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_unusable_embeddings_are_named(value):
    images, issame = face_like(10, 30)

    def embed(batch):
        embeddings = pooled(batch)
        embeddings[3:5] = value
        return embeddings

    with pytest.raises(UserError, match="pixels: 2 of 20 embeddings are zero or not finite, the first is number 3"):
        verification.test(PixelPack(images, issame), embed, progress=False)


def test_pairs_that_cannot_be_scored_are_refused_before_computing():
    images, issame = face_like(10, 30)
    for labels, nfolds in ((issame, 11), (issame | True, 10)):
        with pytest.raises(UserError, match="^pixels.bin: (11 folds for 10 pairs|10 genuine and 0 impostor)"):
            verification.test(PixelPack(images, labels), None, nfolds)


def test_evaluate_refuses_what_has_no_meaning():
    rng = np.random.RandomState(0)
    embeddings, issame = unit(rng.standard_normal((40, 8))), np.arange(20) % 2 == 0
    for bad, message in [
            ((embeddings, issame[:-1]), r"shape \(40, 8\) for issame of shape \(19,\)"),
            ((embeddings * 3, issame), "not L2-normalised: their norms go from 3 to 3"),
            ((embeddings * np.nan, issame), "not L2-normalised"),
            ((embeddings, issame | True), "20 genuine and 0 impostor pairs"),
            ((embeddings, issame & False), "0 genuine and 20 impostor pairs"),
            ((embeddings, issame, 21), "21 folds for 20 pairs")]:
        with pytest.raises(UserError, match=message):
            verification.evaluate(*bad)


def test_folds_of_one_kind_are_left_out_of_the_tar():
    rng = np.random.RandomState(0)
    embeddings = np.repeat(unit(rng.standard_normal((20, 8))), 2, axis=0)
    embeddings[21::2] = unit(rng.standard_normal((10, 8)))  # ten genuine pairs, then ten impostor pairs
    result = verification.evaluate(embeddings, np.arange(20) < 10, nfolds=10)
    assert result.tar_at_far[0].tar == 1 and np.isfinite(result.tar_at_far[0].far)
    halves = verification.evaluate(embeddings, np.arange(20) < 10, nfolds=2)
    assert np.isnan(halves.tar_at_far[0].thresholds).tolist() == [False, True]
    found = verification.Test(halves, 1.0, embeddings)
    assert any("left out" in line for line in verification.report_lines("[x]", found))
    entry = make_entry("verification", "x", "x", {}, **as_dict(found))
    assert entry["tar_at_far"][0]["far"] is None
    json.dumps(entry, allow_nan=False)


def test_float16_embeddings_are_scored_like_float64():
    embeddings, issame = unit(np.random.RandomState(1).standard_normal((60, 16))), np.arange(30) % 2 == 0
    half = embeddings.astype(np.float16)
    assert verification.evaluate(half, issame).auc == verification.evaluate(half.astype(float), issame).auc


def test_lines_are_the_originals():
    images, issame = face_like(30, 60)
    found = verification.test(PixelPack(images, issame), pooled, progress=False)
    lines = verification.report_lines("[lfw][7]", found)
    assert lines[0] == f"[lfw][7]XNorm: {found.xnorm:f}"
    assert lines[1] == f"[lfw][7]Accuracy-Flip: {found.result.accuracy:1.5f}+-{found.result.accuracy_std:1.5f}"
    assert sum("at FAR 0.001 " in line or "at FAR 0.0001 " in line for line in lines) == 2
    assert any("15 impostor pairs are too few for FAR 0.001, 0.0001" in line for line in lines)
    assert verification.report_lines("", found, flip="none")[1].startswith("Accuracy: ")


def picture(path):
    image = cv2.imread(str(path))
    assert image is not None and image.std() > 5, path
    return image


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_verify_writes_pictures_and_results(pack, tmp_path, mode):
    loads = []

    def make_embedder(model):
        loads.append(model)
        return pooled

    out = tmp_path / "out"
    second = load_pack(pack.path, (16, 16))
    second.name = "again"
    seen = [(name, epoch, found.result.accuracy) for name, epoch, found in
            verification.verify(["m/model,2", "m/model,1"], [pack, second], out, make_embedder, mode=mode,
                                progress=False)]
    assert [entry[:2] for entry in seen] == [("faces", 2), ("again", 2), ("faces", 1), ("again", 1)]
    assert loads == ["m/model,2", "m/model,1"]  # one load for all targets
    results = json.loads((out / "results.json").read_text())
    curve = results.pop()
    assert curve["target"] == "faces, again" and picture(out / curve["pictures"][0]["file"]).size
    assert [row[:2] for row in curve["tables"][0]["rows"]] == [["faces", 1], ["faces", 2], ["again", 1], ["again", 2]]
    assert [entry["target"] for entry in results] == ["faces", "again"] * 2
    assert [entry["model"] for entry in results] == ["m/model,2"] * 2 + ["m/model,1"] * 2
    assert results[0]["accuracy"] == seen[0][2] < 1 and len(results[0]["fold_accuracies"]) == 10
    assert results[0]["impostor_pairs"] == results[0]["genuine_pairs"] == 20
    roc, scores = picture(out / "faces-0002_roc.png"), picture(out / "faces-0002_scores.png")
    assert roc.shape == scores.shape and (roc != scores).any()
    sheets = sorted(path.name for path in out.glob("badcases/faces-0002_*"))
    assert bool(sheets) == (mode == 1)
    assert all(picture(out / "badcases" / sheet).size for sheet in sheets)
    assert (out / "faces-0001_embeddings.npz").exists() == (mode == 2)
    if mode == 2:
        dump = np.load(out / "faces-0001_embeddings.npz")
        np.testing.assert_array_equal(dump["issame"], pack.issame)
        assert verification.evaluate(dump["embeddings"], dump["issame"]).accuracy == pytest.approx(seen[2][2])
    assert not list(out.rglob("*.tmp"))


def test_bad_cases_are_the_errors_of_the_accuracy():
    images, issame = face_like(60, 110)
    result = verification.test(PixelPack(images, issame), pooled, progress=False).result
    rejects, accepts = bad_cases(result)
    assert len(rejects) + len(accepts) == round(60 * (1 - result.accuracy)) > 0
    assert issame[rejects].all() and not issame[accepts].any()


def test_an_output_that_cannot_be_written_is_said_before_computing(pack, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/out: cannot be written"):
        next(verification.verify(["m,1"], [pack], tmp_path / "file" / "out", None))


def test_find_targets(pack, tmp_path):
    assert verification.find_targets("", tmp_path) == [pack.path]
    assert verification.find_targets("faces", tmp_path) == [pack.path]
    assert verification.find_targets(str(pack.path), "elsewhere") == [pack.path]
    with pytest.raises(UserError, match="cfp_fp.bin.*: faces$"):
        verification.find_targets("faces,cfp_fp", tmp_path)
    with pytest.raises(UserError, match="cfp_fp.bin.*: faces$"):
        verification.find_targets(str(tmp_path / "cfp_fp.bin"), ".")
    with pytest.raises(UserError, match="two targets"):
        verification.find_targets(f"faces,{pack.path}", tmp_path)
    with pytest.raises(UserError, match="no verification pack"):
        verification.find_targets("", tmp_path / "empty")


def test_find_models(tmp_path):
    prefix = str(tmp_path / "model")
    for epoch in (1, 2, 12):
        Path(f"{prefix}-{epoch:04d}.params").touch()
    assert verification.find_models(f"{prefix},3") == [f"{prefix},3"]
    assert verification.find_models(f"{prefix},3|1") == [f"{prefix},3", f"{prefix},1"]
    assert verification.find_models(prefix) == [f"{prefix},12", f"{prefix},2", f"{prefix},1"]
    assert verification.find_models(prefix, "1,3") == [f"{prefix},2", f"{prefix},1"]
    for bad in ("3", "5,6", "2,1", "a,b"):
        with pytest.raises(UserError, match="--max"):
            verification.find_models(prefix, bad)
    for bad in (str(tmp_path / "other"), f"{prefix},", f"{prefix},x", f"{prefix},1|"):
        with pytest.raises(UserError, match="expected PREFIX,EPOCH"):
            verification.find_models(bad)


def run(folder, *flags):
    return subprocess.run([sys.executable, str(ROOT / "eval" / "verification.py"), *flags], cwd=str(folder), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def tiny_model(folder):
    """A checkpoint for 16x16 images with 6-dimensional embeddings."""
    from common.checkpoint import save
    from common.mxnet_setup import mx

    data = mx.sym.Variable("data")
    symbol = mx.sym.FullyConnected(mx.sym.Flatten((data - 127.5) / 128), num_hidden=6, name="pre_fc1")
    symbol = mx.sym.identity(symbol, name="fc1")
    rng = np.random.RandomState(0)
    params = {"pre_fc1_weight": mx.nd.array(rng.standard_normal((6, 768))), "pre_fc1_bias": mx.nd.zeros(6)}
    save(str(folder / "model"), 1, symbol, params, {})


def test_the_command(pack, tmp_path):
    tiny_model(tmp_path)
    done = run(tmp_path, "--model", "model,1", "--data-dir", ".", "--target", "faces", "--image-size", "16,16",
               "--gpu", "-1", "--batch-size", "16", "--nfolds", "4")
    assert done.returncode == 0, done.stderr
    assert "[faces][1]XNorm: " in done.stdout and "[faces][1]Accuracy-Flip: " in done.stdout
    assert "Max of [faces] is " in done.stdout and "img/s" in done.stderr
    assert {path.name for path in (tmp_path / "verification").iterdir()} == {
        "results.json", "evaluations.csv", "embeddings", "faces-0001_roc.png", "faces-0001_scores.png",
        "faces-0001_angles.png", "faces-0001_hardest.png"}


def test_the_command_names_a_missing_target(pack, tmp_path):
    tiny_model(tmp_path)
    done = run(tmp_path, "--model", "model,1", "--target", "lfw")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "lfw.bin" in done.stderr and "faces" in done.stderr


@pytest.mark.parametrize("flags", [["--nfolds", "0"], ["--batch-size", "x"], ["--mode", "3"], ["--nfold", "3"]])
def test_bad_flags_are_one_line(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        verification.parse_args(flags)
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_public_checkpoint_on_real_pairs(face_data):
    """Thirty pairs of LFW; the whole protocol on all 6,000 of them gives 0.99450+-0.00466."""
    from common.embedder import Embedder
    from datasets.pairs import read_lfw_pairs

    pairs = read_lfw_pairs(face_data / "lfw" / "pairs.txt", face_data / "lfw")
    pairs = pairs[:15] + pairs[300:315]  # genuine, then impostor ones
    images = [path.read_bytes() for pair in pairs for path in (pair.first, pair.second)]
    pack = Pack("lfw.bin", images, np.array([pair.same for pair in pairs]), (112, 112))
    found = verification.test(pack, Embedder(str(face_data / "models" / "y1" / "model") + ",0", batch_size=30),
                              nfolds=1, batch_size=30, progress=False)
    assert found.result.accuracy >= 29 / 30
    assert found.xnorm == pytest.approx(11.1, abs=0.7)
