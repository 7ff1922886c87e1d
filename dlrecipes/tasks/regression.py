"""Regression: one or several numbers of each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.tasks.images import ImageTask
from dlrecipes.tasks.metrics import RegressionScores

__all__ = ["RegressionTask"]


class RegressionTask(ImageTask):
    """Train a network to predict numbers.

    Network and loss work on targets that are standardised by the training split's mean and standard deviation, so that
    rates and loss parameters do not depend on the unit; ``train/loss`` and ``val/loss`` are in those units. Metrics
    and predictions are in the data's own: ``mae``, ``rmse`` and ``r2``. Of several targets these are means, which mix
    units. So there are ``mae_target/NAME`` as well, and ``scaled_mae``, in standard deviations of the training split,
    which chooses the best checkpoint: it would otherwise be that of the target with the largest numbers.

    Gross outliers inflate mean and deviation, and all other targets then lie within smooth L1's quadratic part: with a
    tenth of the targets ten times too large its error was 3.5 times that of ``dlrecipes.losses.L1Loss``, which is the
    one to take then (``python benchmarks/notes.py outliers``).

    Arguments: see ``ImageTask``. The default loss is ``dlrecipes.losses.SmoothL1Loss``. A loss with
    ``outputs_per_target = k > 1`` gets the network's outputs as [B, T, k] and turns them into predictions [B, T] by its
    ``point(outputs)``, or the first of the k is the prediction; other losses get [B, T].

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1))
        >>> task = RegressionTask(network, nn.HuberLoss(), lr=1e-3)
    """

    monitor: str = "val/mae"
    monitor_mode: str = "min"
    headline: tuple[str, ...] = ("mae", "r2", "rmse")
    overfit_goal: ClassVar[Mapping[str, float]] = {"r2": 0.9}

    _target_mean: Tensor
    _target_std: Tensor

    def configure_loss(self, info: DataInfo) -> nn.Module:
        """Smooth L1: single outliers pull with a bounded force; for many or gross ones see the class's description."""
        from dlrecipes.losses import SmoothL1Loss

        loss: nn.Module = SmoothL1Loss()
        return loss

    def configure_metrics(self, info: DataInfo) -> MetricCollection:
        """Those of the class's description."""
        return MetricCollection([RegressionScores(info.target_names, self._target_mean, self._target_std)])

    def bind(self, info: DataInfo) -> None:
        """Also keep the targets' scale, and tell the network how many numbers the loss wants.

        Raises:
            UserError: data without numbers to predict.
        """
        if info.task != "regression" or not info.target_names:
            raise UserError(
                f"RegressionTask needs data with numbers to predict, and this is for {info.task}: take "
                f"dlrecipes.tasks.ClassificationTask, or give a label column of numbers"
            )
        if self.loss is None:
            self.loss = self.configure_loss(info)
        count = len(info.target_names)
        std = torch.tensor(info.target_std or (1.0,) * count)
        self.register_buffer("_target_mean", torch.tensor(info.target_mean or (0.0,) * count), persistent=False)
        self.register_buffer("_target_std", std.where(std > 0, 1.0), persistent=False)  # one that never changes: 1
        if count > 1:
            self.monitor, self.headline = "val/scaled_mae", ("scaled_mae", "r2")
        super().bind(replace(info, outputs_per_target=int(getattr(self.loss, "outputs_per_target", 1))))

    def targets_for_loss(self, targets: Tensor) -> Tensor:
        """Standardised float32 [B, T]."""
        return (targets.float() - self._target_mean) / self._target_std

    def outputs_for_loss(self, outputs: Tensor) -> Tensor:
        """[B, T], or [B, T, k] for a loss with ``outputs_per_target = k > 1``."""
        each = 1 if self.info is None else self.info.outputs_per_target
        # not len(outputs), which torch.export takes for a constant
        return outputs if each == 1 else outputs.reshape(outputs.shape[0], -1, each)

    def predictions(self, outputs: Tensor) -> Tensor:
        """float32 [B, T] in the data's own units."""
        found = self.outputs_for_loss(outputs.float())
        if found.dim() == 3:
            point = getattr(self.loss, "point", None)
            found = point(found) if callable(point) else found[..., 0]
        return found * self._target_std + self._target_mean
