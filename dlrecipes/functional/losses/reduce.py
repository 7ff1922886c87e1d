"""What all losses share: half precision, sample weights, reduction."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["Reduction", "check_reduction", "check_same_shape", "prepare_pair", "reduce_loss", "safe_pow", "upcast"]

Reduction = Literal["none", "mean", "sum"]


def upcast(x: Tensor) -> Tensor:
    """``x`` in float32 where it is float16 or bfloat16; wider dtypes stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def safe_pow(base: Tensor, exponent: float) -> Tensor:
    """``base ** exponent`` for a base in 0..1, with a finite gradient at 0 (the slope of a root is infinite there).

    A base below the dtype's epsilon counts as epsilon and gets no gradient.

    Example:
        >>> safe_pow(torch.tensor([0.25, 1.0]), 0.5)
        tensor([0.5000, 1.0000])
    """
    return base.clamp(min=torch.finfo(base.dtype).eps).pow(exponent)


def check_reduction(reduction: str) -> None:
    """Raise ValueError unless ``reduction`` is ``"none"``, ``"mean"`` or ``"sum"``."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction is {reduction!r}: use 'none', 'mean' or 'sum'")


def check_same_shape(first: Tensor, second: Tensor, names: tuple[str, str]) -> None:
    """Raise ValueError, naming both, unless two tensors have the same shape: broadcasting hides mistakes."""
    if first.shape != second.shape:
        raise ValueError(
            f"{names[1]} has shape {list(second.shape)}, but {names[0]} has {list(first.shape)}: they must be the same"
        )


def prepare_pair(input: Tensor, target: Tensor, names: tuple[str, str] = ("input", "target")) -> tuple[Tensor, Tensor]:
    """Both in the dtype to compute in, float32 or wider; no gradient flows into the target.

    Raises:
        ValueError: shapes that differ, by the arguments' names.

    Example:
        >>> [x.dtype for x in prepare_pair(torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.int64))]
        [torch.float32, torch.float32]
    """
    check_same_shape(input, target, names)
    input = upcast(input)
    return input, target.detach().to(input.dtype)


def reduce_loss(
    loss: Tensor,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    *,
    mass: Tensor | None = None,
) -> Tensor:
    r"""Weigh samples and reduce.

    With losses :math:`\ell_i`, sample weights :math:`s_i` and masses :math:`m_i` (both 1 where not given):

    .. math:: \text{none: } s_i\,\ell_i \qquad \text{sum: } \sum_i s_i\,\ell_i
        \qquad \text{mean: } \frac{\sum_i s_i\,\ell_i}{\sum_i s_i\,m_i}

    So a sample of weight 0 is as good as absent, weights of 1 change nothing, and scaling all weights changes the sum
    but not the mean. Where the divisor is 0 (an empty batch, all weights 0, everything ignored) the mean is 0, with a
    gradient of zeros, instead of NaN: one such batch must not end a training.

    Over several ranks, the average of their means is the mean of all samples where the divisors are equal: without
    weights, batches of equal size.

    Args:
        loss: float [B, ...], of each element, with its class weight already in it.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        sample_weight: float [B], spread over the further axes of ``loss``, or of ``loss``'s shape; not negative.
        mass: float, ``loss``'s shape: what each element counts in the divisor (its class weight; 0 = ignored).

    Returns:
        ``loss``'s shape for ``"none"``, otherwise a scalar.

    Raises:
        ValueError: an unknown reduction; ``sample_weight`` of another shape.

    Example:
        >>> loss = torch.tensor([1.0, 2.0, 30.0])
        >>> reduce_loss(loss, "mean", torch.tensor([1.0, 1.0, 0.0]))
        tensor(1.5000)
    """
    check_reduction(reduction)
    if sample_weight is not None:
        weight = _per_element(sample_weight.to(loss), loss)
        loss = loss * weight
        mass = weight if mass is None else weight * mass
    if reduction == "none":
        return loss
    total = loss.sum()
    if reduction == "sum":
        return total
    if mass is None:
        return total / max(loss.numel(), 1)
    divisor = mass.sum()
    return total / torch.where(divisor == 0, 1, divisor)


def _per_element(weight: Tensor, loss: Tensor) -> Tensor:
    """Sample weights [B] in ``loss``'s shape [B, ...]."""
    if weight.shape == loss.shape:
        return weight
    if weight.dim() != 1 or weight.shape != loss.shape[:1]:
        raise ValueError(
            f"sample_weight has shape {list(weight.shape)}: give one weight a sample, {list(loss.shape[:1])}"
            f"{', or ' + str(list(loss.shape)) if loss.dim() > 1 else ''}"
        )
    return weight.reshape(-1, *[1] * (loss.dim() - 1)).expand_as(loss)
