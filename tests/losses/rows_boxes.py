"""Rows of the box losses. The references walk over the boxes in plain Python, as the papers write the formulas."""

import math
from collections.abc import Callable

import torch
from contracts import Row
from torch import Tensor

from dlrecipes.losses import CIoULoss, DIoULoss, GIoULoss, IoULoss

__all__ = ["ROWS"]

Box = tuple[float, float, float, float]


def _boxes(seed: int) -> Callable[[int], Tensor]:
    def make(n: int) -> Tensor:
        corner, size = torch.rand(2, n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return torch.cat((corner, corner + 0.2 + size), dim=1)

    return make


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def _iou(a: Box, b: Box) -> float:
    both = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return both / (_area(a) + _area(b) - both)


def _around(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _giou_loss(a: Box, b: Box) -> float:
    iou, c = _iou(a, b), _area(_around(a, b))
    union = (_area(a) + _area(b)) / (1 + iou)
    return 1 - iou + (c - union) / c


def _diou_loss(a: Box, b: Box) -> float:
    x1, y1, x2, y2 = _around(a, b)
    centre_a, centre_b = (((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (a, b))
    return 1 - _iou(a, b) + (math.dist(centre_a, centre_b) / math.dist((x1, y1), (x2, y2))) ** 2


def _ciou_loss(a: Box, b: Box) -> float:
    angle_a, angle_b = (math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b))
    v = 4 / math.pi**2 * (angle_b - angle_a) ** 2
    return _diou_loss(a, b) + v / (1 - _iou(a, b) + v) * v


def _reference(loss: Callable[[Box, Box], float]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: torch.tensor(
        [loss(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)], dtype=torch.float64
    )


def _row(make: type[torch.nn.Module], loss: Callable[[Box, Box], float], smooth: bool = True) -> Row:
    return Row(
        name=make.__name__,
        make=make,
        inputs=_boxes(1),
        targets=_boxes(2),
        reference=_reference(loss),
        gradcheck=smooth,
    )


ROWS = [
    _row(IoULoss, lambda a, b: 1 - _iou(a, b)),
    _row(GIoULoss, _giou_loss),
    _row(DIoULoss, _diou_loss),
    _row(CIoULoss, _ciou_loss, smooth=False),  # α is a constant to the gradient, so the gradient is no value's
]
