"""Files of out-of-fold detections, and their metrics, against COCO's own tool."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dlrecipes.contracts import DataInfo, Prediction
from dlrecipes.cross_validation.detections import DetectionCollector
from dlrecipes.cross_validation.out_of_fold import join, pooled_metrics
from dlrecipes.cross_validation.results import DONE, summarise
from dlrecipes.data.formats.records import DetectionRecord, make_record

INFO = DataInfo(
    task="detection",
    classes=("cat", "dog", "newt"),
    category_ids=(3, 17, 18),
    class_counts=(9, 9, 1),
    num_train=9,
    max_objects=3,
    image_size=64,
)


def fold_of_random_boxes(folder: Path, number: int, rng: np.random.Generator) -> None:
    """A fold of four images with jittered and invented detections; the newt is in the last one only."""
    records: list[DetectionRecord] = []
    collector = DetectionCollector(INFO, records, "photos")
    for index in range(4):
        corner = rng.uniform(0, 60, (3, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(6, 40, (3, 2))], 1)
        labels = rng.integers(0, 2, 3)
        if (number, index) == (2, 3):
            labels[0] = 2
        crowd = [index == 1, False, False]
        image_id = 10 * number + index
        path = f"photos/day{number}/{index}.jpg"
        records.append(make_record(path, (100, 100), boxes, labels, image_id, iscrowd=crowd))
        invented = rng.uniform(0, 50, (2, 2))
        guessed = np.concatenate([boxes + rng.normal(0, 3, (3, 4)), np.concatenate([invented, invented + 9], 1)])
        prediction: Prediction = {
            "scores": torch.from_numpy(np.sort(rng.random(5) / number)[::-1].copy()).float(),
            "labels": torch.from_numpy(np.concatenate([labels, rng.integers(0, 3, 2)])),
            "boxes": torch.from_numpy(guessed).float(),
        }
        collector.found.append((index, prediction))
    folder.mkdir(parents=True)
    collector.write(folder)


def by_coco(folder: Path) -> COCOeval:
    truth = COCO(str(folder / "out_of_fold_truth.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(folder / "out_of_fold.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


@pytest.fixture
def folds(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"fold{number}-001" for number in (1, 2)]
    for number, path in enumerate(paths, 1):
        fold_of_random_boxes(path, number, rng)
    return paths


def test_pooled_metrics_are_cocos(folds: list[Path], tmp_path: Path) -> None:
    joined = join(folds, tmp_path)
    found = pooled_metrics(joined)
    evaluation = by_coco(tmp_path)
    names = ("map", "map_50", "map_75", "map_small", "map_medium")
    assert [found[f"val/{name}"] for name in names] == pytest.approx(evaluation.stats[:5].tolist(), abs=1e-6)
    assert found["val/mar_100"] == pytest.approx(float(evaluation.stats[8]), abs=1e-6)
    precision = evaluation.eval["precision"][:, :, 2, 0, -1]
    assert found["val/map_class/newt"] == pytest.approx(float(precision.mean()), abs=1e-6)
    assert "val/map_large" not in found  # there are no such boxes
    assert 0.1 < found["val/map"] < 0.9
    assert found["val/map"] != pytest.approx(np.mean([by_coco(fold).stats[0] for fold in folds]), abs=1e-3)


def test_files_name_images_folds_and_categories(folds: list[Path], tmp_path: Path) -> None:
    results = json.loads(join(folds, tmp_path).read_text())
    truth: dict[str, Any] = json.loads((tmp_path / "out_of_fold_truth.json").read_text())
    assert {(r["fold"], r["image_id"], r["file_name"]) for r in results} == {
        (i["fold"], i["id"], i["file_name"]) for i in truth["images"]
    }
    assert truth["images"][5] == {"fold": "fold2-001", "id": 21, "file_name": "day2/1.jpg", "width": 100, "height": 100}
    assert [a["id"] for a in truth["annotations"]] == [*range(1, 25)]
    assert [a["iscrowd"] for a in truth["annotations"] if a["image_id"] in (11, 21)] == [1, 0, 0] * 2
    assert truth["categories"][2] == {"id": 18, "name": "newt"}


def test_a_metric_that_a_fold_does_not_have_is_pooled_but_no_mean(folds: list[Path], tmp_path: Path) -> None:
    for fold, newt in zip(folds, (-1.0, 0.5), strict=True):
        (fold / DONE).write_text(json.dumps({"val/map": 0.25, "val/map_class/newt": newt}))
    found = summarise(tmp_path, folds)
    assert set(found.metrics) == {"val/map"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["val/map_class/newt"] == {"pooled": found.pooled["val/map_class/newt"]}
    assert set(summary["val/map"]) == {"mean", "low", "high", "folds", "pooled"}
