"""A small fit with everything that makes resuming hard; imported by the tests and run by them as a script."""

from __future__ import annotations

import argparse
import os
import random
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import nn

from dlrecipes.callbacks import ExactResume, GracefulStop, NonFiniteStop
from dlrecipes.checkpoint_io import SafeCheckpointIO
from dlrecipes.data.loading.loader import make_loader
from dlrecipes.data.loading.sampler import EpochSampler

TRAIN, VAL, BATCH, ACCUMULATE, EPOCHS = 28, 5, 2, 3, 3  # batches an epoch: 14, or 7 on each of two ranks


class ToyData(torch.utils.data.Dataset[dict[str, Any]]):
    """Samples are pure functions of (epoch, index), as the loaders ask for them."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        x = torch.randn(4, generator=torch.Generator().manual_seed(1000 * epoch + index))
        return {"x": x, "y": x.sum().reshape(1), "paths": f"image_{index}.jpg"}


class ToyModule(pl.LightningModule):
    def __init__(self, draws: bool = True) -> None:
        super().__init__()
        self.draws = draws
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5 if draws else 0.0), nn.ReLU())
        self.head = nn.Linear(8, 1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, torch.Tensor]:
        prediction = self.head(self.body(batch["x"])) + self.draws * 0.01 * np.random.rand()  # noqa: NPY002
        error = (prediction - batch["y"]).square().mean()
        size = 1e-3 * prediction.square().mean()
        self.log("train/loss_error", error, batch_size=len(batch["paths"]))
        return {"loss": error + size, "loss_error": error.detach(), "loss_size": size.detach()}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        if self.draws:
            torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002 - must not change what training draws
        error = (self.head(self.body(batch["x"])) - batch["y"]).square().mean()
        self.log("val/loss", error, sync_dist=True, batch_size=len(batch["paths"]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=25)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ToyLoaders(pl.LightningDataModule):
    def __init__(self, num_workers: int) -> None:
        super().__init__()
        self.num_workers = num_workers

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        if self.trainer.training:  # augmentation on the device, with every generator that people use
            batch["x"] = batch["x"] + 0.1 * torch.randn_like(batch["x"]) + 0.1 * random.random()
        return batch

    def _loader(self, size: int, *, train: bool) -> Any:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = EpochSampler(size, shuffle=train, seed=1, rank=rank, world_size=world)
        batch_size = BATCH if train else 1
        return make_loader(ToyData(size), sampler, batch_size=batch_size, num_workers=self.num_workers)

    def train_dataloader(self) -> Any:
        return self._loader(TRAIN, train=True)

    def val_dataloader(self) -> Any:
        return self._loader(VAL, train=False)


class SendSignal(pl.Callback):
    """Sends this process a signal in the middle of a training batch (counted over epochs) or of a validation batch."""

    def __init__(
        self, signum: int, *, batch: int = -2, validation: int = -2, rank: int = 0, sanity: bool = False, times: int = 1
    ) -> None:
        self.signum, self.batch, self.validation, self.rank = signum, batch, validation, rank
        self.sanity, self.times = sanity, times
        self.seen_batches = self.seen_validation_batches = -1

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        self.seen_batches += 1
        if self.seen_batches == self.batch and trainer.global_rank == self.rank:
            self._send()

    def on_validation_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.sanity_checking:
            if self.sanity:
                self._send()
            return
        self.seen_validation_batches += 1
        if self.seen_validation_batches == self.validation and trainer.global_rank == self.rank:
            self._send()

    def _send(self) -> None:
        for _ in range(self.times):
            os.kill(os.getpid(), self.signum)


class Spoil(pl.Callback):
    """Makes something NaN in one training batch (counted over epochs) of one rank."""

    def __init__(self, what: str, *, batch: int, rank: int = 0) -> None:
        self.what, self.batch, self.rank = what, batch, rank
        self.seen_batches = -1

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: ToyModule, batch: Any, batch_idx: int) -> None:
        self.seen_batches += 1
        if self.what == "target" and self._due(trainer):
            batch["y"][0] = torch.nan

    def on_after_backward(self, trainer: pl.Trainer, pl_module: ToyModule) -> None:
        if self.what == "gradient" and self._due(trainer):
            pl_module.head.weight.grad[0, 0] = torch.inf

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ToyModule, *args: Any) -> None:
        if self.what == "weight" and self._due(trainer):
            with torch.no_grad():
                pl_module.head.bias[0] = torch.nan

    def _due(self, trainer: pl.Trainer) -> bool:
        return self.seen_batches == self.batch and trainer.global_rank == self.rank


def same_weights(a: pl.LightningModule, b: pl.LightningModule) -> bool:
    """Bitwise."""
    other = b.state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.state_dict().items())


def checkpoint_callback(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", monitor="val/loss", save_top_k=2, save_last=True)


def fit(
    folder: Path,
    *extra: pl.Callback,
    resume: Path | None = None,
    devices: int = 1,
    num_workers: int = 2,
    exact: bool = True,
    non_finite: NonFiniteStop | None = None,
    **trainer_options: Any,
) -> tuple[pl.Trainer, ToyModule]:
    module = ToyModule()
    callbacks = [
        GracefulStop(folder / "stopped.ckpt"),
        *([ExactResume(seed=3)] if exact else []),
        *extra,
        EMAWeightAveraging(decay=0.9),
        checkpoint_callback(folder),
        ModelCheckpoint(folder, "at_{step}", every_n_train_steps=2, save_top_k=-1),
        non_finite or NonFiniteStop(),
    ]
    options: dict[str, Any] = {
        "max_epochs": EPOCHS,
        "accumulate_grad_batches": ACCUMULATE,
        "gradient_clip_val": 1.0,
        "val_check_interval": 6,
        "num_sanity_val_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "use_distributed_sampler": False,
    } | trainer_options
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        callbacks=callbacks,
        plugins=[SafeCheckpointIO()],
        default_root_dir=folder,
        **options,
    )
    trainer.fit(module, datamodule=ToyLoaders(num_workers), ckpt_path=resume, weights_only=True)
    return trainer, module


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--signal", type=lambda name: signal.Signals[name])
    parser.add_argument("--batch", type=int, default=-2)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--max-epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    extra = [SendSignal(arguments.signal, batch=arguments.batch, times=arguments.times)] if arguments.signal else []
    fit(arguments.folder, *extra, max_epochs=arguments.max_epochs)
