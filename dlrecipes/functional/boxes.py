"""Batched box maths. torchvision's pairwise functions take two flat lists; these broadcast."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_convert

__all__ = [
    "NO_AREA",
    "box_giou",
    "box_iou",
    "box_iou_giou",
    "cxcywh_to_xyxy",
    "inverse_sigmoid",
    "pairwise_giou",
    "xyxy_to_cxcywh",
]

# What is smaller is no area, and no squared length: gradients that divide by less overflow.
NO_AREA = 1e-20


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(cx, cy, w, h) → (x1, y1, x2, y2), any leading dimensions.

    Example:
        >>> [round(v, 4) for v in cxcywh_to_xyxy(torch.tensor([0.5, 0.5, 0.2, 0.4])).tolist()]
        [0.4, 0.3, 0.6, 0.7]
    """
    centre, half = boxes[..., :2], 0.5 * boxes[..., 2:]
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(x1, y1, x2, y2) → (cx, cy, w, h), any leading dimensions."""
    out: Tensor = box_convert(boxes, "xyxy", "cxcywh")
    return out


def inverse_sigmoid(p: Tensor, eps: float = 1e-5) -> Tensor:
    """log(p / (1 − p)) with p kept in [eps, 1 − eps], so that a box at the border has a finite gradient."""
    return torch.logit(p, eps=eps)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """|A ∩ B| / |A ∪ B| of boxes in the same place of two arrays that broadcast.

    Args:
        a, b: [..., 4] as (x1, y1, x2, y2).

    Returns:
        [...] in [0, 1]; 0, and so are the gradients, where both boxes have no area (at most 1e-20).

    Example:
        >>> box_iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor([[0.0, 0, 2, 1], [2, 2, 3, 3]])).tolist()
        [0.5, 0.0]
    """
    return _ratio(*_intersection_union(_Corners.of(a), _Corners.of(b)))


def box_giou(a: Tensor, b: Tensor) -> Tensor:
    """IoU − |C ∖ (A ∪ B)| / |C| with C the smallest box around both (Rezatofighi et al., 2019, arXiv:1902.09630).

    Unlike torchvision's ``generalized_box_iou_loss``, which picks the overlapping pairs by a boolean index, no shape
    depends on the values, so a GPU's host does not wait.

    Args:
        a, b: [..., 4] as (x1, y1, x2, y2); they broadcast.

    Returns:
        [...] in [−1, 1]; 0, and so are the gradients, where C has no area (at most 1e-20: the same point twice, or both
        boxes on one upright or level line).

    Example:
        >>> box_giou(torch.tensor([0.0, 0, 1, 1]), torch.tensor([2.0, 0, 3, 1]))
        tensor(-0.3333)
    """
    return box_iou_giou(a, b)[1]


def box_iou_giou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``box_iou`` and ``box_giou`` for little more than the price of one."""
    return _iou_giou(_Corners.of(a), _Corners.of(b))


class _Corners(NamedTuple):
    """(x1, y1) and (x2, y2), each [..., 2] or [2, ...]; ``axis`` is that of x and y."""

    low: Tensor
    high: Tensor
    axis: int

    @classmethod
    def of(cls, boxes: Tensor) -> _Corners:
        return cls(boxes[..., :2], boxes[..., 2:], -1)


def _iou_giou(a: _Corners, b: _Corners) -> tuple[Tensor, Tensor]:
    intersection, union = _intersection_union(a, b)
    around = torch.maximum(a.high, b.high) - torch.minimum(a.low, b.low)
    hull = _area(around, a.axis)
    iou = _ratio(intersection, union)
    return iou, iou - _ratio(hull - union, hull)


def _intersection_union(a: _Corners, b: _Corners) -> tuple[Tensor, Tensor]:
    intersection = _area((torch.minimum(a.high, b.high) - torch.maximum(a.low, b.low)).clamp(min=0), a.axis)
    return intersection, _area(a.high - a.low, a.axis) + _area(b.high - b.low, b.axis) - intersection


def _area(size: Tensor, axis: int) -> Tensor:
    return size.select(axis, 0) * size.select(axis, 1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole; 0, without gradient, where the whole is no area: the gradient of a division by it is NaN."""
    nothing = whole.detach() <= NO_AREA
    return (part / whole.masked_fill(nothing, 1.0)).masked_fill(nothing, 0.0)


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of every pair: [..., N, 4] and [..., M, 4] → [..., N, M]. Fastest where M is the larger number."""
    # x and y first, since the innermost loop over two numbers would take most of the time
    (low_a, high_a), (low_b, high_b) = (x.movedim(-1, 0).contiguous().chunk(2) for x in (a, b))
    first = _Corners(low_a[..., None], high_a[..., None], 0)
    second = _Corners(low_b[..., None, :], high_b[..., None, :], 0)
    return _iou_giou(first, second)[1]
