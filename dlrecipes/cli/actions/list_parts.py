"""``dlrecipes list``: what can be plugged in, found in the rooms themselves, so that the list cannot be out of date."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.util import find_spec

from rich.console import Console

from dlrecipes.cli.options.arguments import suggest
from dlrecipes.errors import UserError

__all__ = ["ROOMS", "list_parts", "parts_of"]

ROOMS = {
    "tasks": "--model",
    "data": "--data.class_path",
    "models": "--model.model",
    "losses": "--loss, --model.loss",
    "imbalance": "re-sampling, synthetic samples, decoupling",
    "callbacks": "trainer: callbacks: in a config file",
    "optim": "--model.optimizer, --model.schedule",
    "nn": "blocks, init, receptive field",
    "ops": "operators with hand-written gradients",
    "shift": "tests, scores and correction of covariate shift",
}
"""Room -> the option that takes its parts, or what they are for."""


def list_parts(room: str | None = None, console: Console | None = None) -> None:
    """Print the public classes and functions of a room, or of all, each with its first sentence.

    Args:
        room: a name of ``ROOMS``; None: all.
        console: where to print; standard output unless given.

    Raises:
        UserError: no such room.
    """
    if room is not None and room not in ROOMS:
        raise UserError(f"dlrecipes has no room {room!r}, but {', '.join(ROOMS)}.{suggest(room, ROOMS)}")
    console = console or Console(highlight=False, soft_wrap=True)
    for name in ROOMS if room is None else (room,):
        if find_spec(f"dlrecipes.{name}") is None:
            continue
        console.print(f"dlrecipes.{name}  ({ROOMS[name]})", style="bold", markup=False)
        found = parts_of(name)
        width = max(len(part) for part, _ in found)
        for part, sentence in found:
            console.print(f"  {part.ljust(width)}  {sentence}", markup=False)


def parts_of(room: str) -> list[tuple[str, str]]:
    """Names and first sentences of a room's public classes and functions, in the room's own order.

    Args:
        room: a name of ``ROOMS``.

    Example:
        >>> dict(parts_of("losses"))["FocalLoss"].startswith("Focal loss")
        True
    """
    module = import_module(f"dlrecipes.{room}")
    parts = ((name, getattr(module, name)) for name in module.__all__)
    return [(name, _first_sentence(part)) for name, part in parts if inspect.isclass(part) or inspect.isroutine(part)]


def _first_sentence(part: object) -> str:
    text = " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".:")
