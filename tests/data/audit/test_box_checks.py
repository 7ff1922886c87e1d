import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrecipes.data.audit.box_checks import (
    MIN_SIDE,
    refuse_misread_boxes,
    refuse_non_finite_boxes,
    repair_boxes,
)
from dlrecipes.data.formats.records import box_areas, make_record
from dlrecipes.errors import UserError

COORDINATE = st.floats(-50, 150, allow_nan=False) | st.sampled_from([0.0, 64.0, 48.0, 1e-9, -1e300, 1e300])


def _record(boxes, size=(64, 48), **more):
    return make_record("/d/a.jpg", size, boxes, list(range(len(boxes))), 0, annotation="/d/a.xml", **more)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*[COORDINATE] * 4), max_size=8))
def test_repair_leaves_only_boxes_with_area_inside_the_image(boxes):
    record = _record(boxes)
    repaired, findings = repair_boxes(record, "/d")
    assert (repaired.boxes >= 0).all()
    assert (repaired.boxes <= [64, 48, 64, 48]).all()
    assert (repaired.boxes[:, 2:] - repaired.boxes[:, :2] >= MIN_SIDE).all()
    assert len(repaired.boxes) == len(repaired.labels) == len(repaired.areas) == len(repaired.iscrowd)
    assert np.isfinite(repaired.areas).all()
    dropped = [f for f in findings if f.kind.endswith("(dropped)")]
    assert len(repaired.boxes) == len(boxes) - len(dropped)
    # What survives is the box of the object whose label survives, unchanged where it was inside.
    for box, label in zip(repaired.boxes, repaired.labels, strict=True):
        np.testing.assert_array_equal(box, np.clip(boxes[label], 0, [64, 48, 64, 48]))
    again, none = repair_boxes(repaired, "/d")
    assert again is repaired
    assert none == []


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(31, 64), st.integers(21, 48)), max_size=5)
)
def test_good_boxes_are_returned_as_they_are(boxes):
    record = _record(boxes, areas=[1.5] * len(boxes))
    repaired, findings = repair_boxes(record)
    assert repaired is record
    assert findings == []


def test_findings_name_file_object_and_box():
    boxes = [[1, 1, 1, 9], [60, 40, 70, 50], [100, 1, 110, 9], [9, 9, 4, 4], [0, 0, 64, 48]]
    record = _record(boxes, areas=[1, 50, 1, 1, 7], object_ids=tuple(f"object {i}" for i in range(1, 6)))
    repaired, findings = repair_boxes(record, "/d")
    assert [(f.kind, f.where) for f in findings] == [
        ("box without area (dropped)", "a.xml, object 1"),
        ("box over the edge (clipped)", "a.xml, object 2"),
        ("box outside the image (dropped)", "a.xml, object 3"),
        ("box without area (dropped)", "a.xml, object 4"),
    ]
    assert findings[1].detail == "box [60, 40, 70, 50] in 64x48"
    assert repaired.labels.tolist() == [1, 4]
    assert repaired.object_ids == ("object 2", "object 5")
    # the clipped box keeps 32 of its 100 square pixels, and so much of its own area
    np.testing.assert_allclose(repaired.areas, [16.0, 7.0])


def test_rounding_at_the_edge_is_clipped_without_a_word():
    repaired, findings = repair_boxes(_record([[10.0, 10.0, 64.0000001, 48.0]]))
    assert repaired.boxes.tolist() == [[10.0, 10.0, 64.0, 48.0]]
    assert findings == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_boxes_are_refused(value):
    record = _record([[1, 2, 3, 4], [1, value, 3, 4]], object_ids=("annotation 5", "annotation 6"))
    with pytest.raises(
        UserError, match=r"a.xml, annotation 6 \(image a.jpg\): box \[1, (nan|-?inf), 3, 4\] is not finite"
    ):
        refuse_non_finite_boxes([record], "/d")


def test_normalised_boxes_are_refused_where_pixels_are_due():
    record = _record([[0.1, 0.2, 0.5, 0.9], [0, 0, 1.0, 1.0]])
    for name in ("coco", "voc", "csv"):
        with pytest.raises(UserError, match=r"a.xml, object 1: box .* and all others of 'train' look normalised"):
            refuse_misread_boxes("train", [record], name, "/d")
    refuse_misread_boxes("train", [record], "yolo", "/d")  # its reader has scaled them


def _random_corners(n, seed, size=(640, 480)):
    rng = np.random.default_rng(seed)
    first = rng.uniform(0, 0.85, (n, 2)) * size
    last = first + rng.uniform(0.05, 1, (n, 2)) * (np.array(size) - first)
    return np.hstack([first, last])


@pytest.mark.parametrize("seed", range(10))
def test_corners_in_coco_are_recognised_and_good_boxes_are_not(seed):
    corners = _random_corners(12, seed)
    good = _record(corners, (640, 480))
    refuse_misread_boxes("val", [good], "coco", "/d")
    misread = np.hstack([corners[:, :2], corners[:, :2] + corners[:, 2:]])  # x + "width", y + "height"
    with pytest.raises(UserError, match=r"look like \[x1, y1, x2, y2\] where COCO has \[x, y, width, height\]"):
        refuse_misread_boxes("val", [_record(misread, (640, 480))], "coco", "/d")


def test_one_box_over_the_whole_image_is_not_taken_for_corners():
    record = _record([[1, 1, 65, 49]])
    refuse_misread_boxes("val", [record], "coco", "/d")  # raises nothing
    assert record.boxes.tolist() == [[1, 1, 65, 49]]  # and leaves the box to the repair that follows


@pytest.mark.parametrize("seed", range(10))
def test_sizes_in_voc_are_recognised_and_good_boxes_are_not(seed):
    corners = _random_corners(12, seed)
    refuse_misread_boxes("val", [_record(corners, (640, 480))], "voc", "/d")
    sizes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    with pytest.raises(UserError, match=r"look like \[x, y, width, height\] where corners are due"):
        refuse_misread_boxes("val", [_record(sizes, (640, 480))], "voc", "/d")


def test_boxes_outside_their_images_are_refused_when_they_are_the_rule():
    outside, inside = [100, 1, 120, 9], [1, 1, 20, 20]
    with pytest.raises(UserError, match=r"2 of 3 boxes, such as a.xml, object 1: .* lie entirely outside"):
        refuse_misread_boxes("train", [_record([outside, outside, inside])], "yolo", "/d")
    refuse_misread_boxes("train", [_record([outside, inside])], "yolo", "/d")
    refuse_misread_boxes("train", [], "yolo", "/d")


def test_box_areas_of_reversed_corners_is_zero():
    assert box_areas(np.array([[9.0, 9.0, 4.0, 4.0]])).tolist() == [0.0]
