"""Learning-rate schedules: the factor on the base rate as a function of the share of training done, 0 to 1.

A schedule of your own is any such function, named by its import path: ``--model.schedule my_project.my_schedule``.
Arguments after the first are the task's ``schedule_args``.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from dlrecipes.errors import UserError
from dlrecipes.parts import import_object

__all__ = [
    "constant",
    "cosine",
    "flat_cosine",
    "linear",
    "one_cycle",
    "piecewise",
    "schedule_factor",
    "step",
    "step_at_two_thirds",
    "warm_up",
    "warmup_length",
]


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


def linear(progress: float) -> float:
    """A straight line from 1 to 0."""
    return 1.0 - min(progress, 1.0)


def one_cycle(progress: float, peak: float = 0.3, start: float = 0.04) -> float:
    """Half a cosine up from ``start`` to 1 at ``peak``, and half a cosine down to 0 (Smith and Topin, 2018,
    arXiv:1708.07120); needs no warm-up.

    Raises:
        ValueError: ``peak`` not between 0 and 1.

    Example:
        >>> [round(one_cycle(p), 3) for p in (0, 0.3, 0.65, 1)]
        [0.04, 1.0, 0.5, 0.0]
    """
    if not 0 < peak < 1:
        raise ValueError(f"peak={peak}: must be between 0 and 1")
    if progress >= peak:
        return cosine((progress - peak) / (1 - peak))
    return 1.0 - (1.0 - start) * cosine(progress / peak)


def piecewise(progress: float, starts: Sequence[float] = (0.0,), factors: Sequence[float] = (1.0,)) -> float:
    """Steps at any share of training, each with a factor of its own: recipes that are given as a table of epochs.

    Args:
        progress: share of training done.
        starts: share of training at which each step begins; ascending, the first 0.
        factors: of each.

    Raises:
        ValueError: starts that do not ascend from 0, or another number of factors.

    Example:
        >>> epochs = [piecewise(e / 10, starts=(0, 0.1, 0.8), factors=(0.5, 1.0, 0.01)) for e in range(10)]
        >>> epochs
        [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.01, 0.01]
    """
    if not starts or starts[0] != 0 or any(later <= earlier for earlier, later in pairwise(starts)):
        raise ValueError(f"starts={list(starts)}: numbers that ascend from 0 are needed")
    if len(factors) != len(starts):
        raise ValueError(f"factors={list(factors)}: as many as starts={list(starts)} are needed")
    return float(factors[bisect_right(starts, progress) - 1])


def step(progress: float, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1) -> float:
    """1, multiplied by ``gamma`` at each milestone: the residual networks' drops at half and three quarters.

    Args:
        progress: share of training done.
        milestones: shares of training.
        gamma: factor of each.

    Example:
        >>> [round(step(p), 3) for p in (0, 0.5, 0.9)], round(step(0.95, milestones=(0.3, 0.6, 0.9), gamma=0.5), 3)
        ([1.0, 0.1, 0.01], 0.125)
    """
    return float(gamma ** sum(progress >= milestone for milestone in milestones))


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


def warmup_length(warmup_steps: int, total_steps: float) -> int:
    """The steps of warm-up that a run has: a short one would otherwise end before its rate has been reached.

    Example:
        >>> warmup_length(200, 10_000), warmup_length(200, 120)
        (200, 40)
    """
    return int(min(warmup_steps, total_steps // 3))


def schedule_factor(
    schedule: str,
    args: Mapping[str, Any] | None = None,
    *,
    min_factor: float = 0.0,
    warmup_steps: int = 0,
    total_steps: Callable[[], float],
    position: Callable[[int], int] | None = None,
) -> Callable[[int], float]:
    """Factor on the base rate as a function of the step, for ``LambdaLR``.

    Args:
        schedule: name of a schedule in this module, or import path of one.
        args: further arguments of it.
        min_factor: m, which the schedule s ends with instead of 0: m + (1 − m) · s.
        warmup_steps: of linear warm-up, at most a third of all steps; the schedule begins after them.
        total_steps: asked after the first step, never before it: Lightning would make the training loader when the
            optimizer is made, and then not give it the position of a checkpoint that is restored later, so that a
            resumed epoch would begin anew.
        position: from the scheduler's count of steps to the place among all steps, asked like them; None: the same.

    Raises:
        UserError: a schedule that cannot be imported, or does not take its arguments.

    Example:
        >>> factor = schedule_factor("linear", min_factor=0.5, warmup_steps=2, total_steps=lambda: 6)
        >>> [factor(step) for step in (0, 1, 2, 4, 6)]
        [0.5, 1.0, 1.0, 0.75, 0.5]
    """
    shape = import_object(schedule if "." in schedule else f"dlrecipes.optim.{schedule}")
    given = dict(args or {})
    try:
        shape(0.0, **given)
    except (TypeError, ValueError) as error:
        raise UserError(f"schedule={schedule} with schedule_args={given}: {error}.") from error

    def factor(step: int) -> float:
        total = max(1, int(min(total_steps(), 2**62))) if step else 1  # a run without an end has infinitely many
        step = step if position is None or not step else position(step)
        warm = warmup_length(warmup_steps, total) if step else warmup_steps
        done = (step - warm) / max(1, total - warm) if step else 0.0
        height = float(shape(min(1.0, max(0.0, done)), **given))
        return warm_up(step, warm) * (min_factor + (1.0 - min_factor) * height)

    return factor
