"""The learning rate of an optimizer that takes the place of a preset's: its own, since rates are an optimizer's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import Parameter
from typing import Any

from dlrecipes.cli.options.arguments import Arguments
from dlrecipes.cli.options.layers import layers
from dlrecipes.errors import UserError
from dlrecipes.optim import OPTIMIZERS, default_lr
from dlrecipes.parts import constructor_parameters, import_object

__all__ = ["settle_rate"]


def settle_rate(arguments: Arguments, task: str) -> tuple[Arguments, str]:
    """Leave out a preset's learning rate where a later config, or what was typed, takes another optimizer without one.

    A backbone keeps its share of the rate: that is what is being fine-tuned, whatever the optimizer. ``optimizer_args``
    belong to the optimizer, too.

    Args:
        arguments: options, read; those of a resumed run stay as they are.
        task: import path of the recipe's own task.

    Returns:
        Options with the optimizer's own rate, and a sentence that names it; ``""`` where nothing changes.
    """
    said = _by_config(arguments.argv)
    chosen = _merged(said).get("class_path")
    known = {} if arguments.resume is not None else _parameters(task if chosen is None else str(chosen))
    if not {"optimizer", "lr"} <= known.keys():
        return arguments, ""
    optimizer, first = known["optimizer"].default, 0
    for at, layer in enumerate(said):
        if _class_path(name := layer.get("optimizer", optimizer)) != _class_path(optimizer):
            old, optimizer, first = optimizer, name, at
    early, late = _merged(said[:first]), _merged(said[first:])
    if (lr := early.get("lr")) is None or "lr" in late:
        return arguments, ""
    rate = default_lr(str(optimizer))
    words, why = ["--model.lr", "null"], f"its usual {rate:g}: the preset's {lr} is for {old}, and --lr sets another"
    if early.get("backbone_lr") is not None and "backbone_lr" not in late:
        share = float(early["backbone_lr"]) / float(lr)
        words += ["--model.backbone_lr", f"{rate * share:g}"]
        why = f"its usual {rate:g}, and {share:g} of it for the backbone, as the preset has it for {old}"
    if early.get("optimizer_args") is not None and "optimizer_args" not in late:
        words += ["--model.optimizer_args", "null"]
        why += f"; optimizer_args of {old} are left out"
    return replace(arguments, argv=(*arguments.argv, *words)), f"The learning rate of {optimizer} is {why}."


def _parameters(task: str) -> Mapping[str, Parameter]:
    try:
        return constructor_parameters(import_object(task))
    except UserError:
        return {}  # the parser says what is wrong with it


def _class_path(optimizer: Any) -> Any:
    return OPTIMIZERS[optimizer].class_path if isinstance(optimizer, str) and optimizer in OPTIMIZERS else optimizer


def _by_config(argv: Sequence[str]) -> list[Mapping[str, Any]]:
    """What each config says of the task, and last what all typed options do: the order of these does not count."""
    read = layers(argv, "model")
    typed = _merged([layer.says for layer in read if not layer.is_config])
    return [*(layer.says for layer in read if layer.is_config), typed]


def _merged(said: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for layer in said for name, value in layer.items()}
