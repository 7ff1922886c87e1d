"""What the rooms hand to one another: facts about the data, batches, predictions.

Tasks, data, callbacks and runs never import each other; they meet in these types, which Lightning carries between them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NotRequired, TypedDict

from torch import Tensor

__all__ = [
    "DataInfo",
    "DetectionBatch",
    "DetectionOutput",
    "DetectionTarget",
    "ImageBatch",
    "ImageOutput",
    "Prediction",
    "Verdict",
    "evaluation_side",
]


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What a part may need to know about the data: made by the datamodule, handed on by the task through ``bind``.

    Attributes:
        task: ``"detection"``, ``"classification"`` (one label an image), ``"multilabel"`` or ``"regression"``.
        classes: class names; position = contiguous label. Empty for regression.
        category_ids: the data set's own id of each class, in the order of ``classes`` (COCO's 1..90 with gaps).
        class_counts: objects (detection) or images (classification) of each class in the training split.
        num_train: images in the training split.
        max_objects: most objects in one image, over all splits (detection; 0 otherwise).
        image_size: longest image side in pixels after the evaluation transform; classification and regression: both
            sides.
        shortest_side: shorter image side in pixels after it, unless the longer one would exceed ``image_size`` then
            (DETR: 800, at most 1333); None: the longer side is always ``image_size``.
        image_shape: (height, width) that most training images have after it (detection); empty: nobody looked.
        mean, std: per channel, for images scaled to 0..1; applied on the device.
        crop_fraction: classification and regression: evaluation scales the shorter side to ``image_size /
            crop_fraction``, rounded down (`evaluation_side`), and takes the central square.
        target_names: of the numbers to predict (regression).
        target_mean, target_std: of each of them in the training split (regression).
        target_min, target_max: the least and the largest of each there (regression); empty: nobody looked.
        outputs_per_target: numbers that the loss wants for each of them: 2 for a mean and a log-variance (regression).
        link: what the loss was learning, ``"softmax"``, ``"sigmoid"`` or ``"tempered:T"`` (classification).
        pixel_mean, pixel_std: of the training pictures themselves, per channel, scaled to 0..1, whatever they are
            normalised by; empty: nobody looked.
    """

    task: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    class_counts: tuple[int, ...]
    num_train: int
    max_objects: int
    image_size: int
    shortest_side: int | None = None
    image_shape: tuple[int, ...] = ()
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_fraction: float = 1.0
    target_names: tuple[str, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
    outputs_per_target: int = 1
    link: str = "softmax"
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()
    target_min: tuple[float, ...] = ()
    target_max: tuple[float, ...] = ()

    @property
    def num_classes(self) -> int:
        """0 for regression."""
        return len(self.classes)

    @property
    def num_outputs(self) -> int:
        """Width of a classifier's or regressor's last layer."""
        return len(self.target_names) * self.outputs_per_target if self.task == "regression" else self.num_classes

    def to_dict(self) -> dict[str, Any]:
        """Primitives only, for a checkpoint."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataInfo:
        """From the primitives of ``to_dict``."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


class DetectionTarget(TypedDict):
    """Ground truth of one image.

    Keys:
        labels: int64 [n], contiguous.
        boxes: float32 [n, 4], (cx, cy, w, h) relative to the unpadded image, in 0..1.
        area: float32 [n], in pixels of the original image (COCO's own ``area`` where the data has one).
        iscrowd: bool [n]; always False in training (crowd regions are left out there).
    """

    labels: Tensor
    boxes: Tensor
    area: Tensor
    iscrowd: Tensor


class DetectionBatch(TypedDict):
    """One collated batch.

    Keys:
        images: uint8 [B, 3, H, W], RGB, zero-padded on the right and bottom, then to multiples of 32.
        mask: bool [B, H, W], True = padding; None if no image of the batch is padded.
        targets: B targets.
        image_ids: B positions in the split's record list.
        paths: B file names (or ``scene:SPLIT:INDEX``), for error messages and pictures.
        sizes: int64 [B, 2], (height, width) of each image inside the batch, without padding.
        orig_sizes: int64 [B, 2], (height, width) of each original image file.
    """

    images: Tensor
    mask: Tensor | None
    targets: list[DetectionTarget]
    image_ids: list[int]
    paths: list[str]
    sizes: Tensor
    orig_sizes: Tensor


class Prediction(TypedDict):
    """Detections in one image, best first.

    Keys:
        scores: float32 [k], in 0..1, descending.
        labels: int64 [k], contiguous.
        boxes: float32 [k, 4], (x1, y1, x2, y2) in pixels of the original image.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor


class DetectionOutput(TypedDict):
    """What ``DetectionTask.validation_step`` and ``test_step`` return, so that callbacks can see predictions.

    Keys:
        loss: scalar.
        predictions: one per image of the batch.
    """

    loss: Tensor
    predictions: list[Prediction]


class ImageBatch(TypedDict):
    """One batch of whole images with targets: classification and regression.

    Keys:
        images: uint8 [B, 3, S, S], RGB; float32 in 0..255 after mixing on the device.
        targets: int64 [B], contiguous labels; float32 [B, C], soft labels (rows sum to 1) after mixing; float32 [B, C],
            0 or 1 (multilabel); float32 [B, T] in the data's own units (regression).
        weights: float32 [B], how much each sample counts in the loss; None: all the same.
        index: int64 [B], positions in the split.
        draw: int64 [B], what the samples' random numbers follow from beside the epoch: ``index + k * n`` for the k-th
            further copy of an image that comes several times in an epoch. Without it: ``index``.
        epoch: which the batch belongs to; 0 in evaluation.
        paths: B file names, for error messages and pictures.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor | None
    index: Tensor
    draw: NotRequired[Tensor]
    epoch: int
    paths: list[str]


class ImageOutput(TypedDict):
    """What the ``validation_step`` and ``test_step`` of classification and regression return, for callbacks to see.

    Keys:
        loss: scalar.
        outputs: float32; probabilities [B, C] (classification, multilabel) or values [B, T] in the data's own units.
    """

    loss: Tensor
    outputs: Tensor


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a callback found out about a run: printed when it is found, and again in the report.

    A callback that judges has ``verdicts``, a list of what it has found so far.

    Attributes:
        source: who says so: ``"fit doctor"``.
        title: the finding in a few words: ``"over-fitting"``.
        level: ``"ok"``: looked at, nothing wrong; ``"advice"``: could be better; ``"warning"``: do not trust the run.
        evidence: one sentence with the numbers that it rests on.
        advice: one sentence: what to do; empty where there is nothing to do.
    """

    source: str
    title: str
    level: Literal["ok", "advice", "warning"]
    evidence: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f" {self.advice}" if self.advice else ""
        return f"{self.level}: {self.source}: {self.title}: {self.evidence}{advice}"


def evaluation_side(image_size: int, crop_fraction: float) -> int:
    """Pixels of the shorter side before the central crop.

    Example:
        >>> evaluation_side(224, 0.875), evaluation_side(48, 0.875)
        (256, 54)
    """
    return math.floor(image_size / crop_fraction)
