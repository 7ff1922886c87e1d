"""What a task logs of its training steps, also of those that a resumed epoch had before its stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics import MeanMetric

from dlrecipes.ranks import world_size
from dlrecipes.tasks.epoch_means import EpochMeans

__all__ = ["TrainingLog"]


class TrainingLog(L.LightningModule):
    """Base of a module that calls ``log_each_step`` and ``log_each_epoch`` in its ``training_step``.

    A checkpoint within an epoch needs ``means_so_far()``, and a resume hands them to ``go_on_with_means``: the epoch's
    means are then those of a run without the stop, with one rank to the last bit.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch_means, self._step_sums = EpochMeans(), EpochMeans()
        self._before_resume: dict[str, tuple[float, int]] = {}  # sum and weight of an epoch's steps before a resume

    def log_each_step(self, name: str, mean: MeanMetric, value: Tensor, images: int) -> None:
        """Log a step's value, and the epoch's mean over the images of all ranks, which wait for each other at its end.

        Args:
            name: such as ``"train/loss"``.
            mean: an attribute of the task; with one rank Lightning's own is used, which takes less time.
            value: scalar, the mean over this rank's batch.
            images: in that batch.
        """
        self._step_sums.add({name: value}, images)
        total, seen = self._before_resume.pop(name, (0.0, 0))
        if world_size() == 1:
            if seen:  # total · 1 + 0 · (seen − 1): Lightning's sum and weight, which total / seen would round
                self.log(name, value.new_tensor(total), on_step=True, on_epoch=True, batch_size=1)
                self.log(name, value.new_tensor(0.0), on_step=True, on_epoch=True, batch_size=seen - 1)
            self.log(name, value, on_step=True, on_epoch=True, batch_size=images)
            return
        if seen and self.trainer.is_global_zero:  # they are of all ranks
            mean.update(total / seen, seen)
        mean(value.expand(images))  # each image counts: MeanMetric without its NaN check drops weights
        self.log(name, mean, on_step=True, on_epoch=True)

    def log_each_epoch(self, values: Mapping[str, Tensor], count: int) -> None:
        """Log the epoch's means over all ranks, and nothing of a single step, which costs next to nothing then.

        Args:
            values: by names such as ``"train/accuracy"``: scalars, each the mean of this rank's batch. Batches and
                ranks may have different ones.
            count: of what each is the mean: images, or objects.
        """
        self._epoch_means.add(values, count)

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's means."""
        self._epoch_means.clear()
        self._step_sums.clear()
        self._before_resume = {}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the epoch's means after its last step: callbacks that look at the epoch's end come before the task."""
        if self.trainer.is_last_batch or 0 <= self.trainer.max_steps <= self.trainer.global_step:
            self._log_epoch_means()

    def on_train_epoch_end(self) -> None:
        """Log them for an epoch that was cut off, and losses of one that was resumed after its last step."""
        self._log_epoch_means()
        for name, (total, seen) in self._before_resume.items():
            self.log(name, total / seen, logger=False)
            self.log(f"{name}_epoch", total / seen)
        self._before_resume = {}

    def _log_epoch_means(self) -> None:
        # every rank has the same numbers: nothing to reduce
        self.log_dict(self._epoch_means.take(), on_step=False, on_epoch=True, batch_size=1, rank_zero_only=False)

    def means_so_far(self) -> dict[str, Any]:
        """Sums and weights of the epoch under way, over all ranks, as primitives; all ranks have to ask."""
        return {"epoch_means": self._epoch_means.state(), "step_sums": self._step_sums.state()}

    def go_on_with_means(self, record: Mapping[str, Any]) -> None:
        """Take up what ``means_so_far`` gave; rank 0 adds up what all ranks had."""
        self._before_resume = dict(record.get("step_sums", {}))
        if getattr(rank_zero_only, "rank", 0) == 0:
            self._epoch_means.load(record.get("epoch_means", {}))
            self._step_sums.load(self._before_resume)
