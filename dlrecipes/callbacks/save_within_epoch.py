"""Checkpoints within an epoch, at steps from which nothing is left out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from dlrecipes.callbacks.graceful_stop import more_belongs_to_this_batch

__all__ = ["SaveWithinEpoch"]


class SaveWithinEpoch(Checkpoint):
    """Saves one file, again and again, within an epoch.

    Lightning's ``ModelCheckpoint`` saves after any batch. A run that goes on from the checkpoint of an epoch's last
    batch leaves out the validation that follows, and with it the best checkpoint; one that goes on from within
    accumulated gradients loses those. Here such a batch is passed over and the next one is saved; an epoch's end has a
    checkpoint of its own.

    Args:
        path: the checkpoint to write; overwritten.
        every_n_steps: optimizer steps from one save to the next; None: not by steps.
        every_n_minutes: minutes from one save to the next, by the clock of rank 0; None: not by time.

    Raises:
        ValueError: an interval that is not above 0.

    Example:
        >>> SaveWithinEpoch("runs/0/checkpoints/last.ckpt", every_n_steps=500).path.name
        'last.ckpt'
    """

    def __init__(
        self, path: str | Path, *, every_n_steps: int | None = None, every_n_minutes: float | None = None
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("every_n_minutes", every_n_minutes)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        self.path = Path(path)
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self._global_step = 0
        self._saved_step = 0
        self._saved_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._global_step = self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = trainer.global_step != self._global_step
        self._global_step = trainer.global_step
        if stepped and not more_belongs_to_this_batch(trainer, batch_idx) and self._is_due(trainer):
            self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
            trainer.save_checkpoint(self.path, weights_only=False)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if self.every_n_steps is not None:
            passed = trainer.global_step // self.every_n_steps > self._saved_step // self.every_n_steps
            if passed:
                return True
        if self.every_n_minutes is None:
            return False
        late = time.monotonic() - self._saved_at >= 60 * self.every_n_minutes
        return bool(trainer.strategy.broadcast(late))  # clocks differ, and all ranks must save or none
