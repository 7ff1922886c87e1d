"""How much a class should count, from how often it occurs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["ClassWeighting", "class_weights", "positive_weights"]

ClassWeighting = Literal["inverse", "sqrt_inverse", "effective"]


def _size(count: int, scheme: str, beta: float) -> float:
    """What ``count`` samples amount to."""
    if scheme == "inverse":
        return float(count)
    if scheme == "sqrt_inverse":
        return math.sqrt(count)
    return -math.expm1(count * math.log(beta)) / (1 - beta)


def _check(counts: Sequence[int], scheme: str, beta: float) -> None:
    if scheme not in get_args(ClassWeighting):
        raise ValueError(f"scheme is {scheme!r}: use {', '.join(map(repr, get_args(ClassWeighting)))}")
    if not 0 < beta < 1:
        raise ValueError(f"beta={beta}: between 0 and 1")
    if any(count < 0 for count in counts):
        raise ValueError(f"counts has {min(counts)}: not below 0")


def class_weights(counts: Sequence[int], scheme: ClassWeighting, *, beta: float = 0.999) -> Tensor:
    r"""A weight for each class that falls with its number of samples n, for a loss over exclusive classes.

    ``"inverse"``: :math:`1/n`; ``"sqrt_inverse"``: :math:`1/\sqrt n`; ``"effective"``: :math:`(1 - β)/(1 - β^n)`, as
    the more samples there are, the more a new one repeats (Cui et al., 2019, arXiv:1901.05555). The weights are scaled
    to a mean of 1 over the classes that occur. A class that does not occur gets 0: nothing can be learned about it, and
    a weight of 1/0 would drown all others if label smoothing touched it.

    Args:
        counts: samples of each class in the training data.
        scheme: which formula.
        beta: β of ``"effective"``: near 0 all weights are the same, near 1 it is ``"inverse"``.

    Returns:
        float32 [C].

    Raises:
        ValueError: an unknown scheme, β outside (0, 1), a negative count.

    Example:
        >>> class_weights([90, 10], "inverse")
        tensor([0.2000, 1.8000])
        >>> class_weights([90, 10, 0], "sqrt_inverse")
        tensor([0.5000, 1.5000, 0.0000])
    """
    _check(counts, scheme, beta)
    raw = [1 / _size(n, scheme, beta) if n else 0.0 for n in counts]
    occurring = sum(n > 0 for n in counts)
    scale = occurring / sum(raw) if occurring else 0.0
    return torch.tensor([w * scale for w in raw], dtype=torch.float32)


def positive_weights(counts: Sequence[int], total: int, scheme: ClassWeighting, *, beta: float = 0.999) -> Tensor:
    r"""A weight for the positives of each class against its negatives, for losses on sigmoids.

    The size of the negatives divided by that of the positives: with n of N samples positive, ``"inverse"``:
    :math:`(N - n)/n`; ``"sqrt_inverse"``: its square root; ``"effective"``: :math:`(1 - β^{N-n})/(1 - β^n)`. A class of
    which all samples or none are positive gets 1: there is nothing to balance.

    Args:
        counts: positive samples of each class in the training data.
        total: N.
        scheme, beta: as in ``class_weights``.

    Returns:
        float32 [C].

    Raises:
        ValueError: an unknown scheme, β outside (0, 1), a negative count or one above ``total``.

    Example:
        >>> positive_weights([20, 50, 0], 100, "inverse")
        tensor([4., 1., 1.])
    """
    _check(counts, scheme, beta)
    if any(count > total for count in counts):
        raise ValueError(f"counts has {max(counts)}: not above total={total}")
    return torch.tensor(
        [_size(total - n, scheme, beta) / _size(n, scheme, beta) if 0 < n < total else 1.0 for n in counts],
        dtype=torch.float32,
    )
