"""The names that `--dataset` knows."""
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import datasets
from common.errors import DataError, UserError
from datasets import find_dataset, find_target, list_targets

ROOT = Path(__file__).resolve().parents[2]


def test_a_folder_is_a_data_set(training_folder, tmp_path):
    folder = shutil.copytree(str(training_folder), str(tmp_path / "own"))
    for name in ("own", "lfw"):
        (tmp_path / "own" / f"{name}.bin").touch()
    found = find_dataset(folder)
    assert (found.num_classes, found.image_shape, found.table_classes) == (3, (112, 112), None)
    assert found.val_targets == ("lfw", "own") == list_targets(folder)
    assert found.target_path("lfw") == tmp_path / "own" / "lfw.bin"


@pytest.mark.parametrize("name, folder", [("emore", "faces_emore"), ("retina", "ms1m-retinaface-t1"), ("demo", "demo")])
def test_names_of_the_table(training_folder, tmp_path, caplog, name, folder):
    with pytest.raises(UserError, match=f"data set '{name}': no train.rec in {tmp_path / folder}; .*give --dataset"):
        find_dataset(name, tmp_path)
    shutil.copytree(str(training_folder), str(tmp_path / folder))
    (tmp_path / folder / "made.bin").touch()
    with caplog.at_level(logging.WARNING):
        found = find_dataset(name, tmp_path)
    assert found.folder == tmp_path / folder and found.num_classes == 3
    if name == "demo":
        assert found.val_targets == ("made",) and not caplog.records
    else:
        assert found.val_targets == ("lfw", "cfp_fp", "agedb_30")
        assert f"says 3 classes, expected {found.table_classes}" in caplog.text


def test_matching_class_count_is_no_warning(tmp_path, caplog):
    (tmp_path / "faces_emore").mkdir()
    (tmp_path / "faces_emore" / "train.rec").touch()
    (tmp_path / "faces_emore" / "property").write_text("85742,112,112")
    assert find_dataset("emore", tmp_path).table_classes == 85742
    assert not caplog.records


def test_unknown_name(tmp_path):
    for name in ("emroe", str(tmp_path), tmp_path):
        with pytest.raises(UserError, match="unknown data set .*demo, emore, retina, or the path of a folder"):
            find_dataset(name)


def test_bad_property(tmp_path):
    (tmp_path / "train.rec").touch()
    with pytest.raises(DataError, match="property: cannot be read"):
        find_dataset(tmp_path)


def test_missing_target(tmp_path):
    with pytest.raises(UserError, match="no verification pack .*lfw.bin; packs in that folder: none"):
        find_target(tmp_path, "lfw")
    (tmp_path / "own.bin").touch()
    with pytest.raises(UserError, match="packs in that folder: own"):
        find_target(tmp_path, "lfw")


def test_data_lies_beside_the_code():
    assert datasets.ROOT == ROOT / "datasets"


def test_needs_neither_mxnet_nor_opencv():
    code = "import sys, datasets; sys.exit(bool({'mxnet', 'cv2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=str(ROOT)).returncode == 0
