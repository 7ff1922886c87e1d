"""Kolmogorov-Smirnov tests of each feature: weaker than a test of all together, but it names the feature."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dlrecipes.shift.two_sample import (
    Sample,
    TwoSampleResult,
    above_zero,
    adjusted,
    as_columns,
    by_feature,
    feature_names,
)

__all__ = ["ks_test"]

_TINY = 1e-10  # of unequal samples scipy's exact p is one less a sum, and below this only rounding: scipy/scipy#12999


def ks_test(
    x: Sample, y: Sample, correction: str = "bonferroni", *, names: Sequence[str] | None = None
) -> TwoSampleResult:
    """Whether any feature has another distribution in y than in x: one test a feature, corrected for their number.

    p is the smallest corrected p-value: Bonferroni's, valid whatever the features have to do with one another, or that
    of Benjamini and Hochberg (Simes'), valid for features that are independent or rise and fall together. Each is exact
    up to 10,000 rows a sample (``scipy.stats.ks_2samp``); ties, as in counts, make it larger, not smaller.

    Args:
        x, y: [m, d] and [n, d], numpy or torch.
        correction: ``"bonferroni"`` or ``"bh"``.
        names: of the d features.

    Returns:
        ``statistic`` and ``effect`` are the largest distance D between two distribution functions; ``features`` has
        the corrected p and D of each feature.

    Raises:
        UserError: samples that cannot be compared.
        ValueError: another correction, or names that do not fit.

    Example:
        >>> x = np.arange(60.0).reshape(30, 2)
        >>> result = ks_test(x, x + [0.0, 30.0], names=["width", "height"])
        >>> print(result)
        KS of 30 and 30 samples: p = 0.0018, D 0.5, most in height
        >>> [feature.name for feature in result.culprits]
        ['height']
    """
    first, second = as_columns(x, y, "ks_test")
    columns = feature_names(names, first.shape[1])
    found = [_column(first[:, i], second[:, i]) for i in range(len(columns))]
    effects = np.array([effect for effect, _ in found])
    p_values = adjusted(np.array([p_value for _, p_value in found]), correction)
    largest = float(effects.max())
    return TwoSampleResult(
        "KS",
        largest,
        float(p_values.min()),
        largest,
        "D",
        (len(first), len(second)),
        features=by_feature(columns, p_values, effects),
    )


def _column(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """D and p of one feature."""
    with warnings.catch_warnings():
        # where the exact p overflows, or is above 1 by rounding, scipy takes the asymptotic one, which is as good there
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
        found = stats.ks_2samp(x, y)
    p_value = float(found.pvalue)
    if p_value < _TINY:
        p_value = max(p_value, float(stats.ks_2samp(x, y, method="asymp").pvalue))
    return float(found.statistic), above_zero(p_value)
