"""What a class leaves behind where another takes its place: its defaults, which are not the other's."""

from __future__ import annotations

import inspect
import json
import math
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from dlrecipes.cli.options.layers import layers, opened
from dlrecipes.errors import UserError
from dlrecipes.parts import constructor_parameters, import_object

__all__ = ["without_leftovers"]


def without_leftovers(parser: LightningArgumentParser, argv: Sequence[str], parts: Iterable[str]) -> list[str]:
    """The options, and where one exchanges the class of a part, further ones that set the new class's defaults.

    jsonargparse keeps the arguments that both classes take, whoever set them: ``--model.loss ClassBalancedLoss`` behind
    a cross entropy would keep its ``class_weights: null``, and be a cross entropy. What was set to something else than
    the old class's default is kept, such as a preset's ``label_smoothing``.

    Args:
        parser: of the options.
        argv: options, configs first.
        parts: arguments of the task that stand for classes.
    """
    found = list(argv)
    for part in parts:
        done: list[str] = []
        for layer in layers(found, "model"):
            before = list(done)
            done += layer.words
            said = opened(layer.says.get(part))
            if isinstance(new := said.get("class_path"), str):
                resets = _resets(parser, before, done, part, new)
                resets = {name: value for name, value in resets.items() if name not in said}
                # in one word: a null behind --model.loss.class_weights would arrive as the string "None"
                word = json.dumps({"class_path": new, "init_args": resets})
                done += [f"--model.{part}", word] if resets else []
        found = done
    return found


def _resets(
    parser: LightningArgumentParser, before: Sequence[str], after: Sequence[str], part: str, new: str
) -> dict[str, Any]:
    """Arguments that the class before had by default, and the new class has by another one."""
    old = _spec(parser, before, part)
    spec = {"class_path": new} if "." in new else _spec(parser, after, part)  # a bare name is the parser's to find
    try:
        first, second = (import_object(str(each.get("class_path"))) for each in (old, spec))
    except UserError:
        return {}
    if first is second or not (isinstance(first, type) and isinstance(second, type)):
        return {}
    defaults, others = (
        {name: parameter.default for name, parameter in constructor_parameters(cls).items()} for cls in (first, second)
    )
    return {
        name: value
        for name, value in others.items()
        if name in defaults and _is_plain(value) and value != defaults[name] == old.get("init_args", {}).get(name)
    }


def _is_plain(value: object) -> bool:
    """Whether a command line can say it, and it is not the mark of an argument without a default."""
    if value is inspect.Parameter.empty:
        return False
    return value is None or isinstance(value, bool | str) or (isinstance(value, int | float) and math.isfinite(value))


def _spec(parser: LightningArgumentParser, argv: Sequence[str], part: str) -> Mapping[str, Any]:
    """Class and arguments of a part by the options so far; empty where these are not yet enough."""
    words = [word for word in argv if not word.startswith("--print_config")]
    try:
        value = parser.parse_args(words).as_dict()["model"]["init_args"].get(part)
    except (ArgumentError, KeyError, TypeError):
        return {}
    return value if isinstance(value, Mapping) else {}
