"""A balanced data set thinned out to a long tail, as the benchmarks of long-tailed recognition are made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dlrecipes.errors import UserError

__all__ = ["long_tail_counts", "long_tail_indices"]


def long_tail_counts(largest: int, num_classes: int, imbalance_factor: float) -> list[int]:
    r"""How many samples each class keeps (Cui et al., 2019, arXiv:1901.05555; Cao et al., 2019, arXiv:1906.07413).

    .. math:: n_c = \lfloor n_0 \cdot F^{-c / (C - 1)} \rfloor

    Args:
        largest: n₀, samples of class 0.
        num_classes: C.
        imbalance_factor: F = n₀ / n of the last class, at least 1.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> long_tail_counts(5000, 10, 100)
        [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    if largest < 1 or num_classes < 1:
        raise ValueError(f"largest={largest} and num_classes={num_classes}: 1 or more is needed")
    if not 1 <= imbalance_factor < float("inf"):
        raise ValueError(f"imbalance_factor={imbalance_factor}: a finite number of at least 1 is needed")
    # As published: the exponent of the inverse. F^-x in the other order rounds another way for some classes.
    share = 1 / imbalance_factor
    return [int(largest * share ** (c / max(1, num_classes - 1))) for c in range(num_classes)]


def long_tail_indices(labels: Sequence[int] | NDArray[np.integer], imbalance_factor: float, seed: int = 0) -> list[int]:
    """Which samples of a balanced training set a long tail keeps: with seed 0 those of LDAM's CIFAR-10-LT and -100-LT.

    Class by class, the positions of its samples are shuffled by one stream of ``np.random.RandomState(seed)``, and the
    first n_c of `long_tail_counts` are kept. Test on the whole, balanced test set.

    Args:
        labels: int [n], classes 0..C − 1, as many samples of each.
        imbalance_factor: the largest class by the smallest; the published tables have 10, 50 and 100.
        seed: of the choice.

    Returns:
        Positions in ``labels``, class after class.

    Raises:
        UserError: labels that are not balanced, or a tail that would leave a class without a sample.

    Example:
        >>> chosen = long_tail_indices([0, 1, 0, 1, 0, 1, 0, 1], imbalance_factor=4)
        >>> len(chosen), [i % 2 for i in chosen]
        (5, [0, 0, 0, 0, 1])
    """
    given = np.asarray(labels)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer) or not given.size or given.min() < 0:
        raise UserError(
            f"a long tail is made of integer labels [n] from 0 on, got {given.dtype} of shape {list(given.shape)}: "
            f"give one label a sample"
        )
    there = np.bincount(given)
    if there.min() != there.max():
        raise UserError(
            f"a long tail is made of classes of one size, and these have {there.min()} to {there.max()} samples: give "
            f"the labels of a balanced training set"
        )
    counts = long_tail_counts(int(there[0]), len(there), imbalance_factor)
    if not counts[-1]:
        raise UserError(
            f"imbalance_factor={imbalance_factor:g} leaves class {len(there) - 1} none of its {there[0]} samples: take "
            f"at most {there[0]}"
        )
    random = np.random.RandomState(seed)  # the published subsets come from numpy's old generator
    chosen: list[int] = []
    for label, count in enumerate(counts):
        positions = np.flatnonzero(given == label)
        random.shuffle(positions)
        chosen += positions[:count].tolist()
    return chosen
