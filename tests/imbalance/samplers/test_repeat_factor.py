"""The repeat factors against the paper's formula written out, and its limits."""

import math

import numpy as np
import pytest

from dlrecipes.imbalance import repeat_factors


def by_hand(image_labels: list[list[int]], threshold: float) -> list[float]:
    classes = {c for labels in image_labels for c in labels}
    share = {c: sum(c in labels for labels in image_labels) / len(image_labels) for c in classes}
    return [max([1.0] + [math.sqrt(threshold / share[c]) for c in labels]) for labels in image_labels]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.2, 1.0])
def test_is_the_papers_formula(seed, threshold):
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, 13)
    labels = [
        random.choice(12, size=random.integers(0, 6), p=weights / weights.sum()).tolist()  # with repeats, some empty
        for _ in range(80)
    ]
    assert repeat_factors(labels, threshold) == pytest.approx(by_hand(labels, threshold), rel=1e-14)


def test_frequent_classes_and_empty_images_keep_a_factor_of_one():
    labels = [[0], [0], [0, 1], []]
    assert repeat_factors(labels, 0.5).tolist() == [1.0, 1.0, math.sqrt(2), 1.0]


def test_nothing_to_repeat():
    assert repeat_factors([], 0.1).tolist() == []
    assert repeat_factors([[], []], 0.1).tolist() == [1.0, 1.0]


def test_takes_arrays():
    labels = [np.array([3, 3]), np.array([0]), np.array([0])]
    assert repeat_factors(labels, 2 / 3).tolist() == pytest.approx([math.sqrt(2), 1, 1])


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_refuses_a_threshold_that_is_no_share(threshold):
    with pytest.raises(ValueError, match="threshold="):
        repeat_factors([[0]], threshold)


def test_refuses_a_negative_class():
    with pytest.raises(ValueError, match="class -1"):
        repeat_factors([[0], [-1]], 0.1)
