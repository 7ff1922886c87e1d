"""Where a detector goes wrong: confusion matrix and precision over recall, drawn at the end of a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_area, box_iou

from dlrecipes.contracts import DetectionBatch, DetectionOutput, Prediction
from dlrecipes.functional.boxes import cxcywh_to_xyxy
from dlrecipes.ranks import gather_in_order
from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.pictures.plots import draw_confusion, draw_precision_recall
from dlrecipes.runs.pictures.sheets import data_info
from dlrecipes.runs.tracking.tracked import track_pictures

__all__ = ["DetectionConfusion", "DetectionCurves", "draw_detection_confusion"]


class DetectionConfusion(Metric):
    """Confusion matrix of a detector, with a row and a column for the background.

    Predictions from ``score_threshold`` on are matched to true boxes of any class, best score first, each to the free
    true box with the highest IoU, if that is ``iou_threshold`` or more. Rows are true classes, columns predicted ones;
    the last row counts predictions on background, the last column true boxes that were missed. Crowd regions count
    nowhere, and neither do predictions at least half inside one.

    Args:
        num_classes: K.
        iou_threshold: least overlap of a match.
        score_threshold: least score of a prediction that counts.

    ``compute`` returns int64 [K + 1, K + 1].
    """

    full_state_update = False
    matrix: Tensor

    def __init__(self, num_classes: int, iou_threshold: float = 0.5, score_threshold: float = 0.5) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        for name, value in (("iou_threshold", iou_threshold), ("score_threshold", score_threshold)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in 0..1, got {value}")
        self.num_classes = num_classes
        self.iou_threshold = iou_threshold
        self.score_threshold = score_threshold
        size = (num_classes + 1, num_classes + 1)
        self.add_state("matrix", torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Prediction, boxes: Tensor, labels: Tensor, iscrowd: Tensor) -> None:
        """Count one image.

        Args:
            prediction: best first.
            boxes: float32 [n, 4], true boxes (x1, y1, x2, y2) in the same pixels.
            labels: int64 [n].
            iscrowd: bool [n].
        """
        kept = prediction["scores"] >= self.score_threshold
        found, found_labels = prediction["boxes"][kept].cpu().float(), prediction["labels"][kept].tolist()
        crowd, boxes, true_labels = boxes[iscrowd], boxes[~iscrowd], labels[~iscrowd].tolist()
        overlap = box_iou(found, boxes)
        ignored = _share_inside(found, crowd) >= 0.5
        free = torch.ones(len(boxes), dtype=torch.bool)
        background = self.num_classes
        counts = torch.zeros(background + 1, background + 1, dtype=torch.int64)
        for i, label in enumerate(found_labels):
            candidates = overlap[i] * free
            best = int(candidates.argmax()) if len(boxes) else -1
            if best >= 0 and free[best] and candidates[best] >= self.iou_threshold:
                free[best] = False
                counts[true_labels[best], label] += 1
            elif not ignored[i]:
                counts[background, label] += 1
        for j, label in enumerate(true_labels):
            if free[j]:
                counts[label, background] += 1
        self.matrix += counts.to(self.matrix.device)

    def compute(self) -> Tensor:
        return self.matrix


def _share_inside(boxes: Tensor, regions: Tensor) -> Tensor:
    """float [n]: the largest share of each box's area that lies in one region; 0 without regions."""
    if not len(regions) or not len(boxes):
        return torch.zeros(len(boxes))
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    common = (high - low).clamp(min=0).prod(dim=-1)
    share: Tensor = (common / box_area(boxes).clamp(min=1e-9)[:, None]).amax(dim=1)
    return share


class DetectionCurves(Callback):
    """At the end of a test, writes ``confusion.png`` and ``pr_curves.png`` (precision over recall at IoU .5).

    Exact on several devices: what each rank has seen is put together.

    Args:
        run: the folder for the pictures.
        score_threshold: least score of a prediction in the confusion matrix.
    """

    def __init__(self, run: RunFolder, score_threshold: float = 0.5) -> None:
        self.run = run
        self.score_threshold = score_threshold
        self._confusion: DetectionConfusion | None = None
        self._seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []  # predictions and truth, of this rank

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = data_info(trainer, pl_module).classes
        self._confusion = DetectionConfusion(len(names), 0.5, self.score_threshold).to(pl_module.device)
        self._seen = []

    def on_test_batch_end(  # type: ignore[override]  # Lightning types outputs as Tensor or Mapping
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: DetectionOutput,
        batch: DetectionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._confusion is None:
            return
        for prediction, target, size in zip(
            outputs["predictions"], batch["targets"], batch["orig_sizes"].tolist(), strict=True
        ):
            height, width = size
            boxes = cxcywh_to_xyxy(target["boxes"].cpu().float()) * torch.tensor([width, height, width, height])
            labels, iscrowd = target["labels"].cpu(), target["iscrowd"].cpu()
            self._confusion.update(prediction, boxes, labels, iscrowd)
            found = {name: prediction[name].cpu() for name in ("boxes", "scores", "labels")}
            self._seen.append((found, {"boxes": boxes, "labels": labels, "iscrowd": iscrowd.long()}))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._confusion is None:
            return
        matrix = self._confusion.compute().cpu()
        seen = gather_in_order(self._seen)
        self._confusion, self._seen = None, []
        if not trainer.is_global_zero:
            return
        metric = MeanAveragePrecision(
            iou_thresholds=[0.5],
            extended_summary=True,
            class_metrics=True,
            backend="faster_coco_eval",
            sync_on_compute=False,
        )
        metric.warn_on_many_detections = False
        metric.update([found for found, _ in seen], [truth for _, truth in seen])
        values = metric.compute()
        names = data_info(trainer, pl_module).classes
        # [IoU thresholds, 101 recalls, classes, areas, most detections]: IoU .5, all sizes, most detections
        precision = values["precision"][0, :, :, 0, -1].T.cpu()
        found = values["classes"].reshape(-1).tolist()
        try:
            draw_detection_confusion(matrix, names, self.run.confusion_picture, self.score_threshold)
            draw_precision_recall(
                precision,
                [names[i] for i in found],
                found,
                self.run.precision_recall_picture,
                title="Precision over recall at IoU 0.5 (AP50 in the legend)",
            )
        except OSError as error:
            print(f"test pictures were not written ({error.strerror}); the numbers are complete.", flush=True)
        drawn = {"test/confusion": self.run.confusion_picture, "test/pr_curves": self.run.precision_recall_picture}
        track_pictures(trainer, drawn, trainer.global_step)


def draw_detection_confusion(
    matrix: Tensor, classes: Sequence[str], path: str | Path, score_threshold: float = 0.5
) -> None:
    """Draw the matrix of :class:`DetectionConfusion`.

    Args:
        matrix: int64 [K + 1, K + 1], background last.
        classes: K names.
        path: PNG to write.
        score_threshold: least score of the predictions in it, for the title.
    """
    names = [*classes, "background"]
    draw_confusion(
        matrix,
        names,
        names,
        path,
        title=f"Confusion at score ≥ {score_threshold:g}, IoU ≥ 0.5",
        xlabel="predicted (background: missed)",
        ylabel="true (background: nothing there)",
    )
