"""Triton kernels of the fused focal loss. Compiled by Triton when they first run; no compiler is needed to install."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

__all__ = ["focal_backward_kernel", "focal_forward_kernel"]

# Both kernels go over the logits as one row of numbers, block by block. With s the logit, negated where the element is
# no positive, an element's loss is w (1 - p)^γ (-log p), p = σ(s): -log p = softplus(-s) and log(1 - p) = -softplus(s).


@triton.jit
def _softplus_of_minus(absolute: Any) -> Any:
    # log(1 + e^-|s|); Triton's log has no log1p, and 1 + e rounds small e away
    e = tl.exp(-absolute)
    series = e * (1.0 - e * (0.5 - e * (0.3333333333333333 - e * 0.25)))
    return tl.where(e < 0.01, series, tl.log(1.0 + e))


@triton.jit
def _signed_logits(logits: Any, labels: Any, numel: Any, classes: Any, BLOCK: tl.constexpr) -> Any:
    # One 64-bit division a block: a division for every element would cost more than reading it.
    start = tl.program_id(0).to(tl.int64) * BLOCK
    first_row = start // classes
    local = (start - first_row * classes).to(tl.int32) + tl.arange(0, BLOCK)
    row = local // classes
    offset = start + tl.arange(0, BLOCK)
    inside = offset < numel
    x = tl.load(logits + offset, mask=inside, other=0.0)
    if x.dtype != tl.float64:
        x = x.to(tl.float32)
    label = tl.load(labels + first_row + row, mask=inside, other=-1)
    positive = label == (local - row * classes)
    return tl.where(positive, x, -x), positive, offset, inside


@triton.jit
def focal_forward_kernel(
    logits: Any,
    labels: Any,
    partial: Any,
    numel: Any,
    classes: Any,
    w_positive: Any,
    w_negative: Any,
    gamma: Any,
    BLOCK: tl.constexpr,
) -> None:
    """Sum of the losses of BLOCK elements → ``partial[program]``: no atomics, so that every run gives the same."""
    s, positive, _, inside = _signed_logits(logits, labels, numel, classes, BLOCK)
    rest = _softplus_of_minus(tl.abs(s))
    loss = tl.exp(-gamma * (tl.maximum(s, 0.0) + rest)) * (tl.maximum(-s, 0.0) + rest)
    loss = tl.where(positive, w_positive, w_negative) * loss
    tl.store(partial + tl.program_id(0), tl.sum(tl.where(inside, loss, 0.0), axis=0))


@triton.jit
def focal_backward_kernel(
    logits: Any,
    labels: Any,
    grad_output: Any,
    grad_logits: Any,
    numel: Any,
    classes: Any,
    w_positive: Any,
    w_negative: Any,
    gamma: Any,
    BLOCK: tl.constexpr,
) -> None:
    """Gradient of BLOCK elements, times ``grad_output[0]``, which never leaves the device."""
    s, positive, offset, inside = _signed_logits(logits, labels, numel, classes, BLOCK)
    e = tl.exp(-tl.abs(s))
    rest = _softplus_of_minus(tl.abs(s))
    small, large = e / (1.0 + e), 1.0 / (1.0 + e)  # σ(-|s|), σ(|s|): neither loses its digits
    p, q = tl.where(s > 0, large, small), tl.where(s > 0, small, large)
    fade = tl.exp(-gamma * (tl.maximum(s, 0.0) + rest))
    slope = -fade * (gamma * p * (tl.maximum(-s, 0.0) + rest) + q)
    slope = tl.where(positive, w_positive * slope, -w_negative * slope) * tl.load(grad_output)
    tl.store(grad_logits + offset, slope.to(grad_logits.dtype.element_ty), mask=inside)
