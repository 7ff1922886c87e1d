"""Random orders that are pure functions of where they are asked for: nothing is drawn that must be remembered."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from dlrecipes.functional.words import counted

__all__ = ["ClassCycles", "fixed_sum_counts", "generator", "label_array"]

_TOGETHER = 256  # samples of a small class that one generator shuffles, so that a tail costs no more than a head
_CYCLES = 0x6379636C65


def generator(seed: int, purpose: int, *position: int) -> np.random.Generator:
    """Random numbers of one place: for another purpose or position they are others.

    Args:
        seed: of the run.
        purpose: a constant of whoever asks, so that two uses of one seed are independent.
        position: such as the epoch.
    """
    return np.random.default_rng((seed, purpose, *position))


def label_array(labels: ArrayLike | torch.Tensor) -> NDArray[np.int64]:
    """Labels as int64 [N], whatever holds them.

    Raises:
        ValueError: no labels, not one row of them, fractions, or a negative one.

    Example:
        >>> label_array([2, 0])
        array([2, 0])
    """
    values: NDArray[Any] = np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else labels)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(
            f"labels has shape {values.shape}: one label a sample is needed; RepeatFactorSampler takes several"
        )
    if values.dtype.kind not in "iub":
        raise ValueError(f"labels is {values.dtype}: whole numbers are needed; ClassInfo.bins makes classes of others")
    if values.min() < 0:
        raise ValueError(f"labels has {values.min()}: not below 0")
    return values.astype(np.int64)


def fixed_sum_counts(share: NDArray[Any], total: int, random: np.random.Generator) -> NDArray[np.int64]:
    r"""Whole numbers that add up to ``total``, each the floor or the ceiling of its part of it and that on average.

    Systematic sampling (Madow, 1949): the parts are laid end to end in random order, and the k-th gets as many as there
    are points :math:`u, u + 1, \dots` in it, for one uniform u. Independent draws would have the variance of a
    multinomial, and miss a rare class in one epoch of many.

    Args:
        share: float or int [K], not negative, of any sum above 0.
        total: sum of the counts.
        random: is drawn from.

    Returns:
        int64 [K].

    Example:
        >>> fixed_sum_counts(np.array([1, 1, 2]), 8, np.random.default_rng(0)).tolist()
        [2, 2, 4]
    """
    place = random.permutation(len(share))
    edges = np.cumsum(share[place], dtype=np.float64)
    expected = (edges * (total / edges[-1])).round(6)  # so that what is whole but for rounding stays whole
    points = np.floor(expected + random.random()).clip(max=total)
    points[-1] = total
    counts = np.empty(len(share), dtype=np.int64)
    counts[place] = np.diff(points, prepend=0)
    return counts


class ClassCycles:
    """The samples of each class in an endless order: a permutation of all, then another, so none comes twice too early.

    Args:
        labels: int64 [N].
        num_classes: C.
        seed: of the permutations.

    Raises:
        ValueError: a class without a sample.

    Example:
        >>> cycles = ClassCycles(np.array([1, 0, 1, 1]), 2, seed=0)
        >>> cycles.take(np.array([0, 3]), np.array([2, 6])).tolist()[:2], sorted(cycles.take([0, 3], [0, 6]).tolist())
        ([1, 1], [0, 2, 3])
    """

    def __init__(self, labels: NDArray[np.int64], num_classes: int, seed: int) -> None:
        self.counts = np.bincount(labels, minlength=num_classes)
        self.seed = seed
        if len(self.counts) > num_classes:
            raise ValueError(f"labels has {labels.max()}, but num_classes={num_classes}: labels count from 0")
        if not self.counts.all():
            empty = np.flatnonzero(self.counts == 0)
            such = counted(len(empty), "such class", "such classes")
            raise ValueError(
                f"class {empty[0]} of {num_classes} has no sample ({such}), so it cannot be drawn:"
                " add samples of it, or number the classes without it"
            )
        self._members = np.split(np.argsort(labels, kind="stable"), np.cumsum(self.counts)[:-1])

    def take(self, start: ArrayLike, stop: ArrayLike) -> NDArray[np.int64]:
        """Samples ``start[c]`` up to ``stop[c]`` of each class's order, class after class: int64 [sum(stop - start)].

        Args:
            start, stop: int [C].
        """
        ranges = zip(np.asarray(start).tolist(), np.asarray(stop).tolist(), strict=True)
        parts = [self._take(label, *piece) for label, piece in enumerate(ranges) if piece[1] > piece[0]]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def _take(self, label: int, start: int, stop: int) -> NDArray[np.int64]:
        members = self._members[label]
        cycles = -(-_TOGETHER // len(members))
        length = cycles * len(members)
        first = start // length
        parts = [
            generator(self.seed, _CYCLES, label, block).permuted(np.tile(members, (cycles, 1)), axis=1).ravel()
            for block in range(first, -(-stop // length))
        ]
        return np.concatenate(parts)[start - first * length : stop - first * length]
