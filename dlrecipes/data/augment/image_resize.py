"""Resize and crop of whole images: what evaluation does, on the host for files and on the device for small pictures.

Pillow's bicubic filter with torchvision's rounding: pixels are those of ``Resize(side, BICUBIC)`` and ``CenterCrop``,
with which pretrained networks were evaluated.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dlrecipes.contracts import evaluation_side

__all__ = [
    "crop_corner",
    "evaluation_batch",
    "evaluation_image",
    "resize_shorter",
    "scale_levels",
    "shorter_to",
]


def shorter_to(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) scaled so that the shorter one is ``side``; the longer one is rounded down, as in torchvision.

    Example:
        >>> shorter_to((333, 500), 256)
        (256, 384)
    """
    height, width = size
    return (side, side * width // height) if height <= width else (side * height // width, side)


def resize_shorter(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] with ``side`` pixels on its shorter side; the same array if it has them."""
    height, width = shorter_to((image.shape[0], image.shape[1]), side)
    if image.shape[:2] == (height, width):
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.uint8)


def crop_corner(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(top, left) of the central square of ``side`` pixels; halves are rounded to even, as in torchvision.

    Example:
        >>> crop_corner((256, 341), 224)
        (16, 58)
    """
    return round((size[0] - side) / 2.0), round((size[1] - side) / 2.0)


def evaluation_image(image: NDArray[np.uint8], image_size: int, crop_fraction: float) -> NDArray[np.uint8]:
    """uint8 [S, S, 3]: shorter side to ``image_size / crop_fraction``, then the central square of ``image_size``."""
    image = resize_shorter(image, evaluation_side(image_size, crop_fraction))
    top, left = crop_corner((image.shape[0], image.shape[1]), image_size)
    return image[top : top + image_size, left : left + image_size]


def scale_levels(images: Tensor, side: int) -> Tensor:
    """Levels 0..255, float [B, C, H, W], to whole levels, float [B, C, side, side], as Pillow does with bytes.

    It scales columns, then rows, and rounds and clips after each: where contrast is high, clipping once makes up to 20
    levels of difference.
    """
    for size in ((images.shape[-2], side), (side, side)):
        images = F.interpolate(images, size=size, mode="bicubic", antialias=True).round_().clamp_(0.0, 255.0)
    return images


def evaluation_batch(images: Tensor, image_size: int, crop_fraction: float) -> Tensor:
    """uint8 [B, 3, S, S] of square pictures uint8 [B, 3, H, H], on their device: what `evaluation_image` does.

    Equal to it within one level; pictures that have the size already are not touched.
    """
    side = evaluation_side(image_size, crop_fraction)
    if images.shape[-1] != side:
        if images.device.type == "cpu":  # a kernel for bytes, several times as fast; CUDA has none
            images = F.interpolate(images, size=(side, side), mode="bicubic", antialias=True)
        else:
            images = scale_levels(images.float(), side).to(torch.uint8)
    top, left = crop_corner((side, side), image_size)
    return images[..., top : top + image_size, left : left + image_size]
