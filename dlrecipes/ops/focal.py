"""Sigmoid focal loss, summed, in one pass forward and one backward: a Triton kernel on CUDA, torch elsewhere."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["fused_sigmoid_focal_loss"]

_BLOCK = 1024


def fused_sigmoid_focal_loss(
    logits: Tensor, labels: Tensor, *, alpha: float | None = 0.25, gamma: float = 2.0
) -> Tensor:
    r"""Sum of the sigmoid focal loss over all elements (Lin et al., 2017, arXiv:1708.02002), both passes by hand.

    With :math:`y_{ic} = [c = \text{label}_i]`, :math:`s = x` where :math:`y = 1` and :math:`s = -x` elsewhere,
    :math:`p = \sigma(s)`, :math:`w = \alpha` for positives and :math:`1 - \alpha` for the others:

    .. math:: L = -\sum_{ic} w\,(1 - p)^\gamma \log p, \qquad
              \frac{\partial L}{\partial s} = w\,(1 - p)^\gamma \big(\gamma\,p \log p - (1 - p)\big)

    Classes come as one number a row instead of a one-hot matrix of the logits' size, and the backward pass computes the
    gradient anew from the logits instead of storing anything: 2 reads and 1 write of the logits in all. On CUDA both
    passes are a Triton kernel each; on the CPU, where torchvision's is faster, or without Triton, the same formulas in
    torch. Works under
    ``torch.compile``; the order of additions is fixed, so that equal input gives equal bits.

    Args:
        logits: float [N, C], contiguous or not; half precision is computed in float32.
        labels: int64 [N]; a label outside 0..C − 1 is background: its row has no positive.
        alpha: weight of positives; None: both weigh 1.
        gamma: ≥ 0; 0 is binary cross entropy.

    Returns:
        A scalar; float32 for half precision. Divide by the number of objects as detectors do.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, gamma < 0, alpha outside 0..1.

    Example:
        >>> logits, labels = torch.tensor([[0.0, 2.0], [-1.0, 0.5]]), torch.tensor([0, -1])
        >>> one_hot = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> from torchvision.ops import sigmoid_focal_loss
        >>> torch.testing.assert_close(
        ...     fused_sigmoid_focal_loss(logits, labels), sigmoid_focal_loss(logits, one_hot, reduction="sum"))
    """
    if logits.dim() != 2 or not logits.is_floating_point():
        raise ValueError(f"logits of shape {list(logits.shape)}, {logits.dtype}: floats [N, C] are needed")
    if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"labels of shape {list(labels.shape)}, {labels.dtype}: one int64 for each of {len(logits)} rows is needed"
        )
    if labels.device != logits.device:
        raise ValueError(f"labels are on {labels.device} and logits on {logits.device}: move one of them")
    if gamma < 0:
        raise ValueError(f"gamma={gamma}: must not be below 0")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: must be within 0..1")
    w_positive, w_negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    total: Tensor = _focal_sum(logits, labels, float(w_positive), float(w_negative), float(gamma))
    return total


def _signed(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, negated where the element is no positive, in the dtype to compute in; and which are positives."""
    x = logits if logits.dtype == torch.float64 else logits.float()
    positive = labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
    return torch.where(positive, x, -x), positive


def _forward_in_torch(logits: Tensor, labels: Tensor, w_positive: float, w_negative: float, gamma: float) -> Tensor:
    s, positive = _signed(logits, labels)
    loss = (-s).sigmoid().pow(gamma) * F.softplus(-s)
    return torch.where(positive, w_positive * loss, w_negative * loss).sum()


def _backward_in_torch(
    grad_output: Tensor, logits: Tensor, labels: Tensor, w_positive: float, w_negative: float, gamma: float
) -> Tensor:
    s, positive = _signed(logits, labels)
    q = (-s).sigmoid()
    slope = -q.pow(gamma) * (gamma * s.sigmoid() * F.softplus(-s) + q)  # 1 - q would lose p's digits
    slope = torch.where(positive, w_positive * slope, -w_negative * slope)
    return (slope * grad_output).to(logits.dtype)


def _use_triton(logits: Tensor) -> bool:
    return logits.is_cuda and find_spec("triton") is not None


@torch.library.triton_op("dlrecipes::sigmoid_focal_sum", mutates_args={})
def _focal_sum(logits: Tensor, labels: Tensor, w_positive: float, w_negative: float, gamma: float) -> Tensor:
    if not _use_triton(logits):
        return _forward_in_torch(logits, labels, w_positive, w_negative, gamma)
    from dlrecipes.ops.focal_kernels import focal_forward_kernel

    logits, blocks = logits.contiguous(), -(-logits.numel() // _BLOCK)
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    partial = torch.empty(blocks, dtype=wide, device=logits.device)
    if blocks:
        # Triton launches on the current device
        with torch.cuda.device_of(logits):
            torch.library.wrap_triton(focal_forward_kernel)[(blocks,)](
                logits,
                labels.contiguous(),
                partial,
                logits.numel(),
                logits.shape[1],
                w_positive,
                w_negative,
                gamma,
                BLOCK=_BLOCK,
            )
    return partial.sum()


@torch.library.triton_op("dlrecipes::sigmoid_focal_sum_backward", mutates_args={})
def _focal_sum_backward(
    grad_output: Tensor, logits: Tensor, labels: Tensor, w_positive: float, w_negative: float, gamma: float
) -> Tensor:
    if not _use_triton(logits):
        return _backward_in_torch(grad_output, logits, labels, w_positive, w_negative, gamma)
    from dlrecipes.ops.focal_kernels import focal_backward_kernel

    logits, blocks = logits.contiguous(), -(-logits.numel() // _BLOCK)
    grad_logits = torch.empty_like(logits)
    if blocks:
        # Triton launches on the current device
        with torch.cuda.device_of(logits):
            torch.library.wrap_triton(focal_backward_kernel)[(blocks,)](
                logits,
                labels.contiguous(),
                grad_output,
                grad_logits,
                logits.numel(),
                logits.shape[1],
                w_positive,
                w_negative,
                gamma,
                BLOCK=_BLOCK,
            )
    return grad_logits


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, float, float, float], output: Tensor) -> None:
    logits, labels, *ctx.numbers = inputs
    ctx.save_for_backward(logits, labels)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None, None, None]:
    logits, labels = ctx.saved_tensors
    grad = _focal_sum_backward(grad_output, logits, labels, *ctx.numbers) if ctx.needs_input_grad[0] else None
    return grad, None, None, None, None


_focal_sum.register_autograd(_backward, setup_context=_remember)
