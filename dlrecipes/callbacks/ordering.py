"""Where a callback stands in the trainer's list, when that decides whether it is right."""

from __future__ import annotations

import lightning.pytorch as pl

__all__ = ["list_callbacks", "move_to_end", "move_to_front"]

# Both give the trainer a new list, since they are called from hooks, while Lightning walks through the old one.


def move_to_front(trainer: pl.Trainer, callback: pl.Callback) -> None:
    """Let ``callback`` run before all others from the next hook on."""
    _set_callbacks(trainer, [callback, *_others(trainer, callback)])


def move_to_end(trainer: pl.Trainer, callback: pl.Callback) -> None:
    """Let ``callback`` run after all others, checkpoints included, from the next hook on."""
    _set_callbacks(trainer, [*_others(trainer, callback), callback])


def list_callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    """All callbacks of the trainer, in the order in which they run."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]  # public, but Lightning sets it without declaring it


def _others(trainer: pl.Trainer, callback: pl.Callback) -> list[pl.Callback]:
    return [other for other in list_callbacks(trainer) if other is not callback]


def _set_callbacks(trainer: pl.Trainer, callbacks: list[pl.Callback]) -> None:
    trainer.callbacks = callbacks  # type: ignore[attr-defined]
