"""Schedules as tables of epochs."""

import pytest

from dlrecipes.errors import UserError
from dlrecipes.optim import piecewise, schedule_factor, step

LDAM = {"starts": (0, 1 / 200, 2 / 200, 3 / 200, 4 / 200, 160 / 200, 180 / 200)}
LDAM["factors"] = (0.2, 0.4, 0.6, 0.8, 1.0, 0.01, 0.0001)


def ldam_factor(epoch: int) -> float:
    """The published rule, by epochs counted from 1."""
    if epoch <= 5:
        return epoch / 5
    return 0.0001 if epoch > 180 else 0.01 if epoch > 160 else 1.0


@pytest.mark.parametrize("steps_an_epoch", [1, 96, 97])
def test_a_table_of_epochs_changes_at_their_first_steps(steps_an_epoch: int) -> None:
    total = 200 * steps_an_epoch
    factor = schedule_factor("piecewise", LDAM, total_steps=lambda: total)
    for epoch in range(1, 201):
        first = (epoch - 1) * steps_an_epoch
        assert factor(first) == factor(first + steps_an_epoch - 1) == pytest.approx(ldam_factor(epoch))


def test_equal_drops_are_those_of_step() -> None:
    for place in range(101):
        table = piecewise(place / 100, starts=(0, 0.5, 0.75), factors=(1.0, 0.1, 0.01))
        assert table == pytest.approx(step(place / 100))


@pytest.mark.parametrize(
    "arguments",
    [
        {"starts": (), "factors": ()},
        {"starts": (0.1, 0.5), "factors": (1.0, 0.1)},
        {"starts": (0, 0.5, 0.5), "factors": (1.0, 0.1, 0.01)},
        {"starts": (0, 0.5), "factors": (1.0,)},
    ],
)
def test_tables_that_are_none_are_refused_before_training(arguments: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(UserError, match=r"piecewise.*needed"):
        schedule_factor("piecewise", arguments, total_steps=lambda: 10)
