"""Maximum mean discrepancy: a test of all features together, and the samples in which a shift shows most."""

from __future__ import annotations

import torch
from torch import Tensor

from dlrecipes.functional.kernels import RBFKernel, chunk_rows, median_distance
from dlrecipes.functional.permutation import pair_sums, permutation_p_value, permuted_labels
from dlrecipes.functional.precision import full_precision
from dlrecipes.shift.two_sample import Sample, TwoSampleResult, as_samples, pooled

__all__ = ["ROUNDING", "check_permutations", "mmd_test", "mmd_witness"]

#: of the spread of a null distribution: statistics that differ by less may be of equal labellings
ROUNDING = 1e-5


def check_permutations(permutations: int) -> None:
    """Raises ValueError: fewer than one."""
    if permutations < 1:
        raise ValueError(f"permutations={permutations}: at least 1; p can be no smaller than 1 / (1 + permutations)")


def mmd_test(
    x: Sample,
    y: Sample,
    permutations: int = 1000,
    seed: int = 0,
    *,
    bandwidth: float | None = None,
    chunk: int | None = None,
) -> TwoSampleResult:
    r"""Whether two samples are of one distribution, by a kernel and permutations (Gretton et al., 2012, JMLR 13).

    .. math:: \widehat{MMD}^2 = \frac{1}{m(m-1)} \sum_{i \ne j} k(x_i, x_j)
        + \frac{1}{n(n-1)} \sum_{i \ne j} k(y_i, y_j) - \frac{2}{mn} \sum_{i,j} k(x_i, y_j),
        \qquad k(a, b) = e^{-\|a - b\|^2 / 2σ^2}

    Unbiased, so that it can be below 0. p = (1 + k) / (1 + B) over B permutations of the labels: exact at any sample
    size, never 0, and the same to the last bit for every order of the rows. It sees any difference, among them changes
    of spread and mixtures that no single feature shows; it does not name a feature. Features should have one scale.

    Time O((m + n)² (d + B) / 2), memory O((m + n)(d + B)). Computed in float32 without TF32, on the samples' device.

    Args:
        x, y: [m, d] and [n, d], numpy or torch.
        permutations: B.
        seed: of the permutations, and of the 1,000 rows that the median is taken of where there are more.
        bandwidth: σ; None: the median distance in the pooled sample, which does not know the labels.
        chunk: rows of the kernel matrix at a time; None: by memory.

    Returns:
        ``statistic`` and ``effect`` are MMD².

    Raises:
        UserError: samples that cannot be compared.
        ValueError: permutations, bandwidth or chunk out of range.

    Example:
        >>> x = torch.arange(40.0).reshape(20, 2)
        >>> mmd_test(x, x + 40).rejected(), mmd_test(x[::2], x[1::2]).rejected()
        (True, False)
    """
    check_permutations(permutations)
    first, second = as_samples(x, y, "mmd_test")
    rows, labels = pooled(first, second)
    sigma = _bandwidth(rows, bandwidth, seed)
    m, n = len(first), len(second)
    if sigma == 0:
        return TwoSampleResult("MMD", 0.0, 1.0, 0.0, "MMD²", (m, n), note="all rows are the same")
    scaled = (rows / sigma).float()
    sums = pair_sums(scaled, permuted_labels(labels, permutations, seed), RBFKernel(1.0), chunk=chunk)
    statistics = sums.first / (m * (m - 1)) + sums.second / (n * (n - 1)) - 2 * sums.between / (m * n)
    spread = sums.scale * (1 / m + 1 / n)
    p_value = permutation_p_value(statistics, tolerance=ROUNDING * spread)
    return TwoSampleResult("MMD", float(statistics[0]), p_value, float(statistics[0]), "MMD²", (m, n))


def _bandwidth(rows: Tensor, bandwidth: float | None, seed: int) -> float:
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth={bandwidth}: above 0 is needed")
    return median_distance(rows, seed) if bandwidth is None else bandwidth


@torch.no_grad()
def mmd_witness(
    x: Sample, y: Sample, *, bandwidth: float | None = None, seed: int = 0, chunk: int | None = None
) -> Tensor:
    r"""How much each row of y looks like y and unlike x: float64 [n], large where a shift shows (Gretton et al., 2012).

    .. math:: w(y_i) = \frac{1}{n - 1} \sum_{j \ne i} k(y_i, y_j) - \frac{1}{m} \sum_j k(y_i, x_j)

    Args:
        x, y, bandwidth, seed, chunk: as in ``mmd_test``.

    Raises:
        UserError: samples that cannot be compared.

    Example:
        >>> x = torch.linspace(0, 1, 30)
        >>> int(mmd_witness(x, torch.cat((x[:20], 5 + x[:5] / 9))).argmax()) >= 20
        True
    """
    first, second = as_samples(x, y, "mmd_witness")
    rows, _ = pooled(first, second)
    sigma = _bandwidth(rows, bandwidth, seed)
    if sigma == 0:
        return torch.zeros(len(second), dtype=torch.float64, device=second.device)
    centre = torch.cat((first, second)).mean(0)
    first, second = ((first - centre) / sigma).float(), ((second - centre) / sigma).float()
    kernel = RBFKernel(1.0)
    found = []
    step = chunk_rows(len(first) + len(second), first.device, chunk)
    with full_precision(first.device):
        for start in range(0, len(second), step):
            piece = second[start : start + step]
            own = kernel(piece, second).double().sum(1) - (1 - kernel.centre)  # the row itself is left out
            other = kernel(piece, first).double().mean(1)
            found.append(own / (len(second) - 1) - other)
    return torch.cat(found)
