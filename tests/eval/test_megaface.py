"""MegaFace from feature files: packs, noise lists, noise removal, the report and the commands."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError, UserError
from eval import feature_sets, megaface, megaface_report, remove_noises
from eval.features import claim, feature_path, read_feature, unreadable_path, write_feature
from eval.identification import identify
from eval.results import read_results

ROOT = Path(__file__).resolve().parents[2]
PEOPLE, IMAGES, DISTRACTORS, DIMENSIONS = 5, 4, 60, 8
FACESCRUB = [f"P{person}/P{person}_{image}.png" for person in range(PEOPLE) for image in range(IMAGES)]
MEGAFACE = [f"{number // 20:03d}/{number}@N/0.jpg" for number in range(DISTRACTORS)]
NOISY = dict(facescrub=[3, 9], megaface=[5, 50])


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture
def sets(tmp_path):
    """Feature files, lists and noise lists in tmp_path; returns the features of both sets and whose the first are."""
    rng = np.random.RandomState(0)
    names = np.repeat(np.arange(PEOPLE), IMAGES)
    people = rng.standard_normal((PEOPLE, DIMENSIONS))
    probes = unit(people[names] + 0.7 * rng.standard_normal((len(names), DIMENSIONS)))
    features = dict(facescrub=probes.astype(np.float32),
                    megaface=unit(rng.standard_normal((DISTRACTORS, DIMENSIONS))).astype(np.float32))
    for kind, entries in (("facescrub", FACESCRUB), ("megaface", MEGAFACE)):
        (tmp_path / f"{kind}_lst").write_text("".join(f"{entry}\n" for entry in entries))
        for entry, feature in zip(entries, features[kind]):
            write_feature(feature_path(tmp_path / "out", kind, entry, "x"), feature)
    (tmp_path / "facescrub_noises").write_text("# wrong names\nP0_3.png\nP2/P2_1.png\nQ9_9.png\n\n")
    (tmp_path / "megaface_noises").write_text(f"# known faces\n{MEGAFACE[5]}\n7\t{MEGAFACE[50]}\n")
    return features, names


def lists(folder, end="lst"):
    return {kind: folder / f"{kind}_{end}" for kind in ("facescrub", "megaface")}


def score(folder, **settings):
    return megaface.score_features(lists(folder), folder / "out", "x", progress=False, **settings)


def without(features, names):
    probes, distractors = (np.delete(features[kind], NOISY[kind], axis=0) for kind in ("facescrub", "megaface"))
    return probes, np.delete(names, NOISY["facescrub"]), distractors


@pytest.mark.parametrize("pack", ["", "packed"])
def test_files_give_what_features_in_memory_give(tmp_path, sets, pack):
    features, names = sets
    scores = score(tmp_path, noises=lists(tmp_path, "noises"), pack=pack and str(tmp_path / pack))
    expected = identify(features["facescrub"], names, features["megaface"])
    np.testing.assert_array_equal(scores.results["raw"].cmc, expected.cmc)
    assert scores.results["raw"].tar_at_far == expected.tar_at_far
    expected = identify(*without(features, names))
    np.testing.assert_array_equal(scores.results["refined"].cmc[-1], expected.cmc[-1])
    assert scores.results["refined"].tar_at_far == expected.tar_at_far
    assert scores.remarks == ["facescrub: 20 features, missing and left out: 0, noisy: 2 of 3 listed",
                              "megaface: 60 features, missing and left out: 0, noisy: 2 of 2 listed"]


def test_without_noise_lists_there_is_no_refined_result(tmp_path, sets):
    assert list(score(tmp_path).results) == ["raw"]


def test_missing_files_are_counted(tmp_path, sets):
    features, names = sets
    for entry in MEGAFACE[7:9]:
        feature_path(tmp_path / "out", "megaface", entry, "x").unlink()
    for pack in ("", str(tmp_path / "packed")):
        with pytest.raises(UserError, match=r"2 of 60 megaface features are missing, the first is .*000/7@N/0.jpg_x.bin"
                                            ".*--skip-missing"):
            score(tmp_path, pack=pack)
        scores = score(tmp_path, pack=pack, skip_missing=True)
        assert scores.remarks[1] == "megaface: 58 features, missing and left out: 2"
        expected = identify(features["facescrub"], names, np.delete(features["megaface"], [7, 8], axis=0))
        np.testing.assert_array_equal(scores.results["raw"].cmc, expected.cmc)


def test_nothing_at_all_is_an_error(tmp_path, sets):
    with pytest.raises(UserError, match="20 of 20 facescrub features are missing"):
        megaface.score_features(lists(tmp_path), tmp_path / "none", "x", skip_missing=True, progress=False)


def test_damaged_and_mixed_features_are_named(tmp_path, sets):
    path = feature_path(tmp_path / "out", "megaface", MEGAFACE[30], "x")
    write_feature(path, np.ones(3))
    with pytest.raises(DataError, match="30@N/0.jpg_x.bin: 3 dimensions: expected 8, as in .*0@N"):
        score(tmp_path)
    path.write_bytes(b"short")
    with pytest.raises(DataError, match="30@N/0.jpg_x.bin: 5 bytes"):
        score(tmp_path, pack=str(tmp_path / "packed"))
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == ["facescrub_x.json", "facescrub_x.npy"]
    for entry in MEGAFACE:
        write_feature(feature_path(tmp_path / "out", "megaface", entry, "x"), np.ones(3))
    with pytest.raises(UserError, match="FaceScrub features of 8 dimensions, MegaFace features of 3"):
        score(tmp_path)


def test_a_pack_stands_for_its_files_and_no_others(tmp_path, sets, monkeypatch):
    pack = str(tmp_path / "packed")
    first = score(tmp_path, pack=pack)
    monkeypatch.setattr(feature_sets, "read_feature", None)  # the files are not read again
    np.testing.assert_array_equal(score(tmp_path, pack=pack).results["raw"].cmc, first.results["raw"].cmc)
    model = tmp_path / "a.params"
    model.write_bytes(b"one")
    claim(tmp_path / "out", "x", {"a,1": model})
    with pytest.raises(UserError, match="facescrub_x.npy: packed from another list or the features of another model"):
        score(tmp_path, pack=pack)
    (tmp_path / "out" / "x_models.txt").unlink()
    (tmp_path / "megaface_lst").write_text(f"{MEGAFACE[1]}\n")
    with pytest.raises(UserError, match="megaface_x.npy: packed from another list"):
        score(tmp_path, pack=pack)


def test_sizes_beyond_what_is_there_are_refused(tmp_path, sets):
    with pytest.raises(UserError, match="sizes 61: expected numbers from 1 to 60"):
        score(tmp_path, sizes=[61])


def test_placeholders_are_told(tmp_path, sets):
    unreadable_path(tmp_path / "out", "megaface", "x").write_text(f"{MEGAFACE[2]}\nelse/where/0.jpg\n")
    assert "placeholders of unreadable images, which match nothing: 1" in score(tmp_path).remarks[1]


def test_noise_lists(tmp_path):
    path = tmp_path / "noises"
    path.write_text("#comment\np/a.jpg\nq.jpg\n\n  r/c.jpg\tmore\nno/such.jpg\n")
    found = feature_sets.read_noises(path, "facescrub", ["x/p/a.jpg", "p/b.jpg", "p/q.jpg", "r/c.jpg"])
    assert found.listed == 4 and found.noisy.tolist() == [True, False, True, True]
    assert feature_sets.read_noises("", "megaface", ["a/b/c"]) == (np.array([False]), 0)
    path.write_text("\na.jpg\n")
    with pytest.raises(UserError, match="noises line 2: 'a.jpg' names several images, such as p/a.jpg and q/a.jpg"):
        feature_sets.read_noises(path, "facescrub", ["p/a.jpg", "q/a.jpg"])
    assert not feature_sets.read_noises(path, "megaface", ["a/p/a.jpg", "a/q/a.jpg"]).noisy.any()
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match="not a text in UTF-8"):
        feature_sets.read_noises(path, "megaface", [])
    with pytest.raises(DataError, match="cannot be read"):
        feature_sets.read_noises(tmp_path / "none", "megaface", [])


def remove(folder, kind, **settings):
    return remove_noises.remove_noises(kind, folder / f"{kind}_lst", folder / f"{kind}_noises", folder / "out",
                                       folder / "clean", "x", progress=False, **settings)


def cleaned(folder, kind, entry):
    return read_feature(feature_path(folder / "clean", kind, entry, "x"))


def test_noise_removal_is_the_originals(tmp_path, sets):
    features, names = sets
    assert remove(tmp_path, "facescrub") == (20, 2, 3, 0, 0)
    assert remove(tmp_path, "megaface") == (60, 2, 2, 0, 0)
    for number, entry in enumerate(FACESCRUB):
        found = cleaned(tmp_path, "facescrub", entry)
        assert len(found) == DIMENSIONS + 1 and found[-1] == 0
        if number in NOISY["facescrub"]:
            others = [i for i in np.flatnonzero(names == names[number]) if i not in NOISY["facescrub"]]
            assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
            np.testing.assert_allclose(found[:-1], unit(features["facescrub"][others].sum(axis=0)), atol=2e-3)
        else:
            np.testing.assert_array_equal(found[:-1], features["facescrub"][number])
    for number, entry in enumerate(MEGAFACE):
        found = cleaned(tmp_path, "megaface", entry)
        np.testing.assert_array_equal(found[:-1], features["megaface"][number])
        assert found[-1] == (100 if number in NOISY["megaface"] else 0)


def test_noise_removal_hangs_on_its_seed(tmp_path, sets):
    def made(seed):
        remove(tmp_path, "facescrub", seed=seed)
        return cleaned(tmp_path, "facescrub", FACESCRUB[3])

    np.testing.assert_array_equal(made(1), made(1))
    assert not np.array_equal(made(1), made(2))


def test_removed_distractors_are_as_if_left_out(tmp_path, sets):
    features, names = sets
    remove(tmp_path, "facescrub")
    remove(tmp_path, "megaface")
    clean = megaface.score_features(lists(tmp_path), tmp_path / "clean", "x", progress=False).results["raw"]
    probes = np.array([cleaned(tmp_path, "facescrub", entry)[:-1] for entry in FACESCRUB])
    expected = identify(probes, names, without(features, names)[2])
    np.testing.assert_array_equal(clean.cmc[-1], expected.cmc[-1])


def test_a_person_of_noise_alone_and_missing_files_are_counted(tmp_path, sets):
    (tmp_path / "facescrub_noises").write_text("".join(f"P1_{image}.png\n" for image in range(IMAGES)))
    feature_path(tmp_path / "out", "facescrub", FACESCRUB[0], "x").unlink()
    with pytest.raises(UserError, match="1 of 20 facescrub features are missing"):
        remove(tmp_path, "facescrub")
    assert remove(tmp_path, "facescrub", skip_missing=True) == (19, 4, 4, 1, 4)
    assert np.linalg.norm(cleaned(tmp_path, "facescrub", "P1/P1_0.png")) == pytest.approx(1, abs=1e-6)
    with pytest.raises(UserError, match="input and output are the same folder"):
        remove_noises.remove_noises("megaface", tmp_path / "megaface_lst", "", tmp_path / "out", tmp_path / "out")


def test_the_report(tmp_path, sets):
    scores = score(tmp_path, noises=lists(tmp_path, "noises"), max_rank=10, fars=(1e-6, 1e-2), sizes=[10, 60])
    raw, refined = scores.results["raw"], scores.results["refined"]
    lines = megaface_report.report_lines(scores, [1, 10])
    assert "raw: 20 probes, 60 genuine and 1200 impostor pairs, 60 distractors" in lines
    assert f"rank-1 at 60 distractors    {raw.rate(60):.5f}   {refined.rate(60):.5f}" in lines
    assert f"rank-10 at 60 distractors   {raw.rate(60, 10):.5f}   {refined.rate(60, 10):.5f}" in lines
    assert any(line.startswith("note: 1200 impostor pairs are too few for FAR 1e-06;") for line in lines)
    entry = megaface_report.write_report(scores, [1, 10], tmp_path / "scores", "x", {"m,1": "ab"},
                                         [tmp_path / "megaface_lst"])
    assert read_results(tmp_path / "scores" / "results.json") == [entry]
    assert entry["protocol"] == "megaface" and entry["target"] == "60 distractors"
    assert entry["figures"]["rank1@60"] == raw.rate(60) and entry["figures"]["refined_rank1@10"] == refined.rate(10)
    assert entry["figures"]["tar@0.01"] == raw.tar_at_far[1].tar
    assert entry["trace"]["model"] == "m,1" and entry["trace"]["model_sha256"] == "ab"
    assert [table["title"] for table in entry["tables"]] == ["CMC, raw", "CMC, refined", "TAR at FAR"]
    assert entry["tables"][0]["rows"][1] == [60, raw.rate(60), raw.rate(60, 10)]
    for shown in entry["pictures"]:
        assert (tmp_path / "scores" / shown["file"]).read_bytes().startswith(b"\x89PNG")
    rows = (tmp_path / "scores" / "evaluations.csv").read_text().splitlines()
    assert len(rows) == 2 and "megaface,60 distractors,rank1@60=" in rows[1]


FLAGS = ["--facescrub-lst", "facescrub_lst", "--megaface-lst", "megaface_lst", "--algo", "x", "--facescrub-noises",
         "facescrub_noises", "--megaface-noises", "megaface_noises"]


def test_the_scoring_command(tmp_path, sets, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["megaface.py", *FLAGS, "--feature-dir", "out", "--pack", "out", "--far", "0.01",
                                      "--ranks", "1,20", "--record", "all.csv"])
    megaface.main()
    told = capsys.readouterr()
    assert "raw   refined\n" in told.out and "rank-20 at 60 distractors" in told.out
    assert "packing megaface" in told.err and "distractor/s" in told.err
    assert json.loads((tmp_path / "out/scores_x/results.json").read_text())[0]["figures"]["refined_tar@0.01"] > 0
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 2


def test_the_noise_removing_command(tmp_path, sets):
    (tmp_path / "out" / "x_models.txt").write_text("ab  m,1\n")
    command = [sys.executable, str(ROOT / "eval" / "remove_noises.py"), *FLAGS]
    done = subprocess.run([*command, "--feature-dir-input", "out", "--feature-dir-out", "clean"], cwd=str(tmp_path),
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("facescrub: 20 features written, 2 of them noisy (3 listed), missing: 0\n"
                           "megaface: 60 features written, 2 of them noisy (2 listed), missing: 0\n")
    assert feature_sets.models_of(tmp_path / "clean", "x") == {"m,1": "ab"}


@pytest.mark.parametrize("flags", [["--sizes", "1,x"], ["--ranks", "0"], ["--ranks", ""], ["--far", "small"]])
def test_bad_flags(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        megaface.parse_args(flags)
    assert stopped.value.code == 2 and f"argument {flags[0]}" in capsys.readouterr().err


def test_flags_of_the_original():
    args = remove_noises.parse_args([])
    assert args.facescrub_noises == "./data/facescrub_noises.txt"
    assert args.megaface_noises == "./data/megaface_noises.txt"
    assert (args.facescrub_lst, args.megaface_lst) == ("./data/facescrub_lst", "./data/megaface_lst")
    assert (args.feature_dir_input, args.feature_dir_out) == ("./feature_out", "./feature_out_clean")
    assert args.algo == "insightface"


def test_an_index_without_faiss_is_said(tmp_path, sets, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="--index needs faiss, which is not installed .*pip install faiss-cpu"):
        score(tmp_path, index="Flat")


def test_an_index_that_finds_all_changes_nothing(tmp_path, sets):
    pytest.importorskip("faiss", reason="faiss is not installed")
    exact = score(tmp_path, max_rank=60, noises=lists(tmp_path, "noises"))
    found = score(tmp_path, max_rank=60, noises=lists(tmp_path, "noises"), index="IVF2,Flat;nprobe=2")
    assert found.recall == {1: 1.0, 10: 1.0, 50: 1.0}
    for name, result in exact.results.items():
        np.testing.assert_array_equal(found.results[name].cmc, result.cmc)
        assert found.results[name].tar_at_far == result.tar_at_far
    with pytest.raises(UserError, match="--index Nonsense: faiss refuses it"):
        score(tmp_path, index="Nonsense")


def test_an_index_that_finds_too_little_says_so(tmp_path, sets):
    pytest.importorskip("faiss", reason="faiss is not installed")
    scores = score(tmp_path, max_rank=20, fars=(0.5,), sizes=[60], index="IVF8,Flat")
    assert 0 < scores.recall[20] < 1
    assert np.isnan(scores.results["raw"].tar_at_far[0].tar)
    assert any("of the nearest 20" in line for line in megaface_report.report_lines(scores, [1]))
    assert megaface_report.write_report(scores, [1], tmp_path / "s", "x")["figures"]["tar@0.5"] is None
