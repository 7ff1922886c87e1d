"""From a list of samples to one `DetectionBatch`."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlrecipes.contracts import DetectionBatch, DetectionTarget

__all__ = ["DetectionSample", "collate_detection"]

_MULTIPLE = 32


class DetectionSample(TypedDict):
    """One transformed sample, before it is collated.

    Keys:
        image: uint8 [H, W, 3], RGB.
        boxes: float64 [n, 4], (x1, y1, x2, y2) in pixels of ``image``.
        labels: int64 [n].
        area: float64 [n], in pixels of the original picture.
        iscrowd: bool [n].
        image_id: position in the split's record list.
        path: file name or ``scene:SPLIT:INDEX``.
        orig_size: (height, width) of the original picture.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    area: NDArray[np.float64]
    iscrowd: NDArray[np.bool_]
    image_id: int
    path: str
    orig_size: tuple[int, int]


def collate_detection(samples: list[DetectionSample]) -> DetectionBatch:
    """Stack pictures, padding them on the right and bottom where sizes differ, and make boxes relative (cx, cy, w, h).

    A batch of equal sizes is not padded, whatever the size: its mask is None and attention needs none.

    Raises:
        ValueError: for an empty list.
    """
    if not samples:
        raise ValueError("samples must not be empty")
    sizes = [sample["image"].shape[:2] for sample in samples]
    images, mask = _stack([sample["image"] for sample in samples])
    return {
        "images": images,
        "mask": mask,
        "targets": [_target(sample) for sample in samples],
        "image_ids": [sample["image_id"] for sample in samples],
        "paths": [sample["path"] for sample in samples],
        "sizes": torch.tensor(sizes, dtype=torch.int64),
        "orig_sizes": torch.tensor([sample["orig_size"] for sample in samples], dtype=torch.int64),
    }


def _stack(pictures: list[NDArray[np.uint8]]) -> tuple[Tensor, Tensor | None]:
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) == 1:
        stacked = np.stack([picture.transpose(2, 0, 1) for picture in pictures])
        return torch.from_numpy(stacked), None
    height, width = (-(-max(side) // _MULTIPLE) * _MULTIPLE for side in zip(*sizes, strict=True))
    images = torch.zeros(len(pictures), 3, height, width, dtype=torch.uint8)
    mask = torch.ones(len(pictures), height, width, dtype=torch.bool)
    for image, padding, picture in zip(images.numpy(), mask, pictures, strict=True):
        h, w = picture.shape[:2]
        image[:, :h, :w] = picture.transpose(2, 0, 1)
        padding[:h, :w] = False
    return images, mask


def _target(sample: DetectionSample) -> DetectionTarget:
    height, width = sample["image"].shape[:2]
    low, high = sample["boxes"][:, :2], sample["boxes"][:, 2:]
    relative = np.concatenate([(low + high) / 2.0, high - low], axis=1) / np.array([width, height] * 2)
    return {
        "labels": torch.tensor(sample["labels"], dtype=torch.int64),
        "boxes": torch.tensor(relative, dtype=torch.float32),
        "area": torch.tensor(sample["area"], dtype=torch.float32),
        "iscrowd": torch.tensor(sample["iscrowd"], dtype=torch.bool),
    }
