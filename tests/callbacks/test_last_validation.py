from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from toy_fit import ToyLoaders, ToyModule

from dlrecipes.callbacks import LastValidation


class Validated(pl.Callback):
    """Epochs that were validated, from 1."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs.append(trainer.current_epoch + 1)


class Save(pl.Callback):
    """A checkpoint in the middle of an epoch."""

    def __init__(self, file: Path, epoch: int) -> None:
        self.file, self.epoch = file, epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.epoch and not self.file.exists():
            trainer.save_checkpoint(self.file)


def fit(*callbacks: pl.Callback, checkpoint: Path | None = None, **options: Any) -> tuple[list[int], pl.Trainer]:
    validated = Validated()
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[validated, *callbacks], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_train_batches=3,
        **options,
    )  # fmt: skip
    trainer.fit(ToyModule(), datamodule=ToyLoaders(0), ckpt_path=checkpoint, weights_only=True)
    return validated.epochs, trainer


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (7, [5])])
def test_the_last_epoch_is_validated(every: int, epochs: list[int]) -> None:
    found, trainer = fit(LastValidation(), max_epochs=5, check_val_every_n_epoch=every)
    assert found == epochs
    assert trainer.check_val_every_n_epoch == every  # for a Trainer that goes on


def test_without_an_end_or_an_interval_nothing_changes() -> None:
    assert fit(LastValidation(), max_epochs=-1, max_steps=9, check_val_every_n_epoch=2)[0] == [2]
    assert fit(LastValidation(), max_epochs=2, check_val_every_n_epoch=None, val_check_interval=4)[0] == [2]


def test_a_run_that_resumes_in_its_last_epoch(tmp_path: Path) -> None:
    file = tmp_path / "middle.ckpt"
    assert fit(Save(file, epoch=2), max_epochs=3, check_val_every_n_epoch=2)[0] == [2]
    assert fit(LastValidation(), checkpoint=file, max_epochs=3, check_val_every_n_epoch=2)[0] == [3]
