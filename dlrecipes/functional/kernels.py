"""Kernels of pairs of points, in pieces: what maximum mean discrepancy and energy distance are sums of."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dlrecipes.functional.neighbours import rows_at_once

__all__ = ["NegativeDistance", "PairKernel", "RBFKernel", "chunk_rows", "median_distance"]

_MEMORY = {"cpu": 16 << 20, "cuda": 512 << 20}  # bytes of kernel values at a time: what caches like, what fills a GPU
_MEDIAN_ROWS = 1000  # of a larger sample so many rows give the median: half a million distances, a thousandth exact
_MEDIAN = 0x6D656469616E


class PairKernel(Protocol):
    """A symmetric function of two points, less a constant, which keeps the digits of what differs between pairs.

    Attributes:
        centre: that constant.
    """

    centre: float

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """[A, D], [B, D] → k(first, second) − centre [A, B]."""
        ...


def chunk_rows(columns: int, device: torch.device, chunk: int | None = None) -> int:
    """Rows of a kernel matrix to hold at a time: ``chunk``, or what fits 16 MiB (CPU) or 512 MiB (GPU).

    Raises:
        ValueError: a chunk below 1.

    Example:
        >>> chunk_rows(20_000, torch.device("cpu"))
        209
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk={chunk}: at least one row at a time")
    return chunk or rows_at_once(columns, _MEMORY.get(device.type, _MEMORY["cpu"]))


def median_distance(points: Tensor, seed: int = 0) -> float:
    """Median Euclidean distance between different rows: the usual bandwidth of a kernel (Gretton et al., 2012).

    Of more than 1,000 points it is that of 1,000 of them, chosen by ``seed``. Where more than half of all distances are
    0, it is the mean distance; 0 if all points are the same.

    Args:
        points: [N, D].
        seed: which rows are taken; a function of N and of it alone.

    Example:
        >>> median_distance(torch.tensor([[0.0], [1.0], [3.0]]))
        2.0
    """
    if len(points) > _MEDIAN_ROWS:
        rows = np.random.default_rng((seed, _MEDIAN)).choice(len(points), _MEDIAN_ROWS, replace=False)
        points = points[torch.from_numpy(rows).to(points.device)]
    points = points.double()
    if len(points) < 2:
        return 0.0
    distances = torch.pdist(points) if points.device.type == "cpu" else _pairs(points)
    median = float(distances.median())
    return median if median > 0 else float(distances.mean())


def _pairs(points: Tensor) -> Tensor:
    """``torch.pdist`` on any device; CUDA's is slow."""
    first, second = torch.triu_indices(len(points), len(points), offset=1, device=points.device)
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")[first, second]


class RBFKernel:
    r"""Gaussian kernel :math:`\exp(-\|a - b\|^2 / 2σ^2)`, less its value at the distance σ, in the points' own dtype.

    Args:
        bandwidth: σ > 0.

    Raises:
        ValueError: a bandwidth not above 0.

    Example:
        >>> kernel = RBFKernel(bandwidth=1.0)
        >>> kernel(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [2.0, 0.0]])) + kernel.centre
        tensor([[1.0000, 0.1353]])
    """

    def __init__(self, bandwidth: float) -> None:
        if not bandwidth > 0:
            raise ValueError(f"bandwidth={bandwidth}: above 0 is needed")
        self.bandwidth = bandwidth
        self.centre = float(np.exp(-0.5))

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """[A, D], [B, D] → [A, B]. One matrix product gives −|a − b|²/2σ²; points should lie about the origin."""
        first, second = first / self.bandwidth, second / self.bandwidth
        left = torch.cat((first, first.square().sum(1, keepdim=True) / -2, first.new_ones(len(first), 1)), 1)
        right = torch.cat((second, second.new_ones(len(second), 1), second.square().sum(1, keepdim=True) / -2), 1)
        return (left @ right.T).clamp_(max=0).exp_().sub_(self.centre)


class NegativeDistance:
    """−|a − b|, plus a constant: the kernel of energy distance (Székely and Rizzo, 2013; Sejdinovic et al., 2013).

    Args:
        typical: the constant; a typical distance.

    Example:
        >>> NegativeDistance(typical=0.0)(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        tensor([[-5.]])
    """

    def __init__(self, typical: float) -> None:
        self.centre = -typical

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """[A, D], [B, D] → [A, B], by differences: a matrix product would lose short distances."""
        distance = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
        return distance.neg_().sub_(self.centre)
