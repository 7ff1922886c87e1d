"""Resize and crop of whole images: what evaluation does, on the host for files and on the device for small pictures.

Pillow's bicubic filter with torchvision's rounding: pixels are those of ``Resize(side, BICUBIC)`` and ``CenterCrop``,
with which pretrained networks were evaluated.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

__all__ = ["centre_crop", "evaluation_image", "evaluation_side", "resize_batch", "resize_shorter", "shorter_to"]


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


def centre_crop(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The central square of an image whose sides are both at least ``side``; a view."""
    top, left = (round((length - side) / 2.0) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def evaluation_side(image_size: int, crop_fraction: float) -> int:
    """Pixels of the shorter side before the central crop.

    Example:
        >>> evaluation_side(224, 0.875)
        256
    """
    return math.floor(image_size / crop_fraction)


def evaluation_image(image: NDArray[np.uint8], image_size: int, crop_fraction: float) -> NDArray[np.uint8]:
    """uint8 [S, S, 3]: shorter side to ``image_size / crop_fraction``, then the central square of ``image_size``."""
    return centre_crop(resize_shorter(image, evaluation_side(image_size, crop_fraction)), image_size)


def resize_batch(images: Tensor, side: int) -> Tensor:
    """uint8 [B, 3, side, side] of uint8 [B, 3, H, W], bicubic and anti-aliased, on the images' device.

    Equal to Pillow's filter within one level.
    """
    if images.shape[-2:] == (side, side):
        return images
    # On the CPU there is a kernel for bytes, several times as fast; CUDA has none.
    given = images if images.device.type == "cpu" else images.float()
    resized = F.interpolate(given, size=(side, side), mode="bicubic", antialias=True)
    return resized if resized.dtype == torch.uint8 else resized.round_().clamp_(0.0, 255.0).to(torch.uint8)
