"""Where a classifier or regressor goes wrong, drawn at the end of a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor

from dlrecipes.contracts import DataInfo, ImageBatch, ImageOutput
from dlrecipes.ranks import gather_in_order
from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.pictures.image_plots import (
    draw_class_bars,
    draw_class_confusion,
    draw_class_curves,
    draw_reliability,
    draw_scatter,
)
from dlrecipes.runs.pictures.mistakes import (
    describe_mistakes,
    draw_mistakes,
    mistake_columns,
    score_mistakes,
    target_scale,
)
from dlrecipes.runs.pictures.sheets import data_info
from dlrecipes.runs.pictures.worst import WorstImage, WorstImages
from dlrecipes.runs.tracking.tracked import TableTracker, track_pictures

__all__ = ["ImageCurves"]

_MOST_CURVES = 100
Floats = NDArray[np.float32]


class ImageCurves(Callback):
    """At the end of a test, draws where the model goes wrong.

    Also at the end of ``trainer.validate``, for data without a test split; not in the validations of a fit.

    - classification: ``confusion.png``, ``pr_curves.png``, ``reliability.png``, ``mistakes.png``;
    - several labels: ``pr_curves.png``, ``per_class.png``, ``reliability.png``, ``mistakes.png``;
    - regression: ``scatter.png``, ``mistakes.png``.

    They also go to the trackers, the mistakes as a table too. Exact on several devices: what each rank has seen is put
    together. Batches stay on their device until the end. Probabilities are kept for at most 100 classes, the most
    frequent in training, since 50,000 images of 1000 classes would be 200 MB; of the others the predicted class and its
    confidence are, so only ``pr_curves.png`` and ``per_class.png`` miss them.

    Args:
        run: the folder for the pictures.
        n: most mistakes to draw.

    Raises:
        ValueError: ``n`` is below 1.
    """

    def __init__(self, run: RunFolder, n: int = 16) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.run = run
        self.n = n
        self._info: DataInfo | None = None  # None: not a run that is to be drawn
        self._shown = self._scale = torch.zeros(0)  # on the device; see _begin
        self._rows: list[Tensor] = []  # of this rank; see _row
        self._worst = WorstImages(n)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_test_batch_end(  # type: ignore[override]  # Lightning types outputs as Tensor or Mapping
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageOutput,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._add(outputs, batch, dataloader_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, "test")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:  # not the validations of a fit
            self._begin(trainer, pl_module)

    on_validation_batch_end = on_test_batch_end  # type: ignore[assignment]  # as above

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, "val")

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._info = info = data_info(trainer, pl_module)
        self._shown = torch.tensor(shown_classes(info), dtype=torch.int64, device=pl_module.device)
        self._scale = target_scale(info).to(pl_module.device)
        self._rows, self._worst = [], WorstImages(self.n)

    def _add(self, outputs: ImageOutput, batch: ImageBatch, dataloader_idx: int) -> None:
        if self._info is None or dataloader_idx != 0:
            return
        found, targets = outputs["outputs"].detach().float(), batch["targets"].detach()
        self._rows.append(_row(found, targets, self._info.task, self._shown))
        scores, values = score_mistakes(found, targets, self._info.task, self._scale)
        self._worst.update(scores, batch["images"], values, batch["paths"])

    def _finish(self, trainer: Trainer, split: str) -> None:
        info, own = self._info, self._rows
        if info is None:
            return
        self._info, self._rows = None, []
        rows = gather_in_order(list(torch.cat(own).cpu().numpy()) if own else [])  # the one wait for the device
        worst = self._worst.gather()
        self._worst = WorstImages(self.n)
        if not trainer.is_global_zero or not rows:
            return
        try:
            drawn = _draw(np.stack(rows), info, self.run, split)
            drawn["mistakes"] = self.run.mistakes_picture
            draw_mistakes(worst, info, self.run.mistakes_picture)
        except OSError as error:
            print(f"{split} pictures were not written ({error.strerror}); the numbers are complete.", flush=True)
            return
        track_pictures(trainer, {f"{split}/{name}": path for name, path in drawn.items()}, trainer.global_step)
        _track_table(trainer, worst, info, f"{split}/mistakes_table")


def shown_classes(info: DataInfo) -> list[int]:
    """Labels whose probabilities are kept: all up to 100, else those with the most training images."""
    order = sorted(range(info.num_classes), key=lambda i: -info.class_counts[i])
    return sorted(order[:_MOST_CURVES])


def _row(outputs: Tensor, targets: Tensor, task: str, shown: Tensor) -> Tensor:
    """float32 [B, W], what is kept of each image.

    Classification: truth, predicted label, confidence, probabilities of the shown classes. Several labels: shown
    probabilities, shown truths. Regression: targets, values.
    """
    if task == "regression":
        return torch.cat([targets.float(), outputs], dim=1)
    part = outputs.index_select(1, shown)
    if task == "multilabel":
        return torch.cat([part, targets.float().index_select(1, shown)], dim=1)
    labels = targets if targets.dim() == 1 else targets.argmax(dim=1)
    confidence, predicted = outputs.max(dim=1)
    return torch.cat([labels.float()[:, None], predicted.float()[:, None], confidence[:, None], part], dim=1)


def _draw(rows: Floats, info: DataInfo, run: RunFolder, split: str) -> dict[str, Path]:
    """Draw what the task has, but for the mistakes; name of the panel -> file."""
    rows = np.nan_to_num(rows)
    if info.task == "regression":
        count = len(info.target_names)
        draw_scatter(rows[:, :count], rows[:, count:], info.target_names, run.scatter_picture, split)
        return {"scatter": run.scatter_picture}
    shown = shown_classes(info)
    names = [info.classes[i] for i in shown]
    of_which = (
        "" if len(shown) == info.num_classes else f"\nthe {len(shown)} most frequent of {info.num_classes} classes"
    )
    title = f"Precision over recall, {split} split (average precision in the legend){of_which}"
    drawn: Mapping[str, Path]
    if info.task == "multilabel":
        found, truth = rows[:, : len(shown)], rows[:, len(shown) :] > 0.5
        draw_class_bars(truth, found, names, run.per_class_picture, split)
        draw_reliability(
            found.reshape(-1),
            truth.reshape(-1),
            run.reliability_picture,
            title=f"Can probabilities be trusted? ({split} split, all labels)",
            xlabel="predicted probability of a label",
            ylabel="share of images that have it",
        )
        drawn = {"per_class": run.per_class_picture}
    else:
        labels, predicted = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
        found, truth = rows[:, 3:], labels[:, None] == np.array(shown)
        draw_class_confusion(labels, predicted, info.classes, run.confusion_picture, split)
        draw_reliability(
            rows[:, 2],
            labels == predicted,
            run.reliability_picture,
            title=f"Can confidence be trusted? ({split} split)",
        )
        drawn = {"confusion": run.confusion_picture}
    draw_class_curves(truth, found, names, shown, run.precision_recall_picture, title)
    return {**drawn, "pr_curves": run.precision_recall_picture, "reliability": run.reliability_picture}


def _track_table(trainer: Trainer, worst: list[WorstImage], info: DataInfo, key: str) -> None:
    rows = [[w.image, w.path, *cells] for w, cells in zip(worst, describe_mistakes(worst, info), strict=True)]
    for logger in trainer.loggers:
        if isinstance(logger, TableTracker) and rows:
            logger.log_table(key, ["image", "file", *mistake_columns(info)], rows, trainer.global_step)
