"""A run's curves as one record, and what can be measured on them without knowing the task."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dlrecipes.errors import UserError
from dlrecipes.functional.metric_mode import metric_mode

__all__ = [
    "Curves",
    "accuracy_gap",
    "fall_share",
    "jitter",
    "measured",
    "score_size",
    "score_text",
    "slashed",
    "smooth",
    "training_share",
]

Series = NDArray[np.float64]
T = TypeVar("T")

_TRAIN_LOSS = ("train/loss_epoch", "train/loss")
_STEP_LOSS = "train/loss_step"
_MONITORS = ("val/map", "val/f1", "val/accuracy", "val/r2", "val/mae")
_SPELLED = re.compile(r"(train(?:ing)?|val(?:id(?:ation)?)?|test)[_/](.+)")  # Lightning's tutorials log val_loss
_NO_ROBUST_SPREAD = 5  # values; of fewer the median says nothing about their spread


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One value an epoch; NaN where an epoch was not validated or a metric was not measured.

    Attributes:
        train_loss: mean of the epoch's steps, as the optimizer saw it: under augmentation, mixing and dropout.
        val_loss: of the validation split.
        score: the metric that the run is judged by, turned so that more is better; all NaN without one.
        score_name: as it is logged; "" without one.
        bounded: whether the score ends at 1, as accuracy, F1, mAP and R² do; errors have units of their own.
        accuracy: of the validation split, where it was measured.
        train_accuracy: of the epoch's steps, where each training image has its one label, unmixed.
        ece: expected calibration error of the validation split.
        nll: negative log-likelihood of the validation split.
        lr: largest learning rate of all parameter groups at the epoch's end.
        start: training loss of the first step; where that was not logged, the larger one of the first step that was and
            of the first epoch's mean: by then a training may have learnt most of what it learns.
    """

    train_loss: Series
    val_loss: Series
    score: Series
    score_name: str
    bounded: bool
    accuracy: Series
    train_accuracy: Series
    ece: Series
    nll: Series
    lr: Series
    start: float

    def __len__(self) -> int:
        return len(self.train_loss)

    @classmethod
    def from_rows(
        cls, rows: Iterable[Mapping[str, float]], monitor: str | None = None, mode: str | None = None
    ) -> Self:
        """From rows as a ``metrics.csv`` has them: ``epoch``, and whatever was measured, by the names of `slashed`.

        Rows of one epoch are put together; those of the test split do not count. Only a ``train/loss_step`` of ``step``
        0 is that of the first step: a logger that writes every tenth step begins with step 9.

        Args:
            rows: in the order in which they were logged.
            monitor: metric that the run is judged by; None: the first of ``val/map``, ``val/f1``, ``val/accuracy``,
                ``val/r2`` and ``val/mae`` that was measured.
            mode: ``"max"`` or ``"min"``: which value of it is best; None: by its name.

        Raises:
            UserError: no ``mode``, and a name that tells none.

        Example:
            >>> curves = Curves.from_rows([{"epoch": 0, "train/loss": 2.0, "val/mae": 3.0}, {"epoch": 1, "train/loss": 1.0}])
            >>> curves.train_loss.tolist(), curves.score_name, curves.score.tolist(), curves.start
            ([2.0, 1.0], 'val/mae', [-3.0, nan], 2.0)
        """  # noqa: E501 - rows of the example
        table: dict[int, dict[str, float]] = {}
        first_logged = math.nan, math.nan
        for row in map(slashed, rows):
            if "epoch" not in row or any(name.startswith("test/") for name in row):
                continue
            if math.isnan(first_logged[1]):
                first_logged = row.get("step", math.nan), row.get(_STEP_LOSS, math.nan)
            rates = [value for name, value in row.items() if name == "lr" or name.startswith(("lr-", "lr/"))]
            table.setdefault(int(row["epoch"]), {}).update({**row, **({"lr": max(rates)} if rates else {})})
        epochs = [table[number] for number in sorted(table) if any(name in table[number] for name in _TRAIN_LOSS)]

        def series(*names: str) -> Series:
            found = (next((epoch[name] for name in names if name in epoch), math.nan) for epoch in epochs)
            return np.fromiter(found, dtype=np.float64, count=len(epochs))

        if monitor is None:
            monitor = next((name for name in _MONITORS if any(name in epoch for epoch in epochs)), "")
        monitor = _slashed_name(monitor)
        direction = mode or metric_mode(monitor or "score")
        if direction is None:
            raise UserError(
                f"{monitor!r} does not tell whether more or less of it is better: give the mode, --mode max or --mode "
                "min."
            )
        judged = monitor not in ("", "val/loss")
        score = series(monitor) if judged else series("")
        train_loss = series(*_TRAIN_LOSS)
        return cls(
            train_loss=train_loss,
            val_loss=series("val/loss"),
            score=score if direction == "max" else -score,
            score_name=monitor if judged else "",
            bounded=direction == "max",
            accuracy=series("val/accuracy"),
            train_accuracy=series("train/accuracy"),
            ece=series("val/ece"),
            nll=series("val/nll"),
            lr=series("lr"),
            start=_start(*first_logged, train_loss),
        )


def slashed(row: Mapping[str, T]) -> dict[str, T]:
    """A row with metrics named as this project names them; one that has such a name already keeps its value.

    Example:
        >>> slashed({"epoch": 0, "train_loss_epoch": 2.0, "val_acc": 0.5, "validation_loss_epoch": 3.0})
        {'epoch': 0, 'train/loss_epoch': 2.0, 'val/accuracy': 0.5, 'val/loss': 3.0}
    """
    renamed = {_slashed_name(name): value for name, value in row.items()}
    return renamed | {name: value for name, value in row.items() if name in renamed}


@cache
def _slashed_name(name: str) -> str:
    if (found := _SPELLED.fullmatch(name)) is None:
        return name
    split, measure = found.groups()
    split = "val" if split.startswith("val") else split.removesuffix("ing")
    if split == "val":  # logged in each step, too
        measure = measure.removesuffix("_epoch")
    return f"{split}/{'accuracy' if measure == 'acc' else measure}"


def _start(step: float, loss: float, train_loss: Series) -> float:
    """Loss of the first step, or the best guess at it."""
    if step == 0 and math.isfinite(loss):
        return loss
    known = [value for value in (loss, *train_loss[:1].tolist()) if math.isfinite(value)]
    return max(known, default=math.nan)


def measured(series: Series) -> tuple[NDArray[np.int64], Series]:
    """Epochs (from 0) with a finite value, and the values.

    Example:
        >>> [part.tolist() for part in measured(np.array([1.0, np.nan, 3.0]))]
        [[0, 2], [1.0, 3.0]]
    """
    (where,) = np.nonzero(np.isfinite(series))
    return where, series[where]


def smooth(values: Series) -> Series:
    """Median of each value and its two neighbours; at the ends of two, that is their mean. A single outlier is gone.

    Example:
        >>> smooth(np.array([1.0, 9.0, 3.0, 4.0])).tolist()
        [5.0, 3.0, 4.0, 3.5]
    """
    if len(values) < 3:
        return values.copy()
    inner = np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)
    return np.concatenate([[values[:2].mean()], inner, [values[-2:].mean()]])


def jitter(values: Series) -> float:
    r"""Standard deviation of the values around their trend, for independent normal noise.

    .. math:: r_i = x_i - \frac{x_{i-1} + x_{i+1}}{2}, \qquad
        \sigma = \frac{1.4826 \operatorname{median}|r_i|}{\sqrt{3/2}}

    A straight line has none; the median keeps a single step of the curve from counting. Of fewer than five values, the
    root mean square takes the median's place; of fewer than three it is 0.

    Args:
        values: finite.

    Example:
        >>> jitter(np.arange(10.0)), round(jitter(np.array([0.0, 1.0] * 10)), 3)
        (0.0, 1.211)
    """
    if len(values) < 3:
        return 0.0
    residuals = values[1:-1] - (values[:-2] + values[2:]) / 2
    spread = np.sqrt(np.mean(residuals**2)) if len(values) < _NO_ROBUST_SPREAD else 1.4826 * np.median(abs(residuals))
    return float(spread / math.sqrt(1.5))


def training_share(lr: Sequence[float] | Series, epochs: int) -> Series:
    """How much of the training was done by the end of each epoch, 0..1: the sum of the learning rates up to there.

    A schedule that goes to 0 does little in its last epochs: a curve that is flat there need not be done. Without
    learning rates, each epoch counts the same.

    Args:
        lr: of each epoch.
        epochs: how many there are.

    Example:
        >>> training_share([3.0, 1.0], 2).tolist(), training_share([], 2).tolist()
        ([0.75, 1.0], [0.5, 1.0])
    """
    rates = np.asarray(lr, dtype=np.float64)
    if len(rates) != epochs or not np.isfinite(rates).all() or rates.sum() <= 0:
        rates = np.ones(epochs)
    return np.asarray(np.cumsum(rates) / rates.sum())


def fall_share(values: Series, done: Series, start: float) -> float:
    """Part of the whole fall of a curve that came in the last third of the training: 1/3 for a straight line, about 0
    for a curve that has arrived; NaN where nothing fell.

    Args:
        values: smoothed, finite.
        done: of `training_share`, of the same length.
        start: value before the first epoch.

    Example:
        >>> line = np.linspace(9, 0, 10)
        >>> round(fall_share(line, training_share([], 10), 10.0), 2)
        0.3
    """
    fall = start - values[-1]
    if not fall > 0:
        return math.nan
    return float((values[min(int(np.searchsorted(done, 2 / 3)), len(values) - 1)] - values[-1]) / fall)


def accuracy_gap(curves: Curves) -> float | None:
    """How far the training accuracy is ahead; None where one of the two was not measured."""
    validated, trained = measured(curves.accuracy)[1], curves.train_accuracy
    if not len(validated) or not len(trained) or not np.isfinite(trained).all():
        return None
    return float(smooth(trained)[-1] - smooth(validated)[-1])


def score_size(scores: Series) -> float:
    """What changes of an unbounded score are measured by: its median's absolute value."""
    return max(abs(float(np.median(scores))), 1e-12) if len(scores) else 1.0


def score_text(curves: Curves, score: float) -> str:
    """A score as the run logs it."""
    return f"{score if curves.bounded else -score:.3g}"
