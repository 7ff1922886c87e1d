"""Fits on the device that stands in for a GPU."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from stand_in import DEVICE, Waits, stand_in

from dlrecipes.data import ClassificationData, array_source

__all__ = ["fit", "pictures"]


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Any device will do."""


class _Steps(L.Callback):
    """Counts from the second step of the last epoch on: what is copied to the device once is no matter of steps."""

    def __init__(self, waits: Waits) -> None:
        self.waits = waits
        self.of_steps: Waits = Waits()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.waits.clear()
        self.of_steps = Waits(self.waits)


def pictures(
    kind: str = "classification", side: int = 32, classes: tuple[str, ...] = (), **options: Any
) -> ClassificationData:
    """24 pictures to train on, three classes or two numbers to predict."""
    random = np.random.default_rng(0)
    targets = {
        "classification": np.arange(24) % 3,
        "multilabel": random.random((24, 3)) < 0.5,
        "regression": random.random((24, 1)),
    }[kind]
    split = random.integers(0, 256, (24, side, side, 3), dtype=np.uint8), targets
    return ClassificationData(
        source=array_source(split, split, split, classes=classes), **({"batch_size": 8, "num_workers": 0} | options)
    )


def fit(
    task: L.LightningModule, data: L.LightningDataModule, folder: Path, *callbacks: L.Callback, **options: Any
) -> Waits:
    """Train for an epoch and validate.

    Returns:
        The waits of the last epoch's training steps behind its first, by function of the package.
    """
    trained = L.Trainer(
        **{"max_epochs": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0} | options,
        strategy=SingleDeviceStrategy(device=DEVICE, accelerator=_Accelerator()),
        inference_mode=False,  # in which operators that consist of others are not taken apart
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        use_distributed_sampler=False,
    )
    with stand_in() as waits, warnings.catch_warnings():
        # Lightning looks at the length of a loader on the device
        warnings.filterwarnings("ignore", "Total length of .* across ranks is zero")
        steps = _Steps(waits)
        trained.callbacks += [*callbacks, steps]  # type: ignore[attr-defined]  # a list
        trained.fit(task, datamodule=data)
    del steps.of_steps["elsewhere"]  # Lightning's own
    return steps.of_steps
