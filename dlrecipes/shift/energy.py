"""Energy distance: a test of all features together that needs no bandwidth."""

from __future__ import annotations

from dlrecipes.functional.kernels import NegativeDistance, median_distance
from dlrecipes.functional.permutation import pair_sums, permutation_p_value, permuted_labels
from dlrecipes.shift.mmd import ROUNDING, check_permutations
from dlrecipes.shift.two_sample import Sample, TwoSampleResult, as_samples, pooled

__all__ = ["energy_test"]


def energy_test(
    x: Sample, y: Sample, permutations: int = 1000, seed: int = 0, *, chunk: int | None = None
) -> TwoSampleResult:
    r"""Whether two samples are of one distribution, by distances and permutations (Székely and Rizzo, 2013).

    .. math:: E = \frac{2}{mn} \sum_{i,j} \|x_i - y_j\| - \frac{1}{m^2} \sum_{i,j} \|x_i - x_j\|
        - \frac{1}{n^2} \sum_{i,j} \|y_i - y_j\| \ge 0

    p, cost and memory are as in ``mmd_test``. Best at shifts of the mean; features should have one scale. With one
    feature, √E is ``scipy.stats.energy_distance``.

    Args:
        x, y, permutations, seed, chunk: as in ``mmd_test``.

    Returns:
        ``statistic`` is E; ``effect`` is E / (2 · mean distance of an x and a y), between 0 and 1.

    Raises:
        UserError: samples that cannot be compared.
        ValueError: permutations or chunk out of range.

    Example:
        >>> import torch
        >>> x = torch.arange(40.0).reshape(20, 2)
        >>> energy_test(x, x + 40).rejected(), energy_test(x[::2], x[1::2]).rejected()
        (True, False)
    """
    check_permutations(permutations)
    first, second = as_samples(x, y, "energy_test")
    rows, labels = pooled(first, second)
    m, n = len(first), len(second)
    scale = median_distance(rows, seed)
    if scale == 0:
        return TwoSampleResult("energy", 0.0, 1.0, 0.0, "E", (m, n), note="all rows are the same")
    kernel = NegativeDistance(typical=1.0)
    labelled = permuted_labels(labels, permutations, seed)
    sums = pair_sums((rows / scale).float(), labelled, kernel, chunk=chunk)
    between = -(sums.between / (m * n) + kernel.centre)  # mean distances, in medians; a row is at 0 from itself
    inside_first = -(sums.first + kernel.centre * m * (m - 1)) / m**2
    inside_second = -(sums.second + kernel.centre * n * (n - 1)) / n**2
    statistics = 2 * between - inside_first - inside_second
    p_value = permutation_p_value(statistics, tolerance=ROUNDING * sums.scale * (1 / m + 1 / n))
    observed = float(statistics[0].clamp(min=0))
    effect = observed / (2 * float(between[0]))
    return TwoSampleResult("energy", observed * scale, p_value, effect, "E / 2E|x − y|", (m, n))
