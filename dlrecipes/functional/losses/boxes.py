"""Losses on the overlap of matched pairs of boxes.

All take ``(input, target)`` of one shape [..., 4] as (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, relative or in
pixels, compute in float32 or wider, and let no gradient into the target. The order of corners is not checked, as a
GPU's host would have to wait. Where the smallest box around a pair has no area (at most 1e-20: the same point twice, or
both on one upright or level line), IoU and GIoU are 0, and so are their gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dlrecipes.functional.boxes import NO_AREA, box_giou, box_iou
from dlrecipes.functional.losses.reduce import prepare_pair, reduce_loss

__all__ = ["ciou_loss", "diou_loss", "giou_loss", "iou_loss"]


def _prepare(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype to compute in."""
    input, target = prepare_pair(input, target)
    if input.shape[-1:] != (4,):
        raise ValueError(f"input has shape {list(input.shape)}: boxes are [..., 4], (x1, y1, x2, y2)")
    return input, target


def _span(input: Tensor, target: Tensor) -> Tensor:
    """[..., 2], width and height of the smallest box around both."""
    return torch.maximum(input[..., 2:], target[..., 2:]) - torch.minimum(input[..., :2], target[..., :2])


def _centre_penalty(input: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the centres over the squared diagonal of the smallest box around both: in 0..1."""
    offset = (input[..., :2] + input[..., 2:] - target[..., :2] - target[..., 2:]) / 2
    return offset.square().sum(-1) / _span(input, target).square().sum(-1).clamp(min=NO_AREA)


def _aspect_angle(boxes: Tensor) -> Tensor:
    """atan(width / height); π / 4, without gradient, of a point, which has no shape."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    point = (size.detach().square().sum(-1) <= NO_AREA)[..., None]
    width, height = size.masked_fill(point, 1).unbind(-1)
    return torch.atan2(width, height)


def iou_loss(input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    r"""One minus the intersection over union. Boxes that do not meet have no gradient: the other three have.

    .. math:: \ell = 1 - \text{IoU}(x, y)

    Args:
        input: float [N, 4].
        target: same shape.
        sample_weight: float [N].
        reduction: ``"none"``, ``"mean"`` (over boxes, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or [N] with ``"none"``, in 0..1; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> iou_loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 1]]))
        tensor(0.5000)
    """
    input, target = _prepare(input, target)
    return reduce_loss(1 - box_iou(input, target), reduction, sample_weight)


def giou_loss(input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    r"""IoU loss plus the empty share of C, the smallest box around both (Rezatofighi et al., 2019, arXiv:1902.09630).

    .. math:: \ell = 1 - \text{IoU}(x, y) + |C \setminus (x \cup y)|\, /\, |C|

    Args:
        input: float [N, 4].
        target: same shape.
        sample_weight: float [N].
        reduction: ``"none"``, ``"mean"`` (over boxes, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or [N] with ``"none"``, in 0..2; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> giou_loss(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]]))
        tensor(1.3333)
    """
    input, target = _prepare(input, target)
    return reduce_loss(1 - box_giou(input, target), reduction, sample_weight)


def diou_loss(input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    r"""IoU loss plus the distance of the centres (Zheng et al., 2020, arXiv:1911.08287, eq. 7).

    With :math:`\rho` the distance of the centres and c the diagonal of the smallest box around both:

    .. math:: \ell = 1 - \text{IoU}(x, y) + \rho^2 / c^2

    Args:
        input: float [N, 4].
        target: same shape.
        sample_weight: float [N].
        reduction: ``"none"``, ``"mean"`` (over boxes, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or [N] with ``"none"``, in 0..2; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> diou_loss(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]]))
        tensor(1.4000)
    """
    input, target = _prepare(input, target)
    loss = 1 - box_iou(input, target) + _centre_penalty(input, target)
    return reduce_loss(loss, reduction, sample_weight)


def ciou_loss(input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    r"""DIoU loss plus the difference of the aspect ratios (Zheng et al., 2020, arXiv:1911.08287, eqs. 8 to 11).

    .. math:: \ell = 1 - \text{IoU}(x, y) + \rho^2 / c^2 + \alpha v, \qquad
        v = \tfrac{4}{\pi^2} \left(\arctan\tfrac{w_y}{h_y} - \arctan\tfrac{w_x}{h_x}\right)^2, \qquad
        \alpha = \frac{v}{1 - \text{IoU} + v}

    As in the paper, α is a constant to the gradient. The gradient of v is the true one: the authors' code leaves its
    factor :math:`1 / (w_x^2 + h_x^2)` out.

    Args:
        input: float [N, 4].
        target: same shape.
        sample_weight: float [N].
        reduction: ``"none"``, ``"mean"`` (over boxes, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or [N] with ``"none"``, in 0..3; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> ciou_loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 1]]))
        tensor(0.5345)
    """
    input, target = _prepare(input, target)
    iou = box_iou(input, target)
    v = (2 / math.pi * (_aspect_angle(target) - _aspect_angle(input))).square()
    with torch.no_grad():
        alpha = v / (1 - iou + v).clamp(min=NO_AREA)  # of identical boxes 0 / 0
    return reduce_loss(1 - iou + _centre_penalty(input, target) + alpha * v, reduction, sample_weight)
