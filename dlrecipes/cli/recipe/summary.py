"""What is about to run, in a few lines: model, devices, batch, precision, seed, folder, tracking."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from dlrecipes.functional.words import counted, say
from dlrecipes.runs.folder import RunFolder

__all__ = ["StartSummary", "describe_devices", "describe_model"]


class StartSummary(Callback):
    """Prints the facts of a run when the model has been told about its data, before the first step.

    Args:
        folder: of the run.
        seed: of the run.
        tracking: a sentence about W&B.
        resumed_from: checkpoint, if the run goes on.
        steps_needed: by the preset; a run of fewer is warned about. None: nobody knows.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        seed: int,
        tracking: str,
        resumed_from: Path | None = None,
        steps_needed: int | None = None,
    ) -> None:
        self.folder = folder
        self.steps_needed = steps_needed
        self.seed = seed
        self.tracking = tracking
        self.resumed_from = resumed_from

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print it, once for all ranks."""
        if not trainer.is_global_zero:
            return
        datamodule: Any = getattr(trainer, "datamodule", None)
        for note in getattr(datamodule, "notes", ()):
            say(note)
        print(f"model      {describe_model(pl_module)}")
        normalisation = getattr(getattr(pl_module, "model", None), "normalisation", None)
        if normalisation is not None:
            mean, std = ("(" + ", ".join(f"{value:.3f}" for value in values) + ")" for values in normalisation)
            print(f"images     are normalised with mean {mean} and std {std}, which the pretrained weights need")
        print(f"devices    {describe_devices(trainer)}, precision {trainer.precision}, seed {self.seed}")
        print(f"batch      {_describe_batch(trainer, datamodule)}")
        print(f"steps      {_describe_steps(trainer, self.steps_needed)}")
        say(f"run        {self.folder.path}")
        if self.tracking:
            print(f"tracking   {self.tracking}")
        if self.resumed_from is not None:
            print(f"resumed    from {self.resumed_from}, step {trainer.global_step}, epoch {trainer.current_epoch + 1}")
        print(flush=True)


def describe_model(task: LightningModule) -> str:
    """``"DETR, 41.3 M parameters (41.1 M trained)"``."""
    model = getattr(task, "model", task)
    every = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{type(model).__name__}, {every / 1e6:.2f} M parameters ({trained / 1e6:.2f} M trained)"


def describe_devices(trainer: Trainer) -> str:
    """``"8 x NVIDIA H100"``, ``"2 x cpu"``; over all nodes."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{trainer.world_size} x {name}"


def _describe_batch(trainer: Trainer, datamodule: Any) -> str:
    size = getattr(datamodule, "batch_size", None)
    accumulated = trainer.accumulate_grad_batches
    if size is None:
        return f"{counted(trainer.world_size, 'device')}, {accumulated} accumulated"
    effective = trainer.world_size * size * accumulated
    one, all_ = counted(size, "image"), counted(effective, "image")
    return f"{counted(trainer.world_size, 'device')} x {one} x {accumulated} accumulated = {all_} a step"


def _describe_steps(trainer: Trainer, needed: int | None) -> str:
    """Steps of the whole run; a word of warning where they are fewer than the preset needs."""
    steps, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
    if steps == float("inf"):
        return f"{batches} batches an epoch, no end set"
    epochs = trainer.max_epochs or 0
    text = f"{int(steps)} in {counted(epochs, 'epoch')}" if epochs > 0 else f"{int(steps)}"
    if needed is None or steps >= needed:
        return text
    enough = math.ceil(needed * trainer.accumulate_grad_batches / max(1, batches))
    return f"{text}: fewer than the {needed} or so that the preset needs; --epochs {enough} would be those"
