"""A detector that gives every image the same boxes is noticed while it trains, not after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchvision.ops import box_iou

from dlrecipes.contracts import DetectionBatch, DetectionOutput
from dlrecipes.functional.boxes import cxcywh_to_xyxy

__all__ = ["ConstantPredictions", "agreement"]

_SAME_SCORE = 0.02


class ConstantPredictions(pl.Callback):
    r"""Warns where a detector ignores its images: all of them get the same boxes, classes and scores.

    The commonest way in which a DETR does not learn: the decoder answers from its queries alone, with the average
    layout of the training images. Losses fall for a while, and mAP stays near 0.

    At each validation the best boxes of the first images are compared, in units of the image: image i with image i + 1,
    by :func:`agreement`. The detector is ill if its least agreement over all pairs is at least ``threshold``, while the
    true boxes differ: a camera that always sees the same is no illness. Every detector begins ill, so it is said at the
    second validation in a row, or at the last one, and once.

    On several devices rank 0 judges by its own images. No number is taken from the device that was not there before.

    Args:
        images: how many are compared, 2 or more.
        top: best boxes of each image.
        threshold: of the agreement, 0..1.
        patience: ill validations in a row before it is said.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> trainer = pl.Trainer(callbacks=[ConstantPredictions()], logger=False)
    """

    def __init__(self, images: int = 16, top: int = 10, threshold: float = 0.9, patience: int = 2) -> None:
        for name, value, least in (("images", images, 2), ("top", top, 1), ("patience", patience, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
        self.images = images
        self.top = top
        self.threshold = threshold
        self.patience = patience
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []
        self._true: list[tuple[Tensor, Tensor, Tensor]] = []
        self._ill = 0
        self._said = False

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._found, self._true = [], []

    def on_validation_batch_end(  # type: ignore[override]  # Lightning types outputs as Tensor or Mapping
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: DetectionOutput | None,
        batch: DetectionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._said or not trainer.is_global_zero or trainer.sanity_checking or len(self._found) >= self.images:
            return
        if not isinstance(outputs, Mapping) or "predictions" not in outputs:  # a task of the user's keeps them
            return
        sizes = batch["orig_sizes"].cpu()
        for prediction, target, size in zip(outputs["predictions"], batch["targets"], sizes, strict=True):
            scale = size.flip(0).repeat(2)  # width, height, width, height
            boxes = prediction["boxes"][: self.top].cpu().float() / scale
            self._found.append((boxes, prediction["labels"][: self.top].cpu(), prediction["scores"][: self.top].cpu()))
            true = cxcywh_to_xyxy(target["boxes"].cpu().float())
            self._true.append((true, target["labels"].cpu(), torch.ones(len(true))))
        del self._found[self.images :], self._true[self.images :]

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._said or trainer.state.fn != TrainerFn.FITTING or len(self._found) < 2:
            return
        constant = _least_agreement(self._found) >= self.threshold > _least_agreement(self._true)
        self._ill = self._ill + 1 if constant else 0
        last = trainer.max_epochs is not None and trainer.current_epoch + 1 >= trainer.max_epochs > 0
        if self._ill >= self.patience or (constant and last):
            self._said = True
            print(f"warning: {self._advice()}", flush=True)

    def _advice(self) -> str:
        return (
            f"the {len(self._found)} validation images that were compared get the same boxes, classes and scores, so "
            "the detector ignores what it sees: if that stays so, look at batch.png, lower --lr, start from pretrained "
            "weights (--init, --pretrained), or see whether it can learn 8 images by heart (--overfit 8)."
        )


def agreement(one: tuple[Tensor, Tensor, Tensor], other: tuple[Tensor, Tensor, Tensor]) -> float:
    """How far two images have the same detections: mean IoU of each box of both with the best of the other that has its
    class and, within .02, its score.

    Args:
        one, other: boxes float32 [k, 4] (x1, y1, x2, y2) relative to the image, labels int64 [k], scores [k].

    Returns:
        0..1; 1 for the same detections in any order, and for two images without any.

    Example:
        >>> box, label = torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([1])
        >>> half = torch.tensor([[0.0, 0.0, 0.5, 0.25]])
        >>> agreement((box, label, torch.tensor([0.9])), (half, label, torch.tensor([0.91])))
        0.5
        >>> agreement((box, label, torch.tensor([0.9])), (box, label, torch.tensor([0.2])))
        0.0
    """
    (boxes, labels, scores), (boxes2, labels2, scores2) = one, other
    if not len(boxes) or not len(boxes2):
        return float(len(boxes) == len(boxes2))
    same = (labels[:, None] == labels2) & ((scores[:, None] - scores2).abs() <= _SAME_SCORE)
    overlap = box_iou(boxes, boxes2) * same
    return float(torch.cat((overlap.amax(1), overlap.amax(0))).mean())


def _least_agreement(images: Sequence[tuple[Tensor, Tensor, Tensor]]) -> float:
    return min(agreement(one, other) for one, other in pairwise(images))
