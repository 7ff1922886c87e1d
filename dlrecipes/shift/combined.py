"""The default test: Kolmogorov-Smirnov names the feature, maximum mean discrepancy sees what no feature shows alone."""

from __future__ import annotations

from collections.abc import Sequence

from dlrecipes.shift.ks import ks_test
from dlrecipes.shift.mmd import mmd_test
from dlrecipes.shift.two_sample import Sample, TwoSampleResult

__all__ = ["shift_test"]


def shift_test(
    x: Sample,
    y: Sample,
    permutations: int = 1000,
    seed: int = 0,
    *,
    names: Sequence[str] | None = None,
    chunk: int | None = None,
) -> TwoSampleResult:
    """Whether two samples are of one distribution, by ``ks_test`` and ``mmd_test`` at half the level each.

    p = min(1, 2 · min(p of KS, p of MMD)): at most α with a probability of at most α if nothing shifted, whatever the
    two have to do with one another.

    Args:
        x, y, permutations, seed, chunk: as in ``mmd_test``.
        names: of the features.

    Returns:
        ``statistic`` and ``effect`` are MMD², ``features`` those of KS, ``parts`` the results of both.

    Raises:
        UserError: samples that cannot be compared.
        ValueError: permutations or chunk out of range, or names that do not fit.

    Example:
        >>> import torch
        >>> x = torch.arange(40.0).reshape(20, 2)
        >>> [part.test for part in shift_test(x, x + 40).parts]
        ['KS', 'MMD']
    """
    mmd = mmd_test(x, y, permutations, seed, chunk=chunk)
    ks = ks_test(x, y, names=names)
    p_value = min(1.0, 2 * min(mmd.p_value, ks.p_value))
    return TwoSampleResult(
        "KS and MMD", mmd.statistic, p_value, mmd.effect, "MMD²", mmd.sizes, features=ks.features, parts=(ks, mmd)
    )
