"""``--overfit N``: can the network learn a few images by heart? If not, something is wrong that no data can mend."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset, Sampler

from dlrecipes.cli.options.arguments import Arguments
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted
from dlrecipes.runs.metric_names import format_value, metric_title

__all__ = ["FewImages", "OverfitCheck", "overfit_arguments", "overfit_trainer"]

_STEPS = 1000  # at most, unless the user says how many epochs
_STEPS_EACH = 25  # an epoch, so that the evaluations after it cost little
_ALONE = ("--ema", "null", "--trainer.devices", "1", "--trainer.num_nodes", "1")
_ENDS = ("--trainer.max_epochs", "--trainer.max_steps", "--trainer.max_time")


def overfit_arguments(arguments: Arguments, plain_data: tuple[str, ...]) -> Arguments:
    """The options with what the check needs: no augmentation, no averaged weights, one device."""
    if "--overfit" not in arguments.typed:
        return arguments
    return replace(arguments, argv=(*arguments.argv, *plain_data, *_ALONE))


def overfit_trainer(arguments: Arguments) -> dict[str, Any]:
    """Settings of the Trainer for the check: at most 1000 steps, unless the user says when it ends."""
    changed: dict[str, Any] = {"check_val_every_n_epoch": 1}
    if arguments.resume is None and not any(name in arguments.typed for name in _ENDS):
        changed |= {"max_epochs": math.ceil(_STEPS / _STEPS_EACH), "max_steps": -1, "max_time": None}
    return changed


class FewImages(L.LightningDataModule):
    """The first training images of a datamodule, in the order of its first epoch, to train and to evaluate on.

    Every time round they are put into other batches, 25 or more an epoch. In the same ones batch norm would learn each
    batch by heart, with its own mean and variance, which evaluation does not have.

    Args:
        data: set up for training; its loader has a map-style data set.
        images: how many, at most.
        accumulate: batches a step.

    Raises:
        UserError: a training loader that cannot be asked for single images.
    """

    def __init__(self, data: Any, images: int, accumulate: int = 1) -> None:
        super().__init__()
        loader = data.train_dataloader()
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            raise UserError(
                f"--overfit needs single images, and {type(data).__name__}.train_dataloader() gives no DataLoader of "
                "torch's over a data set with __getitem__."
            )
        keys = list(islice(iter(loader.sampler), images))
        self.data = data
        self.images = len(keys)
        self.batch_size = min(int(getattr(data, "batch_size", None) or loader.batch_size or images), self.images)
        # parts of almost equal size: batch norm has no variance of a rest of one
        parts = math.ceil(self.images / self.batch_size)
        chosen = [[keys[i] for i in part] for part in np.array_split(np.arange(self.images), parts)]
        self._evaluated = list(DataLoader(loader.dataset, batch_sampler=chosen, collate_fn=loader.collate_fn))
        rounds = _Rounds(keys, parts, math.ceil(_STEPS_EACH * accumulate / parts))
        self._trained = DataLoader(loader.dataset, batch_sampler=rounds, collate_fn=loader.collate_fn)
        for name in ("info", "path", "report", "audit_report"):  # what a run asks its data
            if hasattr(data, name):
                setattr(self, name, getattr(data, name))

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the data, and what is done with it."""
        about = f"{counted(self.images, 'training image')} without augmentation are trained and evaluated on."
        return (*getattr(self.data, "notes", ()), f"Overfit check: the same {about}")

    def setup(self, stage: str | None = None) -> None:
        """Let the data know the trainer, which it may ask whether this is training."""
        self.data.trainer = self.trainer

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """What the data does on the device."""
        return self.data.on_after_batch_transfer(batch, dataloader_idx)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._trained

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self._evaluated, batch_size=None)  # type: ignore[arg-type]  # a list does


class _Rounds(Sampler[list[Any]]):
    """Batches of almost equal size that hold all keys, several times round, in an order of (epoch, round)."""

    def __init__(self, keys: Sequence[Any], parts: int, rounds: int) -> None:
        self.keys, self.parts, self.rounds = keys, parts, rounds
        self.epoch = 0

    @property
    def sampler(self) -> _Rounds:
        """Lightning tells the epoch to a batch sampler's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.parts * self.rounds

    def __iter__(self) -> Iterator[list[Any]]:
        for number in range(self.rounds):
            order = np.random.default_rng((self.epoch, number)).permutation(len(self.keys))
            for part in np.array_split(order, self.parts):
                yield [self.keys[i] for i in sorted(part)]


class OverfitCheck(Callback):
    """Ends training as soon as the evaluation reaches the task's goal, and says how it went.

    Args:
        goals: metric without its split → least value, the task's ``overfit_goal``; the first that is measured counts.
        images: how many are learnt.

    Attributes:
        passed: the goal was reached.

    Raises:
        UserError: no goals.
    """

    def __init__(self, goals: Mapping[str, float], images: int) -> None:
        if not goals:
            raise UserError(
                "--overfit needs to know what counts as learnt: give your task a class attribute such as "
                'overfit_goal = {"accuracy": 1.0}, by a metric that it logs as val/accuracy.'
            )
        self.goals = dict(goals)
        self.images = images
        self.metric = next(iter(self.goals))
        self.best = math.nan
        self.steps = 0
        self._matched_iou: float | None = None

    @property
    def goal(self) -> float:
        """Value that the metric must reach."""
        return self.goals[self.metric]

    @property
    def passed(self) -> bool:
        """Whether it was reached."""
        return self.best >= self.goal - 1e-6  # a mean of float32

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measured = trainer.callback_metrics
        self.metric = next((name for name in self.goals if f"val/{name}" in measured), self.metric)
        value = float(measured.get(f"val/{self.metric}", math.nan))
        self.steps = trainer.global_step
        self.best = value if math.isnan(self.best) else max(self.best, value)
        if self.passed:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        matched = trainer.callback_metrics.get("train/matched_iou")
        self._matched_iou = None if matched is None else float(matched)

    def verdict(self, folder: Path) -> str:
        """PASS or FAIL, the criterion, and after a failure what to look at; one sentence.

        Args:
            folder: of the run.
        """
        title = metric_title(self.metric)
        on = f"on the {counted(self.images, 'image')} that it was trained on"
        needed = f"{format_value(self.goal)} was needed"
        if self.passed:
            reached = f"train {title} {format_value(self.best)} {on}, after {counted(self.steps, 'step')}"
            return f"PASS: {reached}; {needed}."
        if not self.steps:
            return f"FAIL: the run ended before train {title} was first measured {on}: give it more steps."
        if math.isnan(self.best) or (self.best < 0 and self.metric.startswith("map")):  # COCO's -1
            return f"FAIL: train {title} could not be measured {on}, which may hold no objects: try another --seed."
        boxes = ""
        if self._matched_iou is not None:
            what = (
                "boxes are found and their classes or scores are wrong" if self._matched_iou >= 0.7 else "boxes are off"
            )
            boxes = f", then at train/matched_iou, {self._matched_iou:.2f} at the end ({what})"
        reached = f"train {title} reached {format_value(self.best)} {on}, in {counted(self.steps, 'step')}"
        return (
            f"FAIL: {reached}; {needed}: look at {folder / 'batch.png'} (are the labels right?){boxes}, then at "
            f"{folder / 'curves.png'} (a loss that still falls needs more --epochs, one that stands still another "
            "--lr), then at what is your own."
        )
