"""Counts from labels, tags and numbers, against NumPy and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from dlrecipes.contracts import DataInfo
from dlrecipes.functional.class_weights import positive_weights
from dlrecipes.imbalance import ClassInfo

LABELS = [0] * 60 + [2] * 30 + [1] * 10


def test_labels():
    info = ClassInfo.from_labels(torch.tensor(LABELS), num_classes=4)
    assert info.counts == (60, 10, 30, 0)
    assert info.total == 100
    assert info.priors.tolist() == [0.6, 0.1, 0.3, 0.0]
    assert info.ratio == 6.0
    assert info.weights("inverse")[3] == 0


def test_inverse_weights_are_scikit_learns_up_to_their_scale():
    weights = ClassInfo.from_labels(LABELS).weights("inverse").numpy()
    reference = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert weights / weights.sum() == pytest.approx(reference / reference.sum(), rel=1e-6)


def test_tags():
    tags = np.array([[1, 0], [1, 1], [0, 0], [1, 0]])
    for given in (tags, torch.tensor(tags), tags.astype(bool), tags.astype(np.float32)):
        info = ClassInfo.from_multi_hot(given)
        assert (info.counts, info.total, info.exclusive) == ((3, 1), 4, False)
    assert info.priors.tolist() == [0.75, 0.25]
    assert torch.equal(info.weights("sqrt_inverse"), positive_weights((3, 1), 4, "sqrt_inverse"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bins", [1, 7, [-1.0, 0.0, 0.25, 9.0]])
def test_numbers_are_counted_as_numpy_does(seed, bins):
    targets = np.random.default_rng(seed).gamma(1.0, 1.0, 500).round(1)  # with values on borders
    info = ClassInfo.from_targets(targets, bins)
    counts, edges = np.histogram(targets, bins)
    assert info.edges == pytest.approx(edges.tolist())
    if not isinstance(bins, int):
        assert info.counts == tuple(counts)
    assert info.counts == tuple(np.bincount(info.bins(targets), minlength=len(counts)))
    assert sum(info.counts) == info.total == 500
    assert info.bins([-100.0, 100.0]).tolist() == [0, len(counts) - 1]


def test_data_info():
    facts = {"category_ids": (0, 1), "num_train": 7, "max_objects": 0, "image_size": 8}
    make = lambda task: ClassInfo.from_data_info(DataInfo(task=task, classes=("a", "b"), class_counts=(5, 4), **facts))  # noqa: E731
    assert make("multilabel") == ClassInfo((5, 4), 7, exclusive=False)
    assert make("detection") == ClassInfo((5, 4), 9)
    with pytest.raises(ValueError, match="no classes"):
        ClassInfo.from_data_info(DataInfo(task="regression", classes=(), class_counts=(), **facts))


def test_groups_have_the_papers_borders():
    groups = ClassInfo((101, 100, 20, 19, 0), 240).groups()
    assert groups == {"many": (0,), "medium": (1, 2), "few": (3, 4)}
    with pytest.raises(ValueError, match="few=30"):
        ClassInfo((1,), 1).groups(many=20, few=30)


def test_no_class_at_all_is_balanced():
    assert ClassInfo((0, 0), 0).ratio == 1.0
    assert ClassInfo((0, 0), 0).priors.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassInfo.from_labels([0, 3], 2), "labels has 3"),
        (lambda: ClassInfo.from_multi_hot([0, 1]), "one column a class"),
        (lambda: ClassInfo.from_multi_hot([[0, 2]]), "rows of 0 and 1"),
        (lambda: ClassInfo.from_targets([[1.0]]), "one number a sample"),
        (lambda: ClassInfo.from_targets([1.0, float("nan")]), "not finite"),
        (lambda: ClassInfo.from_targets([1.0], bins=0), "bins=0"),
        (lambda: ClassInfo.from_targets([1.0], bins=[1.0, 1.0]), "ascending"),
        (lambda: ClassInfo.from_labels([0]).bins([1.0]), "has no bins"),
        (lambda: ClassInfo.from_labels([0, 1]).weights("inverted"), "inverted"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
