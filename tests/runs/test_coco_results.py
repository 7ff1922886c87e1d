"""COCO results from predictions, without a model."""

import torch

from dlrecipes.contracts import DataInfo, Prediction
from dlrecipes.runs.coco_results import coco_results

INFO = DataInfo(
    task="detection",
    classes=("disc", "square"),
    category_ids=(3, 17),
    class_counts=(1, 1),
    num_train=1,
    max_objects=2,
    image_size=64,
)
PREDICTION: Prediction = {
    "scores": torch.tensor([0.9, 0.25]),
    "labels": torch.tensor([1, 0]),
    "boxes": torch.tensor([[1.0, 2.0, 11.0, 22.0], [0.0, 0.0, 4.0, 8.0]]),
}


def test_ids_of_the_data_and_boxes_as_coco_wants_them() -> None:
    first, second = coco_results(7, "a.jpg", PREDICTION, INFO)
    assert first == {
        "image_id": 7,
        "file_name": "a.jpg",
        "category_id": 17,
        "category": "square",
        "bbox": [1.0, 2.0, 10.0, 20.0],
        "score": 0.9,
    }
    assert (second["category_id"], second["bbox"]) == (3, [0.0, 0.0, 4.0, 8.0])


def test_threshold_keeps_the_score_that_equals_it() -> None:
    assert len(coco_results(0, "a.jpg", PREDICTION, INFO, threshold=0.25)) == 2
    assert len(coco_results(0, "a.jpg", PREDICTION, INFO, threshold=0.26)) == 1


def test_coco_loads_the_results() -> None:
    """pycocotools' own reader takes them, with the annotations' category ids."""
    from pycocotools.coco import COCO

    truth = COCO()
    truth.dataset = {
        "images": [{"id": 7, "width": 64, "height": 64}],
        "categories": [{"id": 3, "name": "disc"}, {"id": 17, "name": "square"}],
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(coco_results(7, "a.jpg", PREDICTION, INFO))
    assert [(a["category_id"], a["area"]) for a in loaded.loadAnns(loaded.getAnnIds())] == [(17, 200.0), (3, 32.0)]
