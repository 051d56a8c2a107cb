"""The report: everything in, nothing from outside, names that are hostile, logs that are long, repeated or damaged."""
import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from common.errors import DataError, UserError
from common.pages import Markup, escape, number, table
from eval import plots
from eval.report import write_report
from eval.results import make_entry, picture, read_results, write_results
from eval.results import table as entry_table
from eval.training_log import read_training

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = """</title><script>alert("1")</script> & <b>'x'"""
VOID = {"meta", "img", "br", "path", "use"}  # what HTML does not close, and what SVG closes in itself


class Page(HTMLParser):
    """A page as its elements: raises where they are not balanced."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def values(self, name):
        return [value for key, value in self.attributes if key == name]


def progress(step, loss=1.0, **more):
    return dict(dict(event="progress", time=1000.0 + step, step=step, epoch=step // 100, samples_per_second=50.0,
                     loss=loss, accuracy=0.5, lr=0.1), **more)


def verified(step, target, accuracy):
    return dict(event="verification", time=1000.5 + step, step=step, target=target, accuracy=accuracy,
                accuracy_std=0.01, xnorm=20.0)


def write_log(folder, events, **config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / "settings.json").write_text(json.dumps(dict(network="y1", loss="arcface", **config)))
    return folder


def write_entries(folder, *entries):
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, entries)
    return folder


def entry(target="lfw", model="models/a/model,1", **figures):
    trace = dict(model=model, command="python eval/verification.py", versions={"MXNet": "1.9.1"}, machine="a machine",
                 date="2030-01-01", files={f"{target}.bin": "ab" * 32})
    return make_entry("verification", target, f"{target} of {model}", figures, trace=trace)


def report(*folders, title=""):
    return Page(write_report(folders, folders[0].parent / "report.html", title))


class TestPage:
    @pytest.fixture(scope="class")
    def page(self, tmp_path_factory):
        root = tmp_path_factory.mktemp("report") / "all"
        folder = write_log(root / "model", [
            dict(event="start", time=1000, step=0, description=["network y1: 7 parameters"],
                 trace=dict(command="python recognition/train.py --loss arcface", files={"property": "cd" * 32})),
            *(progress(step, 9 - step / 10) for step in range(10, 60, 10)),
            *(verified(step, target, 0.5 + step / 100) for step in (20, 40) for target in ("lfw", "cfp_fp")),
            dict(event="checkpoint", time=1, step=40, path="model-0001.params")], loss_s=64.0)
        random = np.random.RandomState(0)
        cv2.imwrite(str(folder / "roc.png"), random.randint(0, 256, (40, 60, 3), np.uint8))
        cv2.imwrite(str(folder / "sheet.png"), random.randint(0, 256, (500, 2000, 3), np.uint8))
        made = entry(accuracy=0.98765, eer=None)
        made["tables"] = [entry_table("threshold table", ["FAR", "TAR"], [[1e-4, 0.4321], [None, "many"]], "a note")]
        made["pictures"] = [picture("roc.png", "the ROC"), picture("sheet.png", "worst pairs")]
        write_entries(folder, made, entry("cfp_fp", accuracy=0.87654))
        return report(root)

    def test_everything_is_in(self, page):
        for words in ("Report on all", "0.98765", "0.87654", "lfw of models/a/model,1", "threshold table", "0.0001",
                      "0.4321", "many", "a note", "the ROC", "worst pairs", "loss_s 64.0", "network y1: 7 parameters",
                      "python recognition/train.py --loss arcface", "python eval/verification.py", "MXNet 1.9.1",
                      "ab" * 32 + " lfw.bin", "cd" * 32 + " property", "1 checkpoint saved, the last at step 40",
                      "50 steps", "Training accuracy", "Learning rate", "Speed", "Verification: accuracy",
                      "Verification: xnorm",
                      "8 (step 10) to 4 (step 50); lowest 4 (step 50), highest 8 (step 10)",
                      "1 training, 2 evaluations"):
            assert words in page.text, words
        assert page.tags.count("svg") == 6 and page.text.count("– ") >= 2

    def test_figures_come_first(self, page):
        places = [page.text.index(words) for words in ("0.98765", "Learning rate", "threshold table", "loss_s 64.0")]
        assert places == sorted(places)

    def test_nothing_from_outside(self, page):
        ids = page.values("id")
        assert len(set(ids)) == len(ids) > 20
        for reference in page.values("src") + page.values("href") + page.values("xlink:href"):
            assert reference.startswith("data:image/") or reference[1:] in ids and reference[0] == "#", reference
        assert all(found in ids for value in page.values("clip-path") for found in re.findall(r"url\(#(.*)\)", value))
        assert not re.search("https?:|@import", "".join(map(str, page.attributes)) + page.text)
        assert "script" not in page.tags and page.tags.count("style") == 1

    def test_pictures(self, page):
        small, sheet = (cv2.imdecode(np.frombuffer(base64.b64decode(source.split(",")[1]), np.uint8), -1)
                        for source in page.values("src"))
        assert small.shape == (40, 60, 3) and sheet.shape[1] == 1250 and sheet.shape[0] in (312, 313)
        assert page.values("alt") == ["the ROC", "worst pairs"]
        assert len(page.values("aria-label")) == page.tags.count("svg") + 1  # and the contents

    def test_headings_go_down_step_by_step(self, page):
        levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:]))

    def test_hostile_names(self, tmp_path):
        events = [progress(1), progress(2), verified(1, HOSTILE, 0.5), verified(2, HOSTILE, 0.6),
                  dict(event="checkpoint", step=2, path=HOSTILE)]
        start = dict(event="start", time=1, step=0, description=[HOSTILE], trace={HOSTILE: HOSTILE})
        write_log(tmp_path / "<i>&", [start, *events], dataset=HOSTILE)
        made = make_entry(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE},
                          [entry_table(HOSTILE, [HOSTILE], [[HOSTILE]], HOSTILE)], [picture(HOSTILE, HOSTILE)],
                          dict(model=HOSTILE, files={HOSTILE: HOSTILE}))
        write_entries(tmp_path / "<i>&", made)
        page = report(tmp_path / "<i>&", title=HOSTILE)
        assert page.text.count(HOSTILE) > 15
        assert not {"script", "b", "i"} & set(page.tags) - {"b"} and page.tags.count("b") == page.tags.count("svg")

    def test_missing_and_undecodable_pictures(self, tmp_path):
        made = entry(accuracy=0.5)
        made["pictures"] = [picture("gone.png", "angles"), picture("empty.png", "CMC"), picture("text.png", "scores")]
        folder = write_entries(tmp_path / "a", made)
        (folder / "empty.png").touch()
        (folder / "text.png").write_text("no picture")
        page = report(folder)
        for words in ("angles", "gone.png: cannot be read", "empty.png: the image (0 bytes)", "scores",
                      "text.png: the image (10"):
            assert words in page.text
        assert "img" not in page.tags

    def test_trainings_alone_and_folders_named_twice(self, tmp_path):
        write_log(tmp_path / "a" / "one", [progress(10)])
        write_log(tmp_path / "a" / "two", [])
        page = report(tmp_path / "a", tmp_path / "a" / "one")
        assert "2 trainings, 0 evaluations" in page.text and "No line of progress" in page.text

    def test_many_rows_and_points_stay_small(self, tmp_path):
        random = np.random.RandomState(0)
        write_log(tmp_path / "a", [progress(step, loss) for step, loss in enumerate(random.rand(20000).tolist(), 1)])
        page = write_report([tmp_path / "a"], tmp_path / "a.html")
        assert page.stat().st_size < 400_000


class TestLog:
    def test_the_last_of_repeated_runs(self, tmp_path):
        events = [progress(step, loss=9) for step in (10, 20, 30)] + [verified(30, "lfw", 0.9)]
        events += [progress(step, loss=2) for step in (10, 20)] + [verified(20, "lfw", 0.7)]
        found = read_training(write_log(tmp_path / "a", events))
        assert found.runs == 2 and found.progress["step"].tolist() == [10, 20]
        assert found.progress["loss"].tolist() == [2, 2] and found.verification["lfw"]["accuracy"].tolist() == [0.7]
        assert "The log holds 2 runs; this is the last" in report(tmp_path / "a").text

    def test_all_numbers_of_a_verification_are_drawn(self, tmp_path):
        events = [dict(verified(step, target, 0.5), eer=step / 100, **more) for step in (10, 20)
                  for target, more in (("lfw", {"tar@0.001": 0.25}), ("few", {}))]
        found = read_training(write_log(tmp_path / "a", [progress(10), *events]))
        assert found.verification["lfw"]["tar@0.001"].tolist() == [0.25, 0.25]
        assert set(found.verification["lfw"]) - set(found.verification["few"]) == {"tar@0.001"}
        page = report(tmp_path / "a")
        assert "Verification: tar@0.001 . lfw: 0.25 (step 10)" in page.text and page.tags.count("svg") == 4 + 4

    def test_a_resumed_run_goes_on(self, tmp_path):
        start = [dict(event="start", step=step, time=step, trace={}) for step in (0, 20)]
        events = start[:1] + [progress(step, loss=9) for step in (10, 20, 30)] + start[1:] + [progress(30, loss=2)]
        found = read_training(write_log(tmp_path / "a", events))
        assert found.runs == 2 and found.start == start[1]
        assert found.progress["loss"].tolist() == [9, 9, 2]
        found = read_training(write_log(tmp_path / "a", events + start[:1] + [progress(40)]))
        assert found.runs == 3 and found.progress["step"].tolist() == [40]

    def test_a_line_being_written_and_unknown_events(self, tmp_path):
        folder = write_log(tmp_path / "a", [progress(10), dict(event="party")])
        with open(folder / "train.jsonl", "a") as file:
            file.write('{"event": "prog')
        assert read_training(folder).progress["step"].tolist() == [10]

    def test_not_finite(self, tmp_path):
        write_log(tmp_path / "a", [progress(10, float("nan")), progress(20, float("nan"), accuracy=float("inf"))])
        assert "Loss . not finite" in report(tmp_path / "a").text

    @pytest.mark.parametrize("line", ["{", "3", "[]", "{}", '{"event": "progress", "step": 3}', '{"event": []}', "\xff",
                                      json.dumps(progress(3, loss="3")), json.dumps(verified(3, 7, 0.5)),
                                      '{"event": "start", "time": 1, "step": 0, "trace": 3}'])
    def test_damaged(self, tmp_path, line):
        folder = write_log(tmp_path / "a", [progress(10)])
        with open(folder / "train.jsonl", "a", encoding="latin-1") as file:
            file.write(line + "\n" + json.dumps(progress(30)) + "\n")
        with pytest.raises(DataError, match="train.jsonl line 2: "):
            report(folder)

    @pytest.mark.parametrize("content", ["{", "[]", "\xff"])
    def test_damaged_settings(self, tmp_path, content):
        folder = write_log(tmp_path / "a", [progress(10)])
        (folder / "settings.json").write_text(content, encoding="latin-1")
        with pytest.raises(DataError, match="settings.json: "):
            report(folder)
        (folder / "settings.json").unlink()
        assert "There is no settings.json" in report(folder).text


class TestErrors:
    @pytest.mark.parametrize("content, words", [
        ('[\n{"a": }]', "line 2"), ("{}", "a JSON list, found dict"), ("[3]", "entry 1"), ("\xff", "not a text")])
    def test_damaged_results(self, tmp_path, content, words):
        (tmp_path / "results.json").write_text(content, encoding="latin-1")
        with pytest.raises(DataError, match=f"results.json: .*{words}"):
            write_report([tmp_path], tmp_path / "report.html")
        assert not (tmp_path / "report.html").exists()

    @pytest.mark.parametrize("change", [dict(protocol=None), dict(figures=[]), dict(trace=None), dict(tables=[3]),
                                        dict(tables=[dict(title="a", columns=["b"], rows=[3])]), dict(target=3),
                                        dict(trace=dict(files=[])), dict(pictures=[dict(file=3, caption="")])])
    def test_damaged_entries(self, tmp_path, change):
        write_entries(tmp_path, entry(), dict(entry(), **change))
        with pytest.raises(DataError, match="entry 2 is no result"):
            read_results(tmp_path / "results.json")

    @pytest.mark.parametrize("names, output, words", [
        (["empty"], "page.html", "empty: neither a training .* nor an evaluation"), (["none"], "x", "no such folder"),
        (["a", "empty"], "empty", "empty: cannot be written: it is a folder")])
    def test_refusals(self, tmp_path, names, output, words):
        (tmp_path / "empty").mkdir()
        write_log(tmp_path / "a", [progress(10)])
        with pytest.raises(UserError, match=words):
            write_report([tmp_path / name for name in names], tmp_path / output)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty"]

    def test_command(self, tmp_path):
        write_log(tmp_path / "a", [progress(10)])
        flags = ["a", "--output", "b/page.html", "--title", "Mine"]
        made = subprocess.run([sys.executable, ROOT / "eval/report.py", *flags], cwd=tmp_path, text=True,
                              capture_output=True)
        assert (made.returncode, made.stdout, made.stderr) == (0, "b/page.html\n", "")
        assert "<title>Mine</title>" in (tmp_path / "b/page.html").read_text()


class TestDrawing:
    @given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=3000), st.integers(10, 200))
    @settings(deadline=None, max_examples=30)
    def test_thinning_keeps_ends_and_extremes(self, values, most):
        places, values = plots.thin(values, most), np.array(values)
        assert len(places) <= most and (np.diff(places) > 0).all()
        assert {places[0], places[-1]} == {0, len(values) - 1}
        if np.isfinite(values).any():
            assert np.nanmin(values[places]) == np.nanmin(values) and np.nanmax(values[places]) == np.nanmax(values)

    def test_a_spike_is_drawn(self):
        values = np.ones(100_000)
        values[[777, 55_555]] = 9, -9
        figure = plots.curve_figure({"": (np.arange(100_000), values, None)}, "loss")
        drawn = figure.axes[0].lines[0].get_ydata()
        assert len(drawn) <= 1000 and (drawn.min(), drawn.max()) == (-9, 9)

    def test_svgs_do_not_clash_and_settings_stay(self):
        import matplotlib

        before = dict(matplotlib.rcParams)
        ids = []
        for name in ("one", "two"):
            figure = plots.curve_figure({"a": (np.arange(3), np.arange(3.0), np.ones(3))}, "loss")
            text = plots.svg(figure, name)
            assert isinstance(figure, Figure) and "loss" in re.sub("<.*?>", "", text) and "http" not in text
            ids.append(set(re.findall(' id="(.*?)"', text)))
            assert {found for _, found in re.findall(r'(href="|url\()#(.*?)["\)]', text)} <= ids[-1]
        assert not ids[0] & ids[1] and dict(matplotlib.rcParams) == before

    @pytest.mark.parametrize("value, told", [
        (None, "–"), (True, True), ("a", "a"), (12345, "12,345"), (0.987654, "0.98765"), (1e-5, "1e-05"),
        (123456.7, "123,457"), (float("nan"), "nan"), (1e20, "1e+20")])
    def test_number(self, value, told):
        assert number(value) == told

    @pytest.mark.parametrize("value, is_number", [
        ("0.98", True), ("-1e-05", True), ("12,345", True), ("", True), ("nan", True), ("0.5 to 0.6", False),
        ("a1", False)])
    def test_numbers_stand_to_the_right(self, value, is_number):
        assert ('<td class="number">' in table(["a", "b"], [["x", 1.5], ["y", value]])) == is_number

    def test_uneven_rows_are_kept(self):
        assert table(["a"], [["x"], ["y", "z"]]).count("<td>z</td>") == 1

    def test_table(self):
        made = table(["a<", "b"], [[Markup("<i>x</i>"), 1], ["<y>", None]])
        assert "<i>x</i>" in made and "&lt;y&gt;" in made and "a&lt;" in made and made.count('class="number"') == 3
        assert "<td" not in table(["a"], []) and escape('"') == "&quot;"
