"""Long-tailed subsets against the published counts and against the protocol written down step by step."""

import numpy as np
import pytest

from dlrecipes.errors import UserError
from dlrecipes.imbalance import long_tail_counts, long_tail_indices

LABELS = np.random.default_rng(5).permutation(np.arange(50_000) % 10)


@pytest.mark.parametrize(
    ("factor", "counts"),
    [
        (100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
        (10, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
        (1, [5000] * 10),
    ],
)
def test_counts_are_the_published_ones(factor: float, counts: list[int]) -> None:
    assert long_tail_counts(5000, 10, factor) == counts
    chosen = long_tail_indices(LABELS, factor)
    assert len(set(chosen)) == len(chosen) == sum(counts)
    assert np.bincount(LABELS[chosen]).tolist() == counts


@pytest.mark.parametrize("seed", [0, 7])
def test_samples_are_the_protocols(seed: int) -> None:
    """np.random.seed, then for each class in ascending order a shuffle of its positions, of which the first stay."""
    np.random.seed(seed)  # noqa: NPY002  # as published
    expected = []
    for label, count in enumerate([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]):
        positions = np.where(label == LABELS)[0]
        np.random.shuffle(positions)  # noqa: NPY002
        expected.extend(positions[:count].tolist())
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert long_tail_indices(LABELS.tolist(), 100, seed) == expected
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002  # numpy's global generator is left alone


def test_one_class_is_no_tail() -> None:
    assert long_tail_counts(7, 1, 50) == [7]
    assert sorted(long_tail_indices([0, 0, 0], 50)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("labels", "factor", "words"),
    [
        ([0, 0, 1], 2, "1 to 2 samples"),
        ([0, 0, 2, 2], 2, "0 to 2 samples"),
        ([0.0, 1.0], 2, "integer labels"),
        ([[0], [1]], 2, "integer labels"),
        ([], 2, "integer labels"),
        ([-1, 0], 2, "integer labels"),
        ([0, 0, 1, 1], 3, "leaves class 1 none of its 2 samples"),
    ],
)
def test_what_cannot_be_thinned_out_is_refused(labels: list[int], factor: float, words: str) -> None:
    with pytest.raises(UserError, match=words):
        long_tail_indices(labels, factor)


@pytest.mark.parametrize("arguments", [(0, 10, 100), (5000, 0, 100), (5000, 10, 0.5), (5000, 10, float("nan"))])
def test_arguments_outside_their_range(arguments: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="needed"):
        long_tail_counts(*arguments)
