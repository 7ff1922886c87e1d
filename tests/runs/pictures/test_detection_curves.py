import pytest
import torch
from PIL import Image

from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.pictures.detection_curves import DetectionConfusion, DetectionCurves, draw_detection_confusion
from dlrecipes.runs.pictures.plots import draw_precision_recall

A, B, C = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0], [60.0, 60.0, 70.0, 70.0]


def predict(boxes, labels, scores):
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels), "scores": torch.tensor(scores)}


def confusion(prediction, boxes, labels, crowd=None, **arguments):
    metric = DetectionConfusion(2, **arguments)
    iscrowd = torch.tensor(crowd or [False] * len(labels), dtype=torch.bool)
    metric.update(prediction, torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64), iscrowd)
    return metric.compute().tolist()


def test_hit_wrong_class_missed_and_background():
    prediction = predict([A, B, [100.0, 100.0, 110.0, 110.0]], [0, 0, 1], [0.9, 0.8, 0.7])
    assert confusion(prediction, [A, B, C], [0, 1, 1]) == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


def test_a_true_box_is_taken_once_by_the_best_score():
    prediction = predict([A, A], [0, 1], [0.9, 0.8])
    assert confusion(prediction, [A], [0]) == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_thresholds_of_score_and_overlap():
    half = [0.0, 0.0, 10.0, 5.0]  # IoU .5 with A
    assert confusion(predict([half], [0], [0.5]), [A], [0])[0] == [1, 0, 0]
    assert confusion(predict([half], [0], [0.49]), [A], [0]) == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    missed = confusion(predict([half], [0], [0.5]), [A], [0], iou_threshold=0.51)
    assert missed == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_crowds_and_what_lies_in_them_count_nowhere():
    prediction = predict([[1.0, 1.0, 5.0, 5.0], [50.0, 50.0, 55.0, 55.0]], [0, 0], [0.9, 0.8])
    assert confusion(prediction, [A], [0], crowd=[True]) == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_empty_images_and_empty_predictions():
    none = predict([], [], [])
    none["labels"] = torch.zeros(0, dtype=torch.int64)
    assert confusion(none, [], []) == [[0] * 3] * 3
    assert confusion(none, [A], [1])[1] == [0, 0, 1]
    assert confusion(predict([A], [1], [0.9]), [], [])[2] == [0, 1, 0]


@pytest.mark.parametrize("bad", [{"num_classes": 0}, {"iou_threshold": 2.0}, {"score_threshold": -1.0}])
def test_bad_arguments_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        DetectionConfusion(**{"num_classes": 2, **bad})


def test_callback_draws_both_at_the_end_of_a_test(tmp_path, toy, fit, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "dlrecipes.runs.pictures.detection_curves.draw_detection_confusion",
        lambda m, c, p, score: seen.update(matrix=m),
    )
    monkeypatch.setattr(
        "dlrecipes.runs.pictures.detection_curves.draw_precision_recall",
        lambda p, c, labels, path, title: seen.update(precision=p, classes=c),
    )
    fit(toy, 1, [DetectionCurves(RunFolder(tmp_path))], test=True)
    # images 1, 2, 4, 5, 7 have boxes; a second box is found with a score of .3 only, which is below the threshold
    assert seen["matrix"].diagonal().tolist() == [0, 3, 2, 0]
    assert seen["matrix"][:, 3].tolist() == [2, 0, 0, 0]
    assert seen["classes"] == ["cat", "dog", "Käfer"]
    assert seen["precision"].shape == (3, 101)
    assert torch.allclose(seen["precision"], torch.ones(3, 101, dtype=seen["precision"].dtype))


@pytest.mark.parametrize("classes", [1, 90])
def test_pictures_for_few_and_many_classes(tmp_path, classes):
    names = [f"class {i}" for i in range(classes)]
    draw_detection_confusion(torch.eye(classes + 1, dtype=torch.int64) * 3, names, tmp_path / "c.png")
    precision = torch.rand(classes, 101)
    precision[0] = -1
    draw_precision_recall(precision, names, list(range(classes)), tmp_path / "p.png", title="PR")
    for name in ("c.png", "p.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 400


def test_the_title_says_which_predictions_count(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "dlrecipes.runs.pictures.detection_curves.draw_confusion", lambda *args, title, **options: titles.append(title)
    )
    draw_detection_confusion(torch.eye(2, dtype=torch.int64), ["a"], tmp_path / "c.png", 0.3)
    assert titles == ["Confusion at score ≥ 0.3, IoU ≥ 0.5"]
