"""Entries of results.json and the table of evaluations."""
import csv
import json
import multiprocessing

import numpy as np
import pytest

from common.errors import DataError, UserError
from common.files import hash_file
from eval.results import (
    append_record,
    make_entry,
    make_trace,
    picture,
    read_records,
    read_results,
    table,
    write_results,
)


def entry(**figures):
    return make_entry("verification", "lfw", "lfw, model", figures, [table("T", ["a"], [(1,)])],
                      [picture("a.png", "A")], make_trace())


def test_entries_come_back(tmp_path):
    write_results(tmp_path, [entry(accuracy=0.5, tar=float("nan"))])
    found, = read_results(tmp_path / "results.json")
    assert found["figures"] == {"accuracy": 0.5, "tar": None}
    assert found["tables"] == [{"title": "T", "columns": ["a"], "rows": [[1]], "note": ""}]
    assert found["trace"]["versions"]["MXNet"] and found["trace"]["machine"]


@pytest.mark.parametrize("text, message", [
    ("", "not JSON"), ("{", "not JSON"), ("[1]", "entry 1 is no result"), ('[{"title": "x"}]', "entry 1 is no result"),
    ('{"a": 1}', "expected a JSON list, found dict"), ("[{}]", "entry 1 is no result")])
def test_what_is_no_result_is_refused(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=f"results.json: {message}"):
        read_results(tmp_path / "results.json")


def test_a_trace_knows_model_training_and_data(tmp_path):
    (tmp_path / "model-0003.params").write_bytes(b"parameters")
    (tmp_path / "settings.json").write_text(json.dumps(dict(network="y1", loss="arcface", dataset="emore")))
    (tmp_path / "lfw.bin").write_bytes(b"")
    trace = make_trace(f"{tmp_path}/model,3", [tmp_path / "lfw.bin"])
    assert (trace["network"], trace["loss"], trace["training_data"]) == ("y1", "arcface", "emore")
    assert trace["model_sha256"] == hash_file(tmp_path / "model-0003.params") != ""
    assert trace["files"] == {f"{tmp_path}/lfw.bin": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    (tmp_path / "settings.json").write_text("{")
    elsewhere = make_trace(f"{tmp_path}/model,4")
    assert (elsewhere["network"], elsewhere["model_sha256"]) == ("", "")
    with pytest.raises(DataError, match="gone: cannot be read"):
        make_trace(files=[tmp_path / "gone"])


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_row_for_every_evaluation(tmp_path):
    path = tmp_path / "a" / "evaluations.csv"
    append_record(path, entry(accuracy=0.123456789, eer=None))
    append_record(path, entry(rank1=np.float64(1).item()))
    assert [row["figures"] for row in rows(path)] == ["accuracy=0.123457 eer=", "rank1=1"]
    assert {row["protocol"] for row in rows(path)} == {"verification"} and rows(path)[0]["machine"]
    assert [row["figures"] for row in read_records(path)] == [{"accuracy": 0.123457, "eer": None}, {"rank1": 1}]


def test_names_of_figures_may_hold_spaces(tmp_path):
    append_record(tmp_path / "e.csv", entry(**{"best accuracy of lfw": 0.5, "tar@1e-06": 1e-6}))
    assert read_records(tmp_path / "e.csv")[0]["figures"] == {"best accuracy of lfw": 0.5, "tar@1e-06": 1e-6}
    (tmp_path / "e.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="e.csv: not a table of evaluations"):
        read_records(tmp_path / "e.csv")


def _append(path, count):
    for _ in range(count):
        append_record(path, dict(protocol="p", target="t", figures={"x": 1}, trace={"command": "c" * 500}))


def test_rows_of_several_processes_stay_whole(tmp_path):
    workers = [multiprocessing.get_context("fork").Process(target=_append, args=(tmp_path / "e.csv", 40))
               for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(rows(tmp_path / "e.csv")) == 120
    assert {row["command"] for row in rows(tmp_path / "e.csv")} == {"c" * 500}


def test_another_table_is_not_appended_to(tmp_path):
    (tmp_path / "e.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="e.csv: not a table of evaluations"):
        append_record(tmp_path / "e.csv", entry())
    assert (tmp_path / "e.csv").read_text() == "a,b\n1,2\n"
    with pytest.raises(UserError, match="cannot be written"):
        append_record(tmp_path / "e.csv" / "x.csv", entry())
