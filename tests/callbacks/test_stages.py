"""Conditions are pure functions of what a stage measured."""

from __future__ import annotations

from typing import Any

import pytest

from dlrecipes.callbacks.stages import AnyOf, Epochs, Plateau, Reached
from dlrecipes.errors import UserError


def first_met(condition: Any, rows: list[dict[str, float]], max_epochs: int | None = 10) -> int | None:
    """Epoch, from 1, after which the stage is over."""
    return next((n for n in range(1, len(rows) + 1) if condition.met(rows[:n], max_epochs)), None)


def losses(*values: float) -> list[dict[str, float]]:
    return [{"val/loss": value} for value in values]


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (3, 3), (0.2, 2), (0.01, 1), (0.75, 8), (11, None)])
def test_epochs(count: float, expected: int | None) -> None:
    assert first_met(Epochs(count), losses(*[1.0] * 10)) == expected


def test_a_share_needs_an_end() -> None:
    with pytest.raises(UserError, match=r"Epochs\(0.5\) is a share of the run: give max_epochs"):
        Epochs(0.5).met(losses(1.0), None)


def test_reached_goes_by_the_metrics_direction() -> None:
    assert first_met(Reached("val/loss", 0.5), losses(0.9, 0.6, 0.5, 0.4)) == 3
    rows = [{"val/f1": value} for value in (0.1, 0.5, 0.4)]
    assert first_met(Reached("val/f1", 0.45), rows) == 2
    assert first_met(Reached("val/f1", 0.2, "min"), rows) == 1
    assert first_met(Reached("val/f1", 0.2), [{"val/loss": 1.0}]) is None  # not measured


def test_plateau() -> None:
    assert first_met(Plateau(patience=2, least=0), losses(1, 0.5, 0.6, 0.5, 0.1)) == 4
    assert first_met(Plateau(patience=2, least=0.1), losses(1, 0.95, 0.91, 0.8)) == 3
    assert first_met(Plateau(patience=2), losses(1, 0.9, 0.8, 0.7)) is None
    assert first_met(Plateau("val/f1", 1, 0), [{"val/f1": 0.5}, {"val/f1": 0.75}, {"val/f1": 0.75}]) == 3
    sparse = [{"val/loss": 1.0}, {}, {}, {}, {"val/loss": 1.0}, {}]
    assert first_met(Plateau(patience=1), sparse) == 5  # epochs that are not validated do not count
    assert first_met(Plateau(patience=2), losses(-1, -2, -2, -2.01)) == 4  # a loss below zero


def test_any_of() -> None:
    condition = AnyOf([Epochs(4), Reached("train/loss", 0.5)])
    assert condition.metrics == ("train/loss",)
    assert first_met(condition, [{"train/loss": value} for value in (1, 0.4)]) == 2
    assert first_met(condition, [{"train/loss": 1.0}] * 5) == 4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Epochs(0), "count=0"), (lambda: Epochs(1.5), "count=1.5"), (lambda: Plateau(patience=0), "patience"),
        (lambda: Plateau(least=-1), "least"), (lambda: AnyOf([]), "conditions"),
        (lambda: Reached("val/x", 1), "'val/x' does not tell"), (lambda: Plateau("val/x"), "does not tell"),
    ],
)  # fmt: skip
def test_arguments_are_checked(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
