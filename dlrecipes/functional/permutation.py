"""Permutation tests of two samples: all relabellings at once, by one product of kernel and labels in pieces."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dlrecipes.functional.kernels import PairKernel, chunk_rows
from dlrecipes.functional.precision import full_precision

__all__ = ["PairSums", "canonical_order", "pair_sums", "permutation_p_value", "permuted_labels"]

_PERMUTATIONS = 0x7065726D
_LABELLINGS = 64  # that become float64 at a time


def canonical_order(rows: Tensor) -> Tensor:
    """Indices that sort rows by their first number, then the second and so on; equal rows stay as they are.

    What is computed from rows in this order is the same to the last bit, however they were ordered before.

    Args:
        rows: [N, D], without NaN.

    Returns:
        int64 [N].

    Example:
        >>> canonical_order(torch.tensor([[2.0, 0.0], [1.0, 5.0], [1.0, 4.0]]))
        tensor([2, 1, 0])
    """
    columns = 1  # most data differ in the first number: no more of them are sorted by than it takes
    while True:
        order = torch.arange(len(rows), device=rows.device)
        for column in reversed(range(min(columns, rows.shape[1]))):
            order = order[torch.argsort(rows[order, column], stable=True)]
        head = rows[order, :columns]
        if columns >= rows.shape[1] or not bool((head[1:] == head[:-1]).all(1).any()):
            return order
        columns *= 2


def permuted_labels(observed: Tensor, permutations: int, seed: int, *, stream: int = 0) -> Tensor:
    """The observed labels, and random permutations of them: float32 [1 + B, N] of 0 and 1, the observed ones first.

    Args:
        observed: bool or int [N], 1 where a row is of the first sample.
        permutations: B.
        seed: of the permutations, which are functions of it, N and the number of ones.
        stream: another number gives permutations that have nothing to do with those of the first.

    Example:
        >>> permuted_labels(torch.tensor([1, 1, 0]), permutations=2, seed=0).sum(1)
        tensor([2., 2., 2.])
    """
    labels = np.zeros((permutations + 1, len(observed)), dtype=np.uint8)
    labels[1:, : int(observed.sum())] = 1
    np.random.default_rng((seed, _PERMUTATIONS, stream)).permuted(labels[1:], axis=1, out=labels[1:])
    labels[0] = observed.cpu().numpy()
    return torch.from_numpy(labels).to(observed.device).float()


class PairSums(NamedTuple):
    """Sums of a kernel over ordered pairs of different rows, for each labelling: float64 [1 + B] each.

    Attributes:
        first: pairs inside the first sample.
        second: pairs inside the second sample.
        between: pairs of a row of the first and one of the second, counted once.
        scale: root mean square of the kernel over all pairs, less its mean: a float.
    """

    first: Tensor
    second: Tensor
    between: Tensor
    scale: float


@torch.no_grad()
def pair_sums(points: Tensor, labels: Tensor, kernel: PairKernel, *, chunk: int | None = None) -> PairSums:
    """Sums of kernel(a, b) − kernel.centre over pairs of rows, under every labelling.

    The upper triangle of the kernel matrix K is made in pieces of ``chunk`` rows, each multiplied by all labellings Z:
    zᵀKz is the sum inside the first sample, and the row sums of K give the rest. Time O(N² (D + B) / 2), memory
    O(chunk · N + B · N): there is no N × N matrix. Products are in the points' dtype, without TF32; sums of pieces in
    float64.

    Args:
        points: float32 or float64 [N, D], about the origin.
        labels: float [1 + B, N] of 0 and 1, as ``permuted_labels`` makes them.
        kernel: of two points.
        chunk: rows of the kernel matrix at a time; None: what fits 16 MiB (CPU) or 512 MiB (GPU).
    """
    count, device = len(points), points.device
    step = chunk_rows(count, device, chunk)
    labels = labels.to(points.dtype)
    inside = torch.zeros(len(labels), dtype=torch.float64, device=device)
    row_sums = torch.zeros(count, dtype=torch.float64, device=device)
    squares = torch.zeros((), dtype=torch.float64, device=device)
    with full_precision(device):
        for start in range(0, count, step):
            stop = min(start + step, count)
            block = kernel(points[start:stop], points[start:])
            own, later = block[:, : stop - start], block[:, stop - start :]
            own.diagonal().zero_()
            row_sums[start:stop] += block.sum(1).double()
            row_sums[stop:] += later.sum(0).double()
            own.mul_(0.5)  # its pairs are there both ways round, those of `later` one way
            squares += 2 * torch.linalg.vector_norm(later).double().square()
            squares += 4 * torch.linalg.vector_norm(own).double().square()
            product = labels[:, start:] @ block.T
            inside += 2 * product.mul_(labels[:, start:stop]).sum(1).double()
    total = row_sums.sum()
    mixed = torch.cat([piece.double() @ row_sums for piece in torch.split(labels, _LABELLINGS)])
    between = mixed - inside
    pairs = max(count * (count - 1), 1)
    variance = squares / pairs - (total / pairs).square()
    return PairSums(inside, total - 2 * between - inside, between, float(variance.clamp(min=0).sqrt()))


def permutation_p_value(statistics: Tensor, *, tolerance: float = 0.0) -> float:
    """(1 + k) / (1 + B) (Phipson and Smyth, 2010): how many relabellings reach the observed statistic, and itself.

    Args:
        statistics: [1 + B], the observed one first; large ones speak against one distribution.
        tolerance: how far below the observed one still counts as reaching it: the rounding of equal labellings.

    Example:
        >>> permutation_p_value(torch.tensor([3.0, 1.0, 2.0, 4.0]))
        0.5
    """
    reached = statistics[1:] >= statistics[0] - tolerance
    return (1 + int(reached.sum())) / len(statistics)
