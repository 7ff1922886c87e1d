"""Options that add a callback, as ``--early-stop 10``; in a preset it is ``early_stop: 10``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["SWITCHES", "Switch", "switched_callbacks"]


@dataclass(frozen=True, kw_only=True)
class Switch:
    """One option, one callback, one argument of it.

    Attributes:
        callback: its import path.
        argument: of the callback that takes the option's value; "" for a callback that takes none and a bool option.
        type: of the value, as jsonargparse understands it.
        help: one line for ``-h``.
        value: what the value is called there.
        default: where nothing is typed; None or False: no callback.
        averse: switched off by these other options, which it would get in the way of.
    """

    callback: str
    argument: str = ""
    type: Any = bool | None
    help: str
    value: str = "true"
    default: Any = None
    averse: tuple[str, ...] = ()


SWITCHES: Mapping[str, Switch] = {
    "early_stop": Switch(
        callback="dlrecipes.callbacks.LossEarlyStopping",
        argument="patience",
        type=int | None,
        help="stop when the validation loss has not fallen for N validations, and say why",
        value="N",
    ),
    "doctor": Switch(
        callback="dlrecipes.callbacks.FitDoctor",
        help="false: do not say what is wrong with the fit (over-fitting, learning rate ...)",
        value="false",
        default=True,
    ),
    "sanity": Switch(
        callback="dlrecipes.callbacks.SanityChecks",
        help="true: questions before the first step: loss at init, do inputs matter, one batch by heart ...",
    ),
    "activations": Switch(
        callback="dlrecipes.callbacks.ActivationMonitor",
        help="true: watch for dead, saturated and exploding units",
    ),
    "staged": Switch(
        callback="dlrecipes.callbacks.StagedRecipe",
        help="true: learn first, then add batch norm and augmentation, then adjust; the gain of each stage is told",
    ),
    "shift": Switch(
        callback="dlrecipes.callbacks.CovariateShiftMonitor",
        argument="on_shift",
        type=Literal["warn", "stop", "adapt"] | None,
        help="warn, stop or adapt where training, test or new data are not of the validation data's kind",
        value="warn|stop|adapt",
    ),
}
"""Those of every recipe."""


def switched_callbacks(switches: Mapping[str, Switch], config: Mapping[str, Any]) -> list[Any]:
    """The callbacks that the options ask for, in the switches' order.

    Args:
        switches: option -> what it adds.
        config: parsed options.

    Raises:
        ValueError: a value that the callback refuses.

    Example:
        >>> stop = Switch(callback="dlrecipes.callbacks.TimeBudget", argument="minutes", type=float | None, help="")
        >>> [callback.minutes for callback in switched_callbacks({"minutes": stop}, {"minutes": 2.0})]
        [2.0]
        >>> switched_callbacks({"minutes": stop}, {"minutes": None})
        []
    """
    from dlrecipes.parts import import_object

    made = []
    for name, switch in switches.items():
        value = config[name]
        if value is None or value is False or any(config[other] is not None for other in switch.averse):
            continue
        callback = import_object(switch.callback)
        made.append(callback(**{switch.argument: value}) if switch.argument else callback())
    return made
