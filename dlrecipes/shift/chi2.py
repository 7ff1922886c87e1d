"""χ² test of categories: predicted classes, file types, cameras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted
from dlrecipes.shift.mmd import check_permutations
from dlrecipes.shift.two_sample import (
    Sample,
    TwoSampleResult,
    above_zero,
    adjusted,
    by_feature,
    feature_names,
)

__all__ = ["chi2_test"]

_EXPECTED = 5  # Cochran, 1954: below so many expected a cell, χ²'s distribution is not that of the statistic
_ROUNDING = 1e-9  # relative, of equal statistics
_TABLES = 0x74626C73


def chi2_test(
    x: Sample,
    y: Sample,
    permutations: int = 10_000,
    seed: int = 0,
    *,
    correction: str = "bonferroni",
    names: Sequence[str] | None = None,
) -> TwoSampleResult:
    """Whether two samples of categories are of one distribution: Pearson's χ² of homogeneity, one test a column.

    Where fewer than 5 are expected in any cell, p is (1 + k) / (1 + B) over B random tables with the same margins: what
    permuting the rows' labels would give, at once. Elsewhere it is χ²'s.

    Args:
        x, y: [m] and [n], or [m, d] and [n, d], of anything that can be sorted: numbers, strings.
        permutations: B.
        seed: of the random tables.
        correction: for several columns: ``"bonferroni"`` or ``"bh"``.
        names: of the d columns.

    Returns:
        ``statistic`` and ``effect`` are those of the most shifted column: χ², and Cramér's V between 0 and 1.

    Raises:
        UserError: samples of other shapes, of different width, of fewer than two rows, or with NaN.
        ValueError: permutations below 1, another correction, or names that do not fit.

    Example:
        >>> print(chi2_test(["cat"] * 50 + ["dog"] * 50, ["cat"] * 80 + ["dog"] * 20))
        χ² of 100 and 100 samples: p = 8.69e-06, V 0.314, most in feature 0
    """
    check_permutations(permutations)
    first, second = _categories(x, "x"), _categories(y, "y")
    if first.shape[1] != second.shape[1]:
        raise UserError(f"chi2_test: x has {first.shape[1]} columns and y {second.shape[1]}: both must have the same")
    columns = feature_names(names, first.shape[1])
    found = [_column(first[:, i], second[:, i], permutations, seed, i) for i in range(len(columns))]
    chi2, p_values, effects = (np.array(values) for values in zip(*found, strict=True))
    corrected = adjusted(p_values, correction)
    most = int(effects.argmax())
    return TwoSampleResult(
        "χ²",
        float(chi2[most]),
        float(corrected.min()),
        float(effects[most]),
        "V",
        (len(first), len(second)),
        features=by_feature(columns, corrected, effects),
    )


def _categories(sample: Sample, name: str) -> NDArray[Any]:
    values: NDArray[Any] = np.asarray(sample.detach().cpu() if isinstance(sample, Tensor) else sample)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] == 0:
        raise UserError(f"chi2_test: {name} has shape {values.shape}, and rows of categories [n] or [n, d] are needed")
    if len(values) < 2:
        rows = counted(len(values), "row")
        raise UserError(f"chi2_test: {name} has {rows}, and at least two are needed to test anything")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UserError(f"chi2_test: {name} has a NaN: leave it out, or give it a category of its own")
    return values


def _column(x: NDArray[Any], y: NDArray[Any], permutations: int, seed: int, column: int) -> tuple[float, float, float]:
    """χ², p and Cramér's V of one column."""
    categories, index = np.unique(np.concatenate((x, y)), return_inverse=True)
    counts = np.stack([np.bincount(part, minlength=len(categories)) for part in (index[: len(x)], index[len(x) :])])
    if len(categories) == 1:
        return 0.0, 1.0, 0.0
    total = counts.sum(0)
    statistic = float(_pearson(counts[:1], total)[0])
    if counts.sum(1).min() * total.min() / counts.sum() >= _EXPECTED:
        p_value = above_zero(float(stats.chi2.sf(statistic, len(categories) - 1)))
    else:
        random = np.random.default_rng((seed, _TABLES, column))
        tables = random.multivariate_hypergeometric(total, len(x), size=permutations, method="marginals")
        reached = int((_pearson(tables, total) >= statistic * (1 - _ROUNDING)).sum())
        p_value = (1 + reached) / (1 + permutations)
    return statistic, p_value, float(np.sqrt(statistic / counts.sum()))


def _pearson(first: NDArray[Any], total: NDArray[Any]) -> NDArray[np.float64]:
    """χ² of tables [B, K] with margins ``total`` [K], of which only the first row is given."""
    share = first.sum(1, keepdims=True) / total.sum()
    deviation = np.square(first - share * total) / total
    result: NDArray[np.float64] = (deviation / share + deviation / (1 - share)).sum(1)
    return result
