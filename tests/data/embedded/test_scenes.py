import json

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

from dlrecipes.data.embedded.scenes import CLASSES, DigitScenes
from dlrecipes.data.embedded.scenes_export import export_coco
from dlrecipes.errors import UserError

SPLITS = ("train", "val", "test")


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("split", SPLITS)
def test_scene_shapes_types_and_ranges(split):
    scenes = DigitScenes(split)
    for index in range(40):
        image, boxes, labels = scenes.scene(0, index)
        assert image.shape == (96, 96, 3)
        assert image.dtype == np.uint8
        assert boxes.dtype == np.float64
        assert labels.dtype == np.int64
        assert boxes.shape == (len(labels), 4)
        assert 1 <= len(labels) <= 8
        assert labels.min() >= 0
        assert labels.max() <= 9
        assert (boxes >= 0).all()
        assert (boxes <= 96).all()
        heights = boxes[:, 3] - boxes[:, 1]
        assert (boxes[:, 2] - boxes[:, 0] >= 3).all()
        assert heights.min() >= 13
        assert heights.max() <= 42


def test_numbers_of_objects_and_classes_are_as_documented():
    scenes = DigitScenes("train")
    labels = [scenes.labels(0, i) for i in range(1000)]
    counts = np.array([len(label) for label in labels])
    assert set(counts) == set(range(1, 9))
    assert 4.2 < counts.mean() < 4.7
    frequency = np.bincount(np.concatenate(labels), minlength=10) / counts.sum()
    assert np.abs(frequency - 0.1).max() < 0.03


def test_labels_without_rendering_are_those_of_the_scene():
    scenes = DigitScenes("train", seed=3)
    for index in range(20):
        assert np.array_equal(scenes.labels(2, index), scenes.scene(2, index)[2])


def test_pure_function_of_seed_split_epoch_and_index():
    a, b = DigitScenes("train", seed=1), DigitScenes("train", seed=1)
    forwards = [a.scene(1, i) for i in range(5)]
    backwards = [b.scene(1, i) for i in reversed(range(5))][::-1]
    assert all(equal(x, y) for x, y in zip(forwards, backwards, strict=True))
    assert not equal(a.scene(1, 0)[:1], a.scene(1, 1)[:1])
    assert not equal(a.scene(1, 0)[:1], a.scene(2, 0)[:1])
    assert not equal(a.scene(1, 0)[:1], DigitScenes("train", seed=2).scene(1, 0)[:1])
    assert not equal(a.scene(1, 0)[:1], DigitScenes("val", seed=1).scene(1, 0)[:1])


@pytest.mark.parametrize("split", ["val", "test"])
def test_held_out_scenes_do_not_change_with_the_epoch(split):
    scenes = DigitScenes(split)
    assert equal(scenes.scene(0, 7), scenes.scene(5, 7))


def test_glyphs_of_the_splits_are_disjoint_stratified_and_complete():
    sources = [DigitScenes(split).glyph_sources for split in SPLITS]
    rows = np.concatenate(sources)
    digits = load_digits().target
    assert len(np.unique(rows)) == len(rows) == len(digits)
    for split_rows, share in zip(sources, (0.7, 0.15, 0.15), strict=True):
        per_digit = np.bincount(digits[split_rows]) / np.bincount(digits)
        assert np.abs(per_digit - share).max() < 0.04


def test_boxes_are_tight_around_the_ink():
    """A picture without its digits differs from the scene exactly inside the boxes, up to the soft edge of the ink."""
    scenes = DigitScenes("val")
    checked = 0
    for index in range(60):
        image, boxes, labels = scenes.scene(0, index)
        if len(labels) != 1:
            continue
        x1, y1, x2, y2 = boxes[0].astype(int)
        ring = image[max(y1 - 6, 0) : y2 + 6, max(x1 - 6, 0) : x2 + 6].astype(float)
        paper = np.median(np.concatenate([ring[0], ring[-1], ring[:, 0], ring[:, -1]]), axis=0)
        distance = np.abs(image.astype(float) - paper).sum(axis=2)
        ink = distance > 0.5 * np.percentile(distance[y1:y2, x1:x2], 95)
        inside = ink[y1:y2, x1:x2]
        for edge in (inside[:3], inside[-3:], inside[:, :3], inside[:, -3:]):  # ink reaches each side of its box
            assert edge.any()
        checked += 1
    assert checked >= 4


def test_objects_cover_little_of_each_other():
    scenes = DigitScenes("train")
    for index in range(60):
        boxes = scenes.scene(0, index)[1]
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        cover = (high - low).clip(0).prod(axis=2) / np.minimum(area[:, None], area[None, :])
        assert cover[~np.eye(len(boxes), dtype=bool)].max(initial=0) < 0.36  # 0.2, and a pixel of rounding on each side


def test_long_tailed_frequencies_fall():
    labels = np.concatenate([DigitScenes("train", long_tailed=True).labels(0, i) for i in range(800)])
    counts = np.bincount(labels, minlength=10)
    assert counts[0] > 2 * counts[2] > 2 * counts[5] > 2 * counts[9]
    assert 20 < counts[0] / max(counts[9], 1) < 120


def test_size_and_length():
    scenes = DigitScenes("val", size=160, num_images=3)
    assert len(scenes) == 3
    assert scenes.scene(0, 2)[0].shape == (160, 160, 3)
    with pytest.raises(IndexError, match="scene 3 of 3"):
        scenes.scene(0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "no split 'dev'"),
        ({"split": "val", "seed": -1}, "-1"),
        ({"split": "val", "size": 10}, "at least 48 pixels, got 10"),
        ({"split": "val", "num_images": 0}, "at least 1, got 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        DigitScenes(**arguments)


def test_export_is_a_coco_data_set(tmp_path):
    export_coco(tmp_path, num_images={"train": 3, "val": 2})
    content = json.loads((tmp_path / "annotations" / "instances_train.json").read_text())
    assert [c["name"] for c in content["categories"]] == list(CLASSES)
    assert [c["id"] for c in content["categories"]] == list(range(1, 11))
    assert len(content["images"]) == 3
    scenes = DigitScenes("train")
    for index, row in enumerate(content["images"]):
        image, boxes, labels = scenes.scene(0, index)
        stored = cv2.imread(str(tmp_path / "train" / row["file_name"]))[:, :, ::-1]
        assert np.array_equal(stored, image)
        own = [a for a in content["annotations"] if a["image_id"] == row["id"]]
        assert [a["category_id"] - 1 for a in own] == labels.tolist()
        corners = np.array([a["bbox"] for a in own])
        assert np.array_equal(corners[:, :2], boxes[:, :2])
        assert np.array_equal(corners[:, :2] + corners[:, 2:], boxes[:, 2:])
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])
    assert len(list((tmp_path / "val").glob("*.png"))) == 2
