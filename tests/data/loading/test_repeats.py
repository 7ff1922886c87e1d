import numpy as np
import pytest

from dlrecipes.data.formats.records import make_record
from dlrecipes.data.loading.repeats import plan_repeats


def record(labels, crowd=None):
    boxes = [(0.0, 0.0, 5.0, 5.0)] * len(labels)
    return make_record("a.png", (9, 9), boxes, labels, 0, iscrowd=crowd)


def test_factors_and_gains_by_hand():
    """Of 16 images one has class 1 and four have class 2: with t = 1/4, r = sqrt(.25 · 16) = 2 for the one."""
    records = [record([0, 0])] * 11 + [record([0, 2])] * 4 + [record([1, 0, 0])]
    plan = plan_repeats(records, ("red", "rare", "four"), 0.25)
    assert plan.sampler.factors.tolist() == [1.0] * 15 + [2.0]
    assert plan.note == (
        "Images with rare classes are repeated: 17 samples an epoch of 16 images; boxes of rare x2.00, red x1.07, "
        "four x1.00."
    )
    assert pytest.approx(1.07, abs=0.005) == 30 / 28


def test_no_class_is_rare():
    plan = plan_repeats([record([0]), record([0, 1])], ("a", "b"), 0.5)
    assert plan.sampler.factors.tolist() == [1.0, 1.0]
    assert (
        plan.note == "No image is repeated: each class is in at least 0.5 of the images, not below repeat_factor 0.5."
    )


def test_crowds_empty_images_and_absent_classes_do_not_count():
    records = [record([0])] * 7 + [record([1, 0], crowd=[True, False]), record([])]
    plan = plan_repeats(records, ("a", "only in a crowd"), 0.5)
    assert plan.sampler.factors.tolist() == [1.0] * 9
    assert "in at least 0.889 of the images" in plan.note


def test_five_classes_are_named():
    names = [f"c{k}" for k in range(8)]
    records = [record([0])] * 92 + [record([0, k]) for k in range(1, 8)] + [record([0])]
    note = plan_repeats(records, names, 0.04).note
    assert "boxes of c1 x2.00, c2 x2.00, c3 x2.00, c4 x2.00, c5 x2.00, others at least x1.07." in note


def test_threshold_outside_its_range():
    with pytest.raises(ValueError, match="threshold=2"):
        plan_repeats([record([0])], ("a",), 2.0)
    assert np.isfinite(plan_repeats([record([0])], ("a",), 1.0).sampler.factors).all()
