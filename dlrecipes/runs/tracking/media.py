"""Pictures and tables as W&B wants them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    import wandb

    from dlrecipes.runs.pictures.tiles import DetectionPicture
    from dlrecipes.runs.tracking.tracked import Picture

__all__ = ["to_wandb_boxes", "to_wandb_image", "to_wandb_table"]

_MAX_BOXES = 50


def to_wandb_image(image: Picture, caption: str | None = None) -> wandb.Image:
    """A picture with a text under it."""
    import wandb

    if isinstance(image, Tensor):
        return wandb.Image(_pixels(image), caption=caption)
    return wandb.Image(image if isinstance(image, Image.Image) else os.fspath(image), caption=caption)


def to_wandb_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> wandb.Table:
    """A table; PIL images and tensors become pictures, the rest stays as it is."""
    import wandb

    cells = [[to_wandb_image(v) if isinstance(v, Tensor | Image.Image) else v for v in row] for row in rows]
    return wandb.Table(columns=list(columns), data=cells)


def to_wandb_boxes(picture: DetectionPicture, classes: Sequence[str]) -> wandb.Image:
    """An image with layers of true and of predicted boxes."""
    import wandb

    names = dict(enumerate(classes))
    true = [
        _box(box, label, names[label], None)
        for box, label in zip(picture.true_boxes.tolist(), picture.true_labels.tolist(), strict=True)
    ]
    rows = zip(picture.boxes.tolist(), picture.labels.tolist(), picture.scores.tolist(), strict=True)
    predicted = [_box(box, label, f"{names[label]} {score:.2f}", score) for box, label, score in rows][:_MAX_BOXES]
    return wandb.Image(
        _pixels(picture.image),
        caption=picture.title,
        boxes={
            "ground_truth": {"box_data": true, "class_labels": names},
            "predictions": {"box_data": predicted, "class_labels": names},
        },
    )


def _box(box: Sequence[float], label: int, caption: str, score: float | None) -> dict[str, Any]:
    corners = dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True))
    row: dict[str, Any] = {"position": corners, "domain": "pixel", "class_id": label, "box_caption": caption}
    return row if score is None else {**row, "scores": {"score": score}}


def _pixels(image: Tensor) -> Any:
    return image.permute(1, 2, 0).to(torch.uint8).cpu().numpy()
