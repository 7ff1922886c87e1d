"""A validation after the last epoch, whatever the interval of validations is."""

from __future__ import annotations

import lightning.pytorch as pl

__all__ = ["LastValidation"]


class LastValidation(pl.Callback):
    """Validates after the last epoch, too, where ``check_val_every_n_epoch`` does not divide the number of epochs.

    Without it the epochs after the last validation, in which the learning rate is lowest, are trained in vain: the best
    checkpoint is chosen among validated ones. A run that ends otherwise, by its steps or its time, is left as it is.

    Example:
        >>> trainer = pl.Trainer(max_epochs=10, check_val_every_n_epoch=4, callbacks=[LastValidation()], logger=False)
    """

    def __init__(self) -> None:
        self._interval: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(trainer)  # no epoch starts where a run resumes within one

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._give_back(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._give_back(trainer)

    def _look(self, trainer: pl.Trainer) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs and (trainer.check_val_every_n_epoch or 1) > 1:
            self._interval, trainer.check_val_every_n_epoch = trainer.check_val_every_n_epoch, 1

    def _give_back(self, trainer: pl.Trainer) -> None:
        """For a ``Trainer`` that is used again."""
        if self._interval is not None:
            self._interval, trainer.check_val_every_n_epoch = None, self._interval
