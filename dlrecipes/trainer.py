"""Lightning's Trainer with what every run of this project needs: for the recipes, and for a project of your own.

Checkpoints by the task's own metric, exact resume and evaluation, a stop at the first NaN and on a signal, numbers and
curves in a run folder.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint

from dlrecipes.callbacks import (
    AveragedWeights,
    ExactEvaluation,
    ExactResume,
    GracefulStop,
    LastValidation,
    LostRank,
    NonFiniteStop,
    SaveWithinEpoch,
)
from dlrecipes.callbacks.exact_resume import seed_everything_at
from dlrecipes.callbacks.loss_early_stopping import watched_loss
from dlrecipes.checkpoint_io import SafeCheckpointIO
from dlrecipes.errors import UserError
from dlrecipes.functional.random_state import kept_random_state
from dlrecipes.runs import CurvesPicture, MetricsCSV, MetricsResume, RunFolder, make_progress

__all__ = [
    "TRAINER_DEFAULTS",
    "choose_precision",
    "fresh_trainer_args",
    "make_checkpoint_callbacks",
    "make_trainer",
    "own_randomness",
    "quiet_lightning",
    "run_callbacks",
    "uses_cuda",
]

TRAINER_DEFAULTS: Mapping[str, Any] = {
    "num_sanity_val_steps": 0,  # the audit has read every file already
    "use_distributed_sampler": False,  # the datamodule shards by rank itself, without duplicated samples
    "enable_model_summary": False,  # the run says what it trains
    "log_every_n_steps": 10,
}
"""Where every run differs from Lightning's own defaults."""

_WARNINGS = (
    r"The '\w+' does not have many workers",  # the datamodule chooses
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # small data is allowed
    r"is called with Trainer configured with multiple `ModelCheckpoint`",  # the first of them is that of the best
    r"Checkpoint directory .* exists and is not empty",  # a resumed run goes on in its folder
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6.6 with torch 2.14
    r"You're using the WeightAveraging callback with a model that overrides",  # ours makes no layers there
    r"It is recommended to use `self\.log\(.*sync_dist=True\)`",  # metrics are reduced by torchmetrics
    r"You're resuming from a checkpoint that ended before the epoch ended",  # ExactResume and the loader see to it
)


def make_trainer(
    task: LightningModule,
    *,
    max_epochs: int,
    output: str | os.PathLike[str] = "runs",
    name: str = "run",
    seed: int = 0,
    ema: float | None = None,
    pictures: Sequence[Callable[[RunFolder], Callback]] = (),
    trainer_args: Mapping[str, Any] | None = None,
) -> Trainer:
    """A Trainer for a task, in a new numbered run folder, with what a recipe's run has.

    Args:
        task: its ``monitor``, ``monitor_mode`` and ``headline`` say what it is judged by; ``val/loss`` otherwise.
        max_epochs: passes over the training images.
        output, name: the folder is ``OUTPUT/NAME-001``, or the next free number; it is ``trainer.default_root_dir``.
        seed: of dropout and the like; give the datamodule the same.
        ema: decay of a moving average of the weights, which is then evaluated and kept; None: none.
        pictures: callbacks that take the run folder and draw into it, such as ``dlrecipes.runs.ImageCurves``.
        trainer_args: anything else of Lightning's Trainer; ``callbacks`` and ``logger`` are added to ours.

    Raises:
        UserError: a folder that cannot be written, an ``ema`` outside 0..1, or settings that Lightning refuses.

    Example:
        ::

            data = ClassificationData("photos")
            task = ClassificationTask(EfficientNet("b0"))
            trainer = make_trainer(task, max_epochs=20, pictures=[ImageCurves])
            trainer.fit(task, data)
            trainer.test(task, data, ckpt_path="best", weights_only=True)
    """
    quiet_lightning()
    given = dict(trainer_args or {})
    folder = RunFolder.create(output, name)
    monitor, mode = getattr(task, "monitor", "val/loss"), getattr(task, "monitor_mode", "min")
    headline = tuple(getattr(task, "headline", ()))
    callbacks = [
        *given.pop("callbacks", ()),
        *(picture(folder) for picture in pictures),
        CurvesPicture(folder, monitor, headline, mode),
        MetricsResume(),
        *make_progress(terminal=False, headline=headline),
        LearningRateMonitor(logging_interval="step"),
        *run_callbacks(folder, monitor, mode, seed=seed, ema=ema, accelerator=str(given.get("accelerator", "auto"))),
    ]
    defaults = {
        **TRAINER_DEFAULTS,
        "enable_progress_bar": False,  # a line an epoch instead
        "precision": choose_precision(str(given.get("accelerator", "auto"))),
        "default_root_dir": folder.path,
    }
    try:
        return Trainer(
            max_epochs=max_epochs,
            callbacks=callbacks,
            logger=[*given.pop("logger", ()), MetricsCSV(folder.metrics)],
            plugins=[*given.pop("plugins", ()), SafeCheckpointIO()],
            **{**defaults, **given},
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(" ".join(str(error).split())) from error


def fresh_trainer_args(trainer_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """``trainer_args`` of one training among several: callbacks remember what they saw, so each training gets copies.

    Args:
        trainer_args: as `make_trainer` takes them; ``callbacks`` as they are before any training.

    Raises:
        UserError: a logger, or a callback that cannot be copied.
    """
    given = dict(trainer_args or {})
    if given.pop("logger", None):
        raise UserError(
            "trainer_args has a logger, which would write all trainings into one: leave it out, each has a metrics.csv."
        )
    callbacks = given.pop("callbacks", None) or []
    callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
    try:
        given["callbacks"] = deepcopy(callbacks)
    except (TypeError, RuntimeError) as error:
        names = ", ".join(type(callback).__name__ for callback in callbacks)
        raise UserError(
            f"the callbacks {names} cannot be copied for each training ({error}): leave out what holds open files."
        ) from error
    return given


@contextmanager
def own_randomness(seed: int, *position: int) -> Iterator[None]:
    """All within it, first weights included, follows from ``(seed, *position)``; the caller's generators are kept.

    Args:
        seed, position: each at least 0.

    Raises:
        UserError: a seed below 0.
    """
    if seed < 0:
        raise UserError(f"seed={seed}: must not be below 0")
    with kept_random_state():
        seed_everything_at(seed, *position, device=torch.device("cuda") if torch.cuda.is_available() else None)
        yield


def run_callbacks(
    folder: RunFolder,
    monitor: str,
    mode: str,
    *,
    seed: int,
    ema: float | None = None,
    accelerator: str = "auto",
    every_n_steps: int | None = None,
    every_n_minutes: float | None = None,
) -> list[Callback]:
    """What every run needs beside its pictures, in the order that Lightning must call them.

    Args:
        folder: of the run.
        monitor, mode: metric of the best checkpoint, and whether ``"max"`` or ``"min"`` is best.
        seed: see `make_trainer`.
        ema: see `make_trainer`.
        accelerator: as given to the Trainer.
        every_n_steps, every_n_minutes: also save ``last.ckpt`` so often within an epoch.

    Raises:
        UserError: an ``ema`` outside 0..1, or an interval that is not above 0.
    """
    if ema is not None and not 0 < ema < 1:
        raise UserError(f"--ema must be between 0 and 1, got {ema}.")
    within_epoch = _save_within_epoch(folder, every_n_steps, every_n_minutes)
    # The callback copies the weights before Lightning moves them, and would keep the average on the CPU.
    device = "cuda" if uses_cuda(accelerator) else None
    return [
        ExactResume(seed=seed),
        NonFiniteStop(),
        LastValidation(),
        LostRank(folder.last_checkpoint),
        GracefulStop(folder.last_checkpoint),
        *([] if ema is None else [AveragedWeights(ema, device)]),
        ExactEvaluation(),  # after the averaging, which exchanges the weights at the same hook
        *make_checkpoint_callbacks(folder, monitor, mode, by_loss=True),
        *within_epoch,
    ]


def _save_within_epoch(
    folder: RunFolder, every_n_steps: int | None, every_n_minutes: float | None
) -> list[SaveWithinEpoch]:
    for option, value in (("steps", every_n_steps), ("minutes", every_n_minutes)):
        if value is not None and value <= 0:
            raise UserError(f"--checkpoint-every-n-{option} must be above 0, got {value}.")
    if every_n_steps is None and every_n_minutes is None:
        return []
    return [SaveWithinEpoch(folder.last_checkpoint, every_n_steps=every_n_steps, every_n_minutes=every_n_minutes)]


def make_checkpoint_callbacks(
    folder: RunFolder, monitor: str, mode: str = "max", by_loss: bool = False
) -> list[ModelCheckpoint]:
    """``best.ckpt`` by ``monitor``; ``last.ckpt`` after every epoch.

    Args:
        folder: of the run.
        monitor: logged metric.
        mode: ``"max"`` or ``"min"``.
        by_loss: also keep ``best_loss.ckpt``, by the task's ``loss_monitor``, or ``val/loss`` where that is not logged,
            unless it is ``monitor``: the two part where a network becomes over-confident. A task that logs neither has
            none.
    """

    def checkpoint(filename: str, **when: Any) -> ModelCheckpoint:
        return ModelCheckpoint(
            dirpath=folder.checkpoints, filename=filename, enable_version_counter=False, save_top_k=1, **when
        )

    # `best` first: `last` remembers its score.
    found = [
        checkpoint("best", monitor=monitor, mode=mode, save_on_train_epoch_end=False),
        checkpoint("last", every_n_epochs=1, save_on_train_epoch_end=True),
    ]
    if by_loss and monitor != "val/loss":  # last: Lightning's "best" is that of the first
        found.append(
            _BestByLoss(
                monitor,
                dirpath=folder.checkpoints,
                filename=folder.best_loss_checkpoint.stem,
                enable_version_counter=False,
                save_on_train_epoch_end=False,
            )
        )
    return found


class _BestByLoss(ModelCheckpoint):
    """By what the task has logged as its loss. Without that it does nothing, where Lightning's ends the run."""

    state_key = "dlrecipes.best_loss"  # Lightning's has the metric in it, which follows from the first validation

    def __init__(self, metric: str, **arguments: Any) -> None:
        super().__init__(monitor="val/loss", mode="min", **arguments)
        self.metric = metric

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.monitor = watched_loss(trainer, pl_module)
        if self.monitor in trainer.callback_metrics and self.monitor != self.metric:
            super().on_validation_end(trainer, pl_module)


def choose_precision(accelerator: str) -> str:
    """bf16 autocast where the GPU computes in it, fp32 elsewhere.

    Args:
        accelerator: as given to the Trainer.
    """
    on_gpu = uses_cuda(accelerator)
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def uses_cuda(accelerator: str) -> bool:
    """Whether a Trainer with this ``accelerator`` will run on a CUDA device."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


class _NotLightningsChatter(logging.Filter):
    """Passes warnings, and what our own callbacks say through Lightning's rank-zero logger."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or f"{os.sep}dlrecipes{os.sep}" in record.pathname


_FILTER = _NotLightningsChatter()


def quiet_lightning() -> None:
    """Drop Lightning's tips and notices; warnings that a user can act on stay. Calling it again changes nothing."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_FILTER)
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=f"(?s).*{message}")
