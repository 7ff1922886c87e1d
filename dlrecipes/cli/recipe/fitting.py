"""The Trainer of a recipe, from the parsed config."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import Logger

from dlrecipes.checkpoint_io import SafeCheckpointIO
from dlrecipes.cli.options.parser import RecipeCLI
from dlrecipes.errors import DLRecipesError, UserError
from dlrecipes.runs.folder import RunFolder
from dlrecipes.trainer import choose_precision, run_callbacks

__all__ = ["build_trainer"]


def build_trainer(
    cli: RecipeCLI,
    folder: RunFolder,
    monitor: str,
    mode: str,
    callbacks: Iterable[Callback],
    loggers: Iterable[Logger],
    progress_bar: bool,
) -> Trainer:
    """Lightning's Trainer with what every run needs; what the config sets for the Trainer is kept.

    Args:
        cli: parsed options.
        folder: of the run.
        monitor: metric of the best checkpoint.
        mode: ``"max"`` or ``"min"``: which value of it is best.
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
                *run_callbacks(
                    folder,
                    monitor,
                    mode,
                    seed=cli.config["seed_everything"],
                    ema=cli.config["ema"],
                    accelerator=str(config["accelerator"]),
                    every_n_steps=cli.config["checkpoint_every_n_steps"],
                    every_n_minutes=cli.config["checkpoint_every_n_minutes"],
                ),
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


def _listed(value: Any) -> list[Any]:
    """What a config gives for one, several or no callbacks, loggers or plugins, as a list."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
