"""What is known about the classes of a training set: how many samples each has, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dlrecipes.contracts import DataInfo
from dlrecipes.functional.class_weights import ClassWeighting, class_weights, positive_weights
from dlrecipes.imbalance.samplers.order import label_array

__all__ = ["ClassInfo"]


@dataclass(frozen=True)
class ClassInfo:
    """Counts of the classes, and the priors, weights and groups that follow from them.

    Made by `from_labels`, `from_multi_hot`, `from_targets` (regression, in bins) or `from_data_info`.

    Attributes:
        counts: samples of each class.
        total: N samples; less than the sum of counts where a sample has several classes.
        exclusive: each sample has one class; False: several or none.
        edges: borders of the bins, one more than classes, ascending (regression; empty otherwise).

    Example:
        >>> info = ClassInfo.from_labels([0, 0, 0, 1])
        >>> info.counts, info.priors.tolist(), info.weights("inverse").tolist(), info.ratio
        ((3, 1), [0.75, 0.25], [0.5, 1.5], 3.0)
    """

    counts: tuple[int, ...]
    total: int
    exclusive: bool = True
    edges: tuple[float, ...] = ()

    @classmethod
    def from_labels(cls, labels: ArrayLike | Tensor, num_classes: int | None = None) -> ClassInfo:
        """One label a sample.

        Args:
            labels: int [N] from 0.
            num_classes: C; None: the largest label and one.

        Raises:
            ValueError: labels that are no classes, or one of C or more.
        """
        found = label_array(labels)
        size = int(found.max()) + 1 if num_classes is None else num_classes
        if found.max() >= size:
            raise ValueError(f"labels has {found.max()}, but num_classes={size}: labels count from 0")
        return cls(tuple(np.bincount(found, minlength=size).tolist()), len(found))

    @classmethod
    def from_multi_hot(cls, labels: ArrayLike | Tensor) -> ClassInfo:
        """Several labels a sample, or none.

        Args:
            labels: 0 and 1, [N, C].

        Raises:
            ValueError: another shape, or another value.
        """
        found: NDArray[Any] = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
        if found.ndim != 2 or not np.isin(found, (0, 1)).all():
            raise ValueError(f"labels of shape {found.shape}: rows of 0 and 1, one column a class, are needed")
        return cls(tuple(found.sum(axis=0).astype(np.int64).tolist()), len(found), exclusive=False)

    @classmethod
    def from_targets(cls, targets: ArrayLike | Tensor, bins: int | Sequence[float] = 50) -> ClassInfo:
        """Numbers to predict, counted in bins.

        Args:
            targets: float [N], finite.
            bins: number of equally wide bins between the smallest and the largest target, or their borders, ascending.

        Raises:
            ValueError: targets that are not finite or not one a sample, bins that are not ascending.
        """
        values = _numbers(targets)
        if isinstance(bins, int):
            if bins < 1:
                raise ValueError(f"bins={bins}: at least 1 is needed")
            edges = np.histogram_bin_edges(values, bins)
        else:
            edges = np.asarray(bins, dtype=np.float64)
            if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
                raise ValueError(f"bins={list(bins)}: two or more ascending borders are needed")
        empty = cls((0,) * (len(edges) - 1), len(values), edges=tuple(edges.tolist()))
        counts = np.bincount(empty.bins(values), minlength=len(edges) - 1)
        return cls(tuple(counts.tolist()), len(values), edges=empty.edges)

    @classmethod
    def from_data_info(cls, info: DataInfo) -> ClassInfo:
        """What a datamodule says about its training split; in detection, ``total`` is the number of objects.

        Raises:
            ValueError: no classes, as in regression.
        """
        if not info.classes:
            raise ValueError(f"{info.task} data has no classes to count: use ClassInfo.from_targets")
        total = sum(info.class_counts) if info.task == "detection" else info.num_train
        return cls(tuple(info.class_counts), total, exclusive=info.task != "multilabel")

    @property
    def priors(self) -> Tensor:
        """Share of the samples that have each class, float64 [C]; of sum 1 where classes are exclusive."""
        return torch.tensor(self.counts, dtype=torch.float64) / max(self.total, 1)

    @property
    def ratio(self) -> float:
        """Samples of the most frequent class for one of the least frequent that occurs; 1 if none does."""
        present = [count for count in self.counts if count]
        return max(present) / min(present) if present else 1.0

    def weights(self, scheme: ClassWeighting, *, beta: float = 0.999) -> Tensor:
        """float32 [C]: ``class_weights``, or of several labels a sample ``positive_weights``; see there.

        Raises:
            ValueError: an unknown scheme, beta outside (0, 1).
        """
        if self.exclusive:
            return class_weights(self.counts, scheme, beta=beta)
        return positive_weights(self.counts, self.total, scheme, beta=beta)

    def groups(self, many: int = 100, few: int = 20) -> dict[str, tuple[int, ...]]:
        """Classes with more than ``many`` samples, with fewer than ``few``, and between (Liu et al., 2019, OLTR).

        Returns:
            classes under ``"many"``, ``"medium"`` and ``"few"``; one without samples is few-shot.

        Raises:
            ValueError: ``few`` above ``many``.

        Example:
            >>> ClassInfo((500, 60, 5), 565).groups()
            {'many': (0,), 'medium': (1,), 'few': (2,)}
        """
        if few > many:
            raise ValueError(f"few={few}: not above many={many}")
        names = ["many" if n > many else "few" if n < few else "medium" for n in self.counts]
        return {name: tuple(i for i, own in enumerate(names) if own == name) for name in ("many", "medium", "few")}

    def bins(self, targets: ArrayLike | Tensor) -> NDArray[np.int64]:
        """The bin that each target is in, int64 [N]; a lower border belongs to its bin, and so does the last upper one.

        A target outside all bins is in the nearest one.

        Raises:
            ValueError: there are no bins, or targets that are not finite or not one a sample.

        Example:
            >>> ClassInfo.from_targets([0.0, 1.0, 2.0, 10.0], bins=5).bins([1.9, 2.0, 10.0, 99.0]).tolist()
            [0, 1, 4, 4]
        """
        if not self.edges:
            raise ValueError("this ClassInfo is of classes and has no bins: ClassInfo.from_targets makes them")
        place = np.searchsorted(np.asarray(self.edges), _numbers(targets), side="right") - 1
        return place.clip(0, len(self.edges) - 2).astype(np.int64)


def _numbers(targets: ArrayLike | Tensor) -> NDArray[np.float64]:
    values: NDArray[np.float64] = np.asarray(targets.cpu() if isinstance(targets, Tensor) else targets, np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"targets has shape {values.shape}: one number a sample is needed")
    if not np.isfinite(values).all():
        raise ValueError("targets has numbers that are not finite")
    return values
