"""Where a detector goes wrong: confusion matrix and precision over recall, drawn at the end of a test."""

from __future__ import annotations

import math
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
from dlrecipes.runs.curves import new_figure, save_figure
from dlrecipes.runs.detection_pictures import class_names
from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.pictures import class_color

__all__ = ["DetectionConfusion", "DetectionCurves", "draw_confusion", "draw_precision_recall"]

_MAX_CURVES = 20


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
        names = class_names(trainer, pl_module)
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
        names = class_names(trainer, pl_module)
        # [IoU thresholds, 101 recalls, classes, areas, most detections]: IoU .5, all sizes, most detections
        precision = values["precision"][0, :, :, 0, -1].T.cpu()
        found = values["classes"].reshape(-1).tolist()
        try:
            draw_confusion(matrix, names, self.run.confusion_picture)
            draw_precision_recall(precision, [names[i] for i in found], found, self.run.precision_recall_picture)
        except OSError as error:
            print(f"test pictures were not written ({error.strerror}); the numbers are complete.", flush=True)


def draw_confusion(matrix: Tensor, classes: Sequence[str], path: str | Path) -> None:
    """Draw a confusion matrix, coloured by the share of each true class.

    Args:
        matrix: int64 [K + 1, K + 1], rows true, columns predicted, background last.
        classes: K names.
        path: PNG to write.
    """
    names = [*classes, "background"]
    share = matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)
    side = min(24.0, max(5.5, 0.62 * len(names) + 2.5))
    figure = new_figure(side + 1.0, side)
    axes = figure.add_subplot()
    image = axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the row", shrink=0.8)
    size = 11 if len(names) <= 30 else max(4, 330 // len(names))
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 8 else 30, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_xlabel("predicted (background: missed)", fontsize=13)
    axes.set_ylabel("true (background: nothing there)", fontsize=13)
    axes.set_title("Confusion at IoU ≥ 0.5", fontsize=15)
    if len(names) <= 40:
        for i, row in enumerate(matrix.tolist()):
            for j, count in enumerate(row):
                if count:
                    ink = "white" if share[i, j] > 0.5 else "black"
                    axes.text(j, i, str(count), ha="center", va="center", color=ink, fontsize=size)
    save_figure(figure, path)


def draw_precision_recall(precision: Tensor, classes: Sequence[str], labels: Sequence[int], path: str | Path) -> None:
    """Draw precision over recall, a curve for each class (the 20 worst where there are more) and their mean.

    Args:
        precision: float [K, R], precision at R equally spaced recalls 0..1; -1 for a class without true boxes.
        classes: K names.
        labels: K labels, for the colours.
        path: PNG to write.
    """
    recall = torch.linspace(0, 1, precision.shape[1])
    known = [i for i in range(len(classes)) if (precision[i] >= 0).all()]
    shown = sorted(known, key=lambda i: float(precision[i].mean()))[:_MAX_CURVES]
    figure = new_figure(9.5, 6.0)
    axes = figure.add_subplot()
    for i in sorted(shown):
        color = tuple(c / 255 for c in class_color(labels[i]))
        axes.plot(recall, precision[i], linewidth=1.6, color=color, label=f"{classes[i]}  {precision[i].mean():.3f}")
    if known:
        mean = precision[known].mean(dim=0)
        axes.plot(recall, mean, linewidth=3.5, color="black", label=f"mean of {len(known)}  {mean.mean():.3f}")
        title = "Precision over recall at IoU 0.5 (AP50 in the legend)"
    else:
        title = "Precision over recall: no true boxes"
    axes.set_title(title, fontsize=15)
    axes.set_xlabel("recall", fontsize=13)
    axes.set_ylabel("precision", fontsize=13)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    if known:
        axes.legend(fontsize=11, loc="center left", bbox_to_anchor=(1.01, 0.5), ncols=math.ceil((len(shown) + 1) / 21))
    save_figure(figure, path)
