"""Rows of the losses of a student that learns from a teacher. References are SciPy, as papers write the formulas."""

from functools import partial

import numpy as np
import torch
from contracts import Row
from scipy.special import rel_entr, softmax
from torch import Tensor

from dlrecipes.losses import HeadToTailDistillLoss

__all__ = ["ROWS"]

CLASSES = 4
COUNTS = [700.0, 200.0, 90.0, 10.0]


def _student(n: int) -> Tensor:
    return 2 * torch.randn(n, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _teacher(n: int) -> Tensor:
    return 3 * torch.randn(n, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def _balanced(x: Tensor, target: Tensor) -> Tensor:
    """Bayes' rule for other frequencies on the teacher's probabilities, then Hinton's temperature."""
    p = softmax(target.numpy(), 1) / np.array(COUNTS) ** 0.7
    p = (p / p.sum(1, keepdims=True)) ** (1 / 2.5)
    return torch.from_numpy(2.5**2 * rel_entr(p / p.sum(1, keepdims=True), softmax(x.numpy() / 2.5, 1)).sum(1))


def _dive(x: Tensor, target: Tensor) -> Tensor:
    """DiVE: the square root of the softened probabilities, normalised."""
    p = np.sqrt(softmax(target.numpy() / 3, 1))
    return torch.from_numpy(3**2 * rel_entr(p / p.sum(1, keepdims=True), softmax(x.numpy() / 3, 1)).sum(1))


ROWS = [
    Row(
        name="HeadToTailDistillLoss",
        make=partial(HeadToTailDistillLoss, 2.5, tau=0.7, prior=COUNTS),
        inputs=_student,
        targets=_teacher,
        reference=_balanced,
    ),
    Row(
        name="HeadToTailDistillLoss-dive",
        make=partial(HeadToTailDistillLoss, 3.0, tau=0.0, power=0.5),
        inputs=_student,
        targets=_teacher,
        reference=_dive,
    ),
]
