"""The Trainer of a recipe: precision, checkpoints, stops and resume, from the parsed config."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import Logger

from dlrecipes.callbacks import ExactEvaluation, ExactResume, GracefulStop, NonFiniteStop
from dlrecipes.checkpoint_io import SafeCheckpointIO
from dlrecipes.cli.parser import RecipeCLI
from dlrecipes.errors import DLRecipesError, UserError
from dlrecipes.runs.folder import RunFolder

__all__ = ["build_trainer", "choose_precision", "make_checkpoint_callbacks"]


def build_trainer(
    cli: RecipeCLI,
    folder: RunFolder,
    monitor: str,
    callbacks: Iterable[Callback],
    loggers: Iterable[Logger],
    progress_bar: bool,
) -> Trainer:
    """Lightning's Trainer with what every run needs; what the config sets for the Trainer is kept.

    Args:
        cli: parsed options.
        folder: of the run.
        monitor: metric of the best checkpoint, larger is better.
        callbacks, loggers: of the run folder and the tracker, beside those of the config.
        progress_bar: one is among the callbacks.

    Raises:
        UserError: a device that is not there, or settings that Lightning refuses.
    """
    config: dict[str, Any] = cli.config_init["trainer"]
    try:
        return cli.instantiate_trainer(
            callbacks=[
                *_listed(config["callbacks"]),
                *callbacks,
                LearningRateMonitor(logging_interval="step"),
                *_own_callbacks(cli, folder, monitor),
            ],
            logger=[*_listed(config["logger"]), *loggers],
            plugins=[*_listed(config["plugins"]), SafeCheckpointIO()],
            precision=config["precision"] or choose_precision(str(config["accelerator"])),
            enable_progress_bar=progress_bar,
            default_root_dir=str(folder.path),
        )
    except DLRecipesError:
        raise
    except (MisconfigurationException, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error


def choose_precision(accelerator: str) -> str:
    """bf16 autocast where the GPU computes in it, fp32 elsewhere.

    Args:
        accelerator: as given to the Trainer.
    """
    on_gpu = _uses_cuda(accelerator)
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def _uses_cuda(accelerator: str) -> bool:
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def make_checkpoint_callbacks(
    folder: RunFolder, monitor: str, every_n_steps: int | None = None, every_n_minutes: float | None = None
) -> list[ModelCheckpoint]:
    """``best.ckpt`` by ``monitor``; ``last.ckpt`` after every epoch, and more often if wanted.

    Args:
        folder: of the run.
        monitor: logged metric, larger is better.
        every_n_steps, every_n_minutes: also save ``last.ckpt`` so often within an epoch.

    Raises:
        UserError: an interval that is not above 0.
    """
    for option, value in (("steps", every_n_steps), ("minutes", every_n_minutes)):
        if value is not None and value <= 0:
            raise UserError(f"--checkpoint-every-n-{option} must be above 0, got {value}.")

    def checkpoint(filename: str, **when: Any) -> ModelCheckpoint:
        return ModelCheckpoint(
            dirpath=folder.checkpoints, filename=filename, enable_version_counter=False, save_top_k=1, **when
        )

    # `best` first: `last` remembers its score.
    found = [
        checkpoint("best", monitor=monitor, mode="max", save_on_train_epoch_end=False),
        checkpoint("last", every_n_epochs=1, save_on_train_epoch_end=True),
    ]
    if every_n_steps is not None:
        found.append(checkpoint("last", every_n_train_steps=every_n_steps))
    if every_n_minutes is not None:
        found.append(checkpoint("last", train_time_interval=timedelta(minutes=every_n_minutes)))
    return found


def _own_callbacks(cli: RecipeCLI, folder: RunFolder, monitor: str) -> list[Callback]:
    config = cli.config
    ema = config["ema"]
    if ema is not None and not 0 < ema < 1:
        raise UserError(f"--ema must be between 0 and 1, got {ema}.")
    # The callback copies the weights before Lightning moves them, and would keep the average on the CPU.
    device = "cuda" if _uses_cuda(str(config["trainer.accelerator"])) else None
    return [
        ExactResume(seed=config["seed_everything"]),
        NonFiniteStop(),
        GracefulStop(folder.last_checkpoint),
        *([] if ema is None else [EMAWeightAveraging(decay=ema, device=device)]),
        ExactEvaluation(),  # after the averaging, which exchanges the weights at the same hook
        *make_checkpoint_callbacks(
            folder, monitor, config["checkpoint_every_n_steps"], config["checkpoint_every_n_minutes"]
        ),
    ]


def _listed(value: Any) -> list[Any]:
    """What a config gives for one, several or no callbacks, loggers or plugins, as a list."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
