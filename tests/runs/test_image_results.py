import csv
import json

import pytest
import torch
from image_runs import make_images, make_info

from dlrecipes.errors import UserError
from dlrecipes.runs.image_results import ImageResults, label_rows


def table(folder):
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_classification_has_a_column_for_each_class_and_sheets_of_forty(tmp_path):
    with ImageResults(tmp_path / "out", make_info(), top=2) as results:
        for i, image in enumerate(make_images(41)):
            results.add(f"in/{i}.jpg", image, torch.tensor([0.1, 0.25, 0.65]))
    rows = table(tmp_path / "out")
    assert rows[0] == ["path", "label", "probability", "p_cat", "p_dog", "p_Käfer"]
    assert rows[41] == ["in/40.jpg", "Käfer", "0.65", "0.1", "0.25", "0.65"]
    listed = json.loads(results.json_file.read_text(encoding="utf-8"))
    assert len(listed) == 41
    top = [{"label": "Käfer", "probability": 0.65}, {"label": "dog", "probability": 0.25}]
    assert listed[40] == {"path": "in/40.jpg", "label": "Käfer", "probability": 0.65, "top": top}
    assert [p.name for p in results.sheets] == ["sheet_001.png", "sheet_002.png"]
    assert sorted(p.name for p in (tmp_path / "out" / "pictures").iterdir()) == ["sheet_001.png", "sheet_002.png"]
    results.close()
    assert len(table(tmp_path / "out")) == 42


def test_several_labels_are_joined(tmp_path):
    with ImageResults(tmp_path, make_info("multilabel")) as results:
        results.add("a.jpg", None, torch.tensor([0.9, 0.2, 0.95]))
        results.add("b.jpg", None, torch.tensor([0.1, 0.2, 0.05]))
    assert [row[:3] for row in table(tmp_path)[1:]] == [["a.jpg", "Käfer|cat", "0.95|0.9"], ["b.jpg", "", ""]]
    first, second = json.loads(results.json_file.read_text(encoding="utf-8"))
    assert (first["labels"], first["probabilities"]) == (["Käfer", "cat"], [0.95, 0.9])
    assert (second["labels"], second["top"][0]) == ([], {"label": "dog", "probability": 0.2})
    assert results.sheets == []
    assert label_rows("b.jpg", torch.tensor([0.1, 0.2, 0.05]), make_info("multilabel"), threshold=0.1)["labels"] == [
        "dog", "cat"]  # fmt: skip


def test_regression_has_its_targets(tmp_path):
    info = make_info("regression", target_names=("age", "height"), target_mean=(0.0, 0.0), target_std=(1.0, 1.0))
    with ImageResults(tmp_path, info) as results:
        results.add("a.jpg", make_images(1)[0].float(), torch.tensor([41.123456789, 1.7]))
    assert table(tmp_path) == [["path", "age", "height"], ["a.jpg", "41.1235", "1.7"]]
    assert json.loads(results.json_file.read_text()) == [{"path": "a.jpg", "values": {"age": 41.1235, "height": 1.7}}]
    assert len(results.sheets) == 1


def test_more_than_a_hundred_classes_get_no_columns(tmp_path):
    names = tuple(f"c{i}" for i in range(101))
    with ImageResults(tmp_path, make_info(names=names)) as results:
        results.add("a.jpg", None, torch.nn.functional.one_hot(torch.tensor(7), 101).float())
    assert table(tmp_path) == [["path", "label", "probability"], ["a.jpg", "c7", "1.0"]]


def test_an_error_in_between_leaves_readable_files(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), ImageResults(tmp_path, make_info()) as results:  # noqa: PT012
        results.add("a.jpg", None, torch.tensor([0.1, 0.2, 0.7]))
        raise RuntimeError("stop")
    assert [row["label"] for row in json.loads(results.json_file.read_text())] == ["Käfer"]


def test_wrong_values_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(2,\)"):
        label_rows("a", torch.zeros(2), make_info())
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        ImageResults(tmp_path, make_info(), top=0)
    with pytest.raises(ValueError, match=r"threshold must be in 0\.\.1, got 2"):
        ImageResults(tmp_path, make_info(), threshold=2)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="give another --output"):
        ImageResults(tmp_path / "file", make_info())
