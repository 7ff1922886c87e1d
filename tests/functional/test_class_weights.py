"""Weights from class counts, by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from dlrecipes.functional.class_weights import class_weights, positive_weights

SCHEMES = ["inverse", "sqrt_inverse", "effective"]


def test_inverse_is_scikit_learns_balanced_up_to_scale() -> None:
    counts = [50, 20, 5]
    labels = np.repeat([0, 1, 2], counts)
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    torch.testing.assert_close(class_weights(counts, "inverse"), torch.tensor(theirs / theirs.mean()).float())


def test_square_roots() -> None:
    torch.testing.assert_close(class_weights([100, 25, 4], "sqrt_inverse"), torch.tensor([0.375, 0.75, 1.875]))


def test_effective_number_sums_the_geometric_series() -> None:
    beta, counts = 0.9, [3, 1, 40]
    numbers = torch.tensor([sum(beta**i for i in range(n)) for n in counts], dtype=torch.float64)
    expected = (1 / numbers) / (1 / numbers).mean()
    torch.testing.assert_close(class_weights(counts, "effective", beta=beta), expected.float())


def test_effective_number_lies_between_no_weights_and_inverse() -> None:
    counts = [1000, 10]
    torch.testing.assert_close(class_weights(counts, "effective", beta=1e-9), torch.ones(2))
    almost = class_weights(counts, "effective", beta=1 - 1e-9)
    torch.testing.assert_close(almost, class_weights(counts, "inverse"), rtol=1e-4, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_average_to_one_and_fall_with_the_count(scheme: str) -> None:
    weights = class_weights([500, 0, 90, 7, 1], scheme)
    assert weights[1] == 0
    torch.testing.assert_close(weights.sum(), torch.tensor(4.0))
    assert weights[0] < weights[2] < weights[3] < weights[4]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_equal_counts_weigh_one(scheme: str) -> None:
    torch.testing.assert_close(class_weights([30, 30], scheme), torch.ones(2))
    torch.testing.assert_close(positive_weights([30, 30], 60, scheme), torch.ones(2))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_samples_at_all_weigh_nothing(scheme: str) -> None:
    assert not class_weights([0, 0], scheme).any()


def test_positives_against_negatives() -> None:
    torch.testing.assert_close(positive_weights([10, 90, 0, 100], 100, "inverse"), torch.tensor([9, 1 / 9, 1, 1]))
    torch.testing.assert_close(positive_weights([10], 100, "sqrt_inverse"), torch.tensor([3.0]))
    ratio = (1 - 0.9**6) / (1 - 0.9**2)
    torch.testing.assert_close(positive_weights([2], 8, "effective", beta=0.9), torch.tensor([ratio]))
    assert math.isclose(ratio, 2.466, rel_tol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], "inverted"), "scheme is 'inverted': use 'inverse', 'sqrt_inverse', 'effective'"),
        (([1, -2], "inverse"), "counts has -2"),
    ],
)
def test_mistakes_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_weights(*arguments)


@pytest.mark.parametrize("beta", [0.0, 1.0, 1.5])
def test_beta_out_of_range_is_named(beta: float) -> None:
    with pytest.raises(ValueError, match=f"beta={beta}"):
        class_weights([1], "effective", beta=beta)


def test_more_positives_than_samples_are_named() -> None:
    with pytest.raises(ValueError, match="counts has 9: not above total=5"):
        positive_weights([9], 5, "inverse")
