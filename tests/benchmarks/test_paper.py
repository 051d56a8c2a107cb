"""The papers' tables: rows that can be trained, figures as printed, runs done once, and what counts as noise."""
import statistics
from pathlib import Path

import numpy as np
import pytest
from in_process import run_here

from benchmarks import paper, paper_data, paper_report
from benchmarks.measure import read_table
from benchmarks.paper_tables import ANGLES, MEGAFACE, TABLES, VERIFICATION, Row, Table
from benchmarks.resume import write_faces
from common.errors import UserError
from datasets.training_set import TrainingSet
from recognition.recipes import recipe_names
from recognition.train import parse_args
from symbols import get_symbol, network_settings

ROWS = [pytest.param(table, row, id=f"{name}: {row.name}") for name, table in TABLES.items() for row in table.rows]
SHORT, FULL = (paper.Scale(steps, (), 1, "", 0) for steps in (lambda flags: 10, None))


def bare_runs(table, scale):
    """Runs that know what flags are, and no data."""
    runs = paper.Runs.__new__(paper.Runs)
    runs._table, runs._scale = table, scale
    return runs


@pytest.mark.parametrize("scale", [SHORT, FULL], ids=["short", "full"])
@pytest.mark.parametrize("table, row", ROWS)
def test_every_row_can_be_trained(table, row, scale):
    flags = bare_runs(table, scale).flags(row)
    settings, _ = parse_args([*flags, "--dataset", "demo"])
    network = {key: settings[key] for key in network_settings(settings.network) if key != "net_name"}
    timed, _ = parse_args([*paper._network_flags(flags), "--dataset", "demo"])
    assert {key: timed[key] for key in network} == network
    shapes = get_symbol(settings.network, **network).infer_shape(data=(2, 3, 112, 112))[1]
    assert len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][0] == 2
    assert table.recipe in recipe_names() and row.begins in ("", *(other.name for other in table.rows))
    assert table.reference in [other.name for other in table.rows]


def test_figures_are_those_that_are_printed(golden):
    """Each stands in the collection of figures, in per cent or as a share."""
    text = (golden.parent / "reference" / "paper_figures.md").read_text()
    mean_of_five = statistics.mean([99.24, 99.20, 99.30, 99.27, 99.13])
    for table in TABLES.values():
        for row in table.rows:
            for column, figure in row.paper.items():
                assert (f"{figure:.2f}" in text or f"{figure:.1f}" in text or f"{figure / 100:.5f}"[1:] in text
                        or figure == round(mean_of_five, 2)), (row.name, column, figure)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder)
    return folder


TINY = Table("Two losses", "A", (
    Row("Softmax", ("--loss", "softmax"), {"faces": 99.5}),
    Row("Triplet", ("--loss", "triplet", "--triplet-bag-size", "60"), begins="Softmax")), "Softmax",
             short=("--network", "m05", "--net-multiplier", "0.1", "--emb-size", "16"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Results in a folder of their own, and commands in this process. Gives a list of those that were called."""
    called = []

    def logged(log, script, *words, threads=1):
        called.append([script, *map(str, words)])
        done = run_here(script, *words)
        Path(log).write_text(done.stdout + done.stderr)
        if done.returncode:
            raise UserError(f"{script}: {done.stderr}")

    monkeypatch.setattr("benchmarks.measure.RESULTS", tmp_path / "results")
    monkeypatch.setitem(TABLES, "tiny", TINY)
    for module in (paper, paper_data):
        monkeypatch.setattr(module, "logged", logged)
    return called


def test_a_table_is_done_once_and_goes_on_where_it_failed(faces, tmp_path, here, monkeypatch):
    data, scale = paper_data.find_data(str(faces), tmp_path), paper.Scale(lambda flags: 4, (), 1, "", 0)
    whole = paper.logged

    def failing(log, script, *words, threads=1):
        if "triplet" in words:
            raise UserError("no more")
        whole(log, script, *words, threads=threads)

    def do():
        here.clear()
        return paper.do_table("tiny", data, tmp_path / "work", scale, 1, seeds=1)

    monkeypatch.setattr(paper, "logged", failing)
    with pytest.raises(UserError, match="no more"):
        do()
    assert [call[0] for call in here] == ["recognition/train.py"] * 2 + ["eval/verification.py"]  # the base goes before
    monkeypatch.setattr(paper, "logged", whole)
    paths = do()
    assert [call[0] for call in here] == ["recognition/train.py", "eval/verification.py"] and "triplet" in here[0]
    begun = here[0][here[0].index("--pretrained") + 1]
    assert Path(f"{begun}-0001.params").is_file() and "m05-softmax" in begun
    do()
    assert not here
    rows, text = read_table("paper_tiny"), paths[1].read_text()
    assert [row["row"] for row in rows] == ["Softmax", "Triplet"] and rows[0]["faces (paper)"] == "99.5"
    assert all(0 <= float(row["faces"]) <= 100 and row["apart"] in ("reference", "one seed") for row in rows)
    assert "*99.5*" in text and "seeds: 1, 4 steps, on" in text and paths[2].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("table, flags, what", [
    ("megaface", [], "--megaface: expected"), ("nothing", [], "unknown table 'nothing'"),
    ("margins", ["--only", "ArcFace"], "unknown row 'ArcFace'"),
    ("margins", ["--data", "away"], "unknown data set 'away'")])
def test_what_cannot_be_done(table, flags, what, faces, tmp_path):
    done = run_here("benchmarks/paper.py", table, "--data", faces, "--steps", 2, "--work", tmp_path, *flags)
    assert done.returncode == 2 and what in done.stderr and len(done.stderr.splitlines()) == 1


def test_labels_are_spoilt(faces, tmp_path):
    spoil_labels = paper_data.spoil_labels
    spoil_labels(faces, tmp_path, 0.25)
    before, after = TrainingSet(faces), TrainingSet(tmp_path)
    names = {before.read(row)[0]: before.label(row) for row in range(len(before))}
    found = [(names[image], label) for image, label in map(after.read, range(len(after)))]
    assert len(found) == len(before) and after.num_classes == before.num_classes
    assert np.mean([old != new for old, new in found]) == 0.25


class TestNoise:
    def test_residual_deviation(self):
        """What rows and seeds add is no noise; of two seeds it is the differences' deviation over the root of two."""
        rows, seeds = np.array([[70.0], [75], [71]]), np.array([0.0, 3, -8])
        assert paper_report.residual_deviation(rows + seeds) == pytest.approx(0)
        values = rows + seeds[:2] + np.random.RandomState(0).normal(0, 1, (3, 2))
        expected = np.std(values[:, 0] - values[:, 1], ddof=1) / 2 ** 0.5
        assert paper_report.residual_deviation(values) == pytest.approx(expected)
        assert paper_report.residual_deviation([[1.0], [2.0]]) is paper_report.residual_deviation([[1.0, 2.0]]) is None

    def test_random_rows_are_called_noise(self):
        """Of rows that differ by chance alone few are called apart; one that is far is."""
        rng, apart = np.random.RandomState(0), 0
        for _ in range(200):
            found = {row: [({"lfw": value}, 1) for value in rng.normal(70, 1, 4)] for row in ("Softmax", "a", "b", "c")}
            apart += sum(paper_report.beside(TINY, found, "lfw").say(row) != "noise" for row in "abc")
        assert 0.02 < apart / 600 < 0.12  # two standard errors, nine degrees of freedom: about one in thirteen
        found["c"] = [({"lfw": 75 + value}, 1) for value in (-1, 0, 1, 0)]
        assert paper_report.beside(TINY, found, "lfw").say("c").startswith("+")


def test_steps_are_told_where_rows_differ():
    """Of a table whose rows train for the same minutes, and so not for as many steps."""
    def lines(*steps):
        found = {row.name: [({"faces": 75.0}, number)] for row, number in zip(TINY.rows, steps)}
        rows = paper_report.summarise("tiny", TINY, "rendered", found, lambda row: row.flags)
        return paper_report.markdown(TINY, rows).splitlines()[2:6]

    assert lines(4, 4)[0] == "| row | faces | *faces, printed* | beside the reference |"
    assert lines(4, 9) == ["| row | steps | faces | *faces, printed* | beside the reference |",
                           "| --- | --- | --- | --- | --- |", "| Softmax | 4 | 75.00 | *99.5* | reference |",
                           "| Triplet | 9 | 75.00 |  | one seed |"]


@pytest.mark.parametrize("kind, entry, expected", [
    (VERIFICATION, dict(target="packs/lfw.bin", figures=dict(accuracy=0.99)), {"lfw": 99.0}),
    (MEGAFACE, dict(figures={"rank1@10": 0.9, "rank1@1548": 0.5, "tar@1e-06": 0.25, "refined_rank1@1548": 0.75,
                             "refined_tar@1e-06": None}), {"rank-1": 50.0, "TAR": 25.0, "rank-1 refined": 75.0}),
    (ANGLES, dict(figures={"W-EC": None, "Intra1": 40.5}), {"Intra1": 40.5})])
def test_figures_of_results(kind, entry, expected):
    assert paper._figures(kind, [entry]) == expected
