"""Learning-rate schedules: the factor on the base rate as a function of the share of training done, 0 to 1.

A schedule of your own is any such function, named by its import path: ``--model.schedule my_project.my_schedule``.
"""

from __future__ import annotations

import math

__all__ = ["constant", "cosine", "flat_cosine", "step_at_two_thirds", "warm_up"]


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter, 2017, arXiv:1608.03983, without restarts).

    Example:
        >>> [round(cosine(p), 3) for p in (0, 0.5, 1)]
        [1.0, 0.5, 0.0]
    """
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def flat_cosine(progress: float) -> float:
    """1 for the first half, then half a cosine to 0."""
    return cosine(max(0.0, 2.0 * progress - 1.0))


def step_at_two_thirds(progress: float) -> float:
    """1, then .1 after two thirds: DETR's drop at epoch 200 of 300."""
    return 1.0 if progress < 2 / 3 else 0.1


def warm_up(step: int, warmup_steps: int) -> float:
    """Linear from ``1 / warmup_steps`` at step 0 to 1.

    Example:
        >>> [warm_up(s, 4) for s in (0, 1, 3, 9)]
        [0.25, 0.5, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
