import pytest

from dlrecipes.cli.options.switches import SWITCHES, Switch, switched_callbacks
from dlrecipes.parts import constructor_parameters, import_object

BUDGET = Switch(
    callback="dlrecipes.callbacks.TimeBudget", argument="minutes", type=float | None, help="", averse=("x",)
)
AWARE = Switch(callback="dlrecipes.callbacks.ConstantPredictions", help="")


def test_a_value_makes_the_callback_and_none_or_false_does_not() -> None:
    made = switched_callbacks({"minutes": BUDGET, "aware": AWARE}, {"minutes": 3.0, "aware": True, "x": None})
    assert [type(callback).__name__ for callback in made] == ["TimeBudget", "ConstantPredictions"]
    assert switched_callbacks({"minutes": BUDGET, "aware": AWARE}, {"minutes": None, "aware": False, "x": None}) == []


def test_it_gives_way_to_options_that_it_would_disturb() -> None:
    assert switched_callbacks({"minutes": BUDGET}, {"minutes": 3.0, "x": 1}) == []


def test_a_value_that_the_callback_refuses_is_named() -> None:
    with pytest.raises(ValueError, match="-1"):
        switched_callbacks({"minutes": BUDGET}, {"minutes": -1.0, "x": None})


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_names_an_argument_that_its_callback_has(name: str) -> None:
    switch = SWITCHES[name]
    parameters = constructor_parameters(import_object(switch.callback))
    required = {n for n, p in parameters.items() if p.default is p.empty}
    assert required <= ({switch.argument} if switch.argument else set())
    assert not switch.argument or switch.argument in parameters
