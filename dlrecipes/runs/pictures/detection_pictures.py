"""Callbacks that show a person what a detector is fed and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor

from dlrecipes.contracts import DataInfo, DetectionBatch, DetectionOutput, Prediction
from dlrecipes.functional.boxes import cxcywh_to_xyxy
from dlrecipes.functional.words import counted
from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.pictures.sheets import BatchSheet, ValidationSheets
from dlrecipes.runs.pictures.tiles import TRUE_COLOR, DetectionPicture, class_color, draw_tile

__all__ = ["DetectionTracker", "PredictionPictures", "TrainBatchPicture", "picture_of"]

_PADDING = 128  # grey, to be told from black parts of an image
_MIN_TRACKED_SCORE = 0.05
_PAIR_SIDE = 320


@runtime_checkable
class DetectionTracker(Protocol):
    """A Lightning logger that takes pictures with boxes; ``WandbTracker`` is one, and a user's own may be."""

    def log_detections(
        self, key: str, pictures: Sequence[DetectionPicture], classes: Sequence[str], step: int | None = None
    ) -> None: ...


class TrainBatchPicture(BatchSheet):
    """Before step 0, saves the first training batch as the model will see it, with boxes and class names.

    Wrong boxes, swapped coordinates or a broken augmentation are seen here before an hour is spent on them. Padding is
    grey. Not drawn again on a resume.

    Args:
        run: the picture goes to ``batch.png`` in it, and to the trackers.
        n: most images to draw.
    """

    def tiles(self, batch: DetectionBatch, n: int, info: DataInfo) -> list[Image.Image]:
        """The padded images with their true boxes."""
        return [_truth_tile(batch, i, info.classes) for i in range(min(n, len(batch["targets"])))]


class PredictionPictures(ValidationSheets[DetectionPicture]):
    """At each validation, draws the same images with their true and predicted boxes, and hands them to the tracker.

    Each image is a pair: truth on the left, predictions above the threshold on the right. The images are the first of
    the validation split, so that one can leaf through the epochs. A long run is drawn about 50 times, evenly, and
    at its end.

    Args:
        run: pictures go to ``predictions/epoch_XXX.png`` in it, the first epoch being 1.
        n: images.
        score_threshold: predictions below it are not drawn; the tracker gets all from 0.05.
    """

    def __init__(self, run: RunFolder, n: int = 16, score_threshold: float = 0.5) -> None:
        super().__init__(run, n)
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must be in 0..1, got {score_threshold}")
        self.score_threshold = score_threshold

    def pick(self, batch: DetectionBatch, index: int, outputs: DetectionOutput) -> DetectionPicture:
        """One image with its true and predicted boxes."""
        return picture_of(batch, index, outputs["predictions"][index])

    def draw(self, pictures: Sequence[DetectionPicture], info: DataInfo) -> tuple[list[Image.Image], int]:
        """Pairs of tiles: truth, predictions."""
        tiles = [tile for picture in pictures for tile in _pair(picture, info.classes, self.score_threshold)]
        return tiles, 8 if len(pictures) > 4 else 4

    def track(self, trainer: Trainer, pictures: Sequence[DetectionPicture], info: DataInfo, step: int) -> None:
        """Boxes go to the tracker as numbers, so that it can draw them itself."""
        for logger in trainer.loggers:
            if isinstance(logger, DetectionTracker):
                logger.log_detections("val/predictions", pictures, info.classes, step)


def picture_of(batch: DetectionBatch, index: int, prediction: Prediction | None = None) -> DetectionPicture:
    """One image of a batch on the CPU, without padding, with its boxes in pixels of that image.

    Args:
        batch: on any device.
        index: of the image in it.
        prediction: boxes in pixels of the original image; those with a score below 0.05 are left out.
    """
    height, width = (int(v) for v in batch["sizes"][index])
    target = batch["targets"][index]
    picture = DetectionPicture(
        image=batch["images"][index, :, :height, :width].cpu(),
        title=Path(batch["paths"][index]).name,
        true_boxes=cxcywh_to_xyxy(target["boxes"].cpu().float()) * torch.tensor([width, height, width, height]),
        true_labels=target["labels"].cpu(),
    )
    if prediction is not None:
        original_height, original_width = (int(v) for v in batch["orig_sizes"][index])
        x, y = width / original_width, height / original_height
        kept = prediction["scores"].cpu() >= _MIN_TRACKED_SCORE
        picture.boxes = prediction["boxes"].cpu().float()[kept] * torch.tensor([x, y, x, y])
        picture.labels = prediction["labels"].cpu()[kept]
        picture.scores = prediction["scores"].cpu().float()[kept]
    return picture


def _truth_tile(batch: DetectionBatch, index: int, names: Sequence[str]) -> Image.Image:
    """The padded image, since the padding is part of what the model sees."""
    image = batch["images"][index].cpu().clone()
    if batch["mask"] is not None:
        image[:, batch["mask"][index].cpu()] = _PADDING
    picture = picture_of(batch, index)
    texts, colors = _labels(picture.true_labels, names)
    # small images are enlarged so that labels can be read, large ones made smaller so that the sheet stays usable
    side = min(max(400, max(image.shape[1:])), 640)
    return draw_tile(
        image, picture.true_boxes, texts, colors, f"{picture.title}  {counted(len(texts), 'box', 'boxes')}", side
    )


def _pair(picture: DetectionPicture, names: Sequence[str], threshold: float) -> list[Image.Image]:
    true_texts, _ = _labels(picture.true_labels, names)
    true_colors = [TRUE_COLOR] * len(true_texts)
    shown = picture.scores >= threshold
    texts, colors = _labels(picture.labels[shown], names)
    texts = [f"{text} {score:.2f}" for text, score in zip(texts, picture.scores[shown].tolist(), strict=True)]
    best = f", best {picture.scores.max():.2f}" if len(picture.scores) and not len(texts) else ""
    caption = f"{len(texts)} found ≥ {threshold:g}{best}"
    true_caption = f"{len(true_texts)} true  {picture.title}"
    return [
        draw_tile(picture.image, picture.true_boxes, true_texts, true_colors, true_caption, _PAIR_SIDE),
        draw_tile(picture.image, picture.boxes[shown], texts, colors, caption, _PAIR_SIDE),
    ]


def _labels(labels: Tensor, names: Sequence[str]) -> tuple[list[str], list[tuple[int, int, int]]]:
    values = labels.tolist()
    return [names[v] for v in values], [class_color(v) for v in values]
