"""Stages of a training: what each is called, when it is over, and what changes when it begins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dlrecipes.errors import UserError
from dlrecipes.functional.metric_mode import metric_mode

if TYPE_CHECKING:
    from dlrecipes.callbacks.stage_actions import StageAction

__all__ = ["AnyOf", "Condition", "Epochs", "Plateau", "Reached", "Stage"]

Rows = Sequence[Mapping[str, float]]


class Condition:
    """When a stage is over. Asked after each epoch; a pure function of what the stage's epochs measured."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names that must be logged."""
        return ()

    def met(self, rows: Rows, max_epochs: int | None) -> str:
        """Why the stage is over; "" while it is not.

        Args:
            rows: of the stage's epochs so far, metric -> value; what an epoch did not measure is not in it.
            max_epochs: of the run; None: unknown.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Epochs(Condition):
    """After so many epochs, or a share of the run's.

    Args:
        count: epochs, 1 or more, or a part of ``max_epochs``, above 0 and below 1, rounded, at least one epoch.

    Raises:
        ValueError: another number.

    Example:
        >>> Epochs(0.25).met([{}, {}], max_epochs=8), Epochs(3).met([{}, {}], max_epochs=8)
        ('2 epochs are over', '')
    """

    count: float

    def __post_init__(self) -> None:
        if not (0 < self.count < 1 or (self.count >= 1 and float(self.count).is_integer())):
            raise ValueError(f"count={self.count}: whole epochs, or a share of the run between 0 and 1")

    def met(self, rows: Rows, max_epochs: int | None) -> str:
        if self.count < 1 and max_epochs is None:
            raise UserError(f"Epochs({self.count}) is a share of the run: give max_epochs, or count epochs.")
        wanted = self.count if self.count >= 1 else max(1, round(self.count * (max_epochs or 0)))
        return f"{len(rows)} epoch{'s are' if len(rows) > 1 else ' is'} over" if len(rows) >= wanted else ""


@dataclass(frozen=True)
class Reached(Condition):
    """As soon as a metric is as good as a value.

    Args:
        metric: as it is logged.
        value: to reach.
        mode: ``"max"`` or ``"min"``: which side is good; None: by the metric's name.

    Raises:
        UserError: a name that does not tell which side is good.

    Example:
        >>> Reached("train/loss", 0.5).met([{"train/loss": 0.4}], None)
        'train/loss reached 0.5 with 0.4'
    """

    metric: str
    value: float
    mode: str | None = None

    def __post_init__(self) -> None:
        _sign(self.metric, self.mode)

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)

    def met(self, rows: Rows, max_epochs: int | None) -> str:
        sign = _sign(self.metric, self.mode)
        known = [row[self.metric] for row in rows if self.metric in row]
        good = bool(known) and sign * known[-1] >= sign * self.value
        return f"{self.metric} reached {self.value:g} with {known[-1]:.4g}" if good else ""


@dataclass(frozen=True)
class Plateau(Condition):
    """When the best value of a metric in this stage is so many measurements old.

    Args:
        metric: as it is logged.
        patience: measurements without improvement, 1 or more.
        least: what counts as an improvement, as a share of the best value.
        mode: as in `Reached`.

    Raises:
        UserError: a name that does not tell which side is good.
        ValueError: a number outside its range.

    Example:
        >>> losses = [{"val/loss": value} for value in (1.0, 0.5, 0.499, 0.6)]
        >>> Plateau(patience=2, least=0.01).met(losses, None)
        'val/loss has stood still for 2 measurements'
    """

    metric: str = "val/loss"
    patience: int = 3
    least: float = 0.01
    mode: str | None = None

    def __post_init__(self) -> None:
        _sign(self.metric, self.mode)
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}")
        if self.least < 0:
            raise ValueError(f"least must not be negative, got {self.least}")

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)

    def met(self, rows: Rows, max_epochs: int | None) -> str:
        sign = _sign(self.metric, self.mode)
        best, waited = -math.inf, 0
        for value in (sign * row[self.metric] for row in rows if self.metric in row):
            better = value > best + (self.least * abs(best) if math.isfinite(best) else 0.0)
            best, waited = (value, 0) if better else (best, waited + 1)
        return f"{self.metric} has stood still for {waited} measurements" if waited >= self.patience else ""


class AnyOf(Condition):
    """As soon as one of several conditions is met.

    Args:
        conditions: at least one.

    Raises:
        ValueError: none is given.

    Example:
        >>> AnyOf([Epochs(9), Reached("val/f1", 0.9)]).met([{"val/f1": 0.95}], None)
        'val/f1 reached 0.9 with 0.95'
    """

    def __init__(self, conditions: Sequence[Condition]) -> None:
        if not conditions:
            raise ValueError("conditions must not be empty")
        self.conditions = list(conditions)

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(name for condition in self.conditions for name in condition.metrics)

    def met(self, rows: Rows, max_epochs: int | None) -> str:
        return next((why for condition in self.conditions if (why := condition.met(rows, max_epochs))), "")


@dataclass
class Stage:
    """One stage.

    Args:
        name: for the messages and the table.
        until: when it is over; None: with the run. The last stage's ends the run.
        actions: what changes when it begins, in this order.
    """

    name: str
    until: Condition | None = None
    actions: list[StageAction] = field(default_factory=list)


def _sign(metric: str, mode: str | None) -> int:
    found = mode or metric_mode(metric)
    if found not in ("min", "max"):
        raise UserError(f"{metric!r} does not tell whether more or less of it is better: give mode='min' or 'max'.")
    return 1 if found == "max" else -1
