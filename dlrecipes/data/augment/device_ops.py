"""What changes a batch of pictures, each by its own numbers: pure tensor functions for any device.

Nothing waits for the device, and a picture's result does not depend on the others in its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["BORDERS", "Colours", "change_colours", "inside", "rectangle", "shift_and_mirror", "to_bytes", "warp"]

BORDERS = ("reflect", "zero")
"""What lies outside a picture: its mirror image, or black."""

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow


def to_bytes(images: Tensor) -> Tensor:
    """Rounded and clipped to uint8; bytes stay as they are."""
    return images if images.dtype == torch.uint8 else images.round().clamp_(0.0, 255.0).to(torch.uint8)


def shift_and_mirror(images: Tensor, shift: Tensor, mirror: Tensor, *, border: str = "reflect") -> Tensor:
    """Move each picture by whole pixels, then mirror some: padding, random crop and random flip in one copy.

    Args:
        images: [B, C, H, W], any dtype.
        shift: int64 [B, 2], rows and columns: pixel (y, x) of the result is (y + rows, x + columns) of the picture;
            each less than the side.
        mirror: bool [B], left to right.
        border: one of `BORDERS`; the last pixel is not repeated.

    Returns:
        [B, C, H, W], in memory as [B, H, W, C].

    Example:
        >>> row = torch.tensor([[[[1, 2, 3, 4]]]])
        >>> shift_and_mirror(row, torch.tensor([[0, 1]]), torch.tensor([False])).flatten().tolist()
        [2, 3, 4, 3]
    """
    batch, channels, height, width = images.shape
    shift = shift.to(torch.int32)  # half of the memory for the look-ups below
    rows = torch.arange(height, dtype=torch.int32, device=images.device) + shift[:, :1]
    columns = torch.arange(width, dtype=torch.int32, device=images.device) + shift[:, 1:]
    columns = torch.where(mirror[:, None], columns.flip(1), columns)
    first = torch.arange(0, batch * height, height, dtype=torch.int32, device=images.device)[:, None]
    pixel = ((first + _reflected(rows, height)) * width)[:, :, None] + _reflected(columns, width)[:, None, :]
    # Whole pixels are copied: a third of the look-ups, and no copy beforehand where channels come last already.
    pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)
    moved = pixels.index_select(0, pixel.flatten()).view(batch, height, width, channels).permute(0, 3, 1, 2)
    if border == "reflect":
        return moved
    known = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    return torch.where(known, moved, 0)


def _reflected(position: Tensor, length: int) -> Tensor:
    return length - 1 - (length - 1 - position.abs()).abs()


def warp(images: Tensor, matrix: Tensor, shift: Tensor, *, border: str = "reflect") -> Tensor:
    """Resample each picture bilinearly under a linear map about its centre.

    Args:
        images: float [B, C, H, W].
        matrix: float [B, 2, 2]; position p of the result, (x, y) in pixels from the centre, is matrix · p + shift of
            the picture.
        shift: float [B, 2], (x, y) in pixels.
        border: one of `BORDERS`; a reflection repeats the last pixel.

    Returns:
        float [B, C, H, W].
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device, dtype=torch.float32)[None, None, :] + (0.5 - width / 2)
    y = torch.arange(height, device=images.device, dtype=torch.float32)[None, :, None] + (0.5 - height / 2)
    # Written out: a matrix product would sum in another order for another batch size.
    m, t = matrix[:, :, :, None, None], shift[:, :, None, None]
    grid_x = (m[:, 0, 0] * x + m[:, 0, 1] * y + t[:, 0]) * (2.0 / width)
    grid_y = (m[:, 1, 0] * x + m[:, 1, 1] * y + t[:, 1]) * (2.0 / height)
    mode = "zeros" if border == "zero" else "reflection"
    return F.grid_sample(
        images, torch.stack([grid_x, grid_y], dim=-1), mode="bilinear", padding_mode=mode, align_corners=False
    )


@dataclass(frozen=True)
class Colours:
    """How far each picture's colours change; float [B] each, 0: not at all.

    Attributes:
        brightness, contrast, saturation: the factor minus 1, as in Pillow's ``ImageEnhance``: away from black, from the
            mean grey, from grey.
        solarise: 0..1; pixels above ``256 (1 − solarise)`` are inverted.
        stretch: 0..1, towards each channel's full range.
    """

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    solarise: Tensor
    stretch: Tensor


def change_colours(images: Tensor, original: Tensor, change: Colours) -> Tensor:
    """All changes of `Colours` but ``solarise`` are linear in the pixels: one sum, clipped to 0..255, then that.

    Args:
        images: float [B, 3, H, W] in 0..255.
        original: float [B, 3, H, W], the pictures whose mean and range count. Whole numbers in 0..255 have a sum that
            is exact in float32 in whichever order it is taken, up to 256 × 256 of them.
        change: see there.

    Returns:
        float [B, 3, H, W] in 0..255.
    """
    means = original.sum(dim=(2, 3)) / (original.shape[-2] * original.shape[-1])
    mean = means[:, 0] * _GREY[0] + means[:, 1] * _GREY[1] + means[:, 2] * _GREY[2]
    low, high = original.amin(dim=(2, 3)), original.amax(dim=(2, 3))
    scale = 255.0 / (high - low).clamp_min(1.0)
    stretch = change.stretch[:, None]
    gain = (1.0 + change.brightness + change.contrast + change.saturation)[:, None]
    gain = (gain + stretch * (scale - 1.0))[:, :, None, None]
    offset = (-(change.contrast * mean)[:, None] - stretch * low * scale)[:, :, None, None]
    grey = images[:, :1] * _GREY[0] + images[:, 1:2] * _GREY[1] + images[:, 2:] * _GREY[2]
    out = (images * gain).add_(offset).addcmul_(grey, _each(change.saturation), value=-1.0).clamp_(0.0, 255.0)
    return torch.where(out >= 256.0 * (1.0 - _each(change.solarise)), 255.0 - out, out)


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def rectangle(area: Tensor, aspect: Tensor, y: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Rectangles of whole pixels that lie inside a picture.

    Args:
        area: float [B], part of the picture, 0..1.
        aspect: float [B], height by width, relative to the picture's own.
        y, x: float [B] in [0, 1), where among all places at which it fits.
        size: (height, width) of the picture.

    Returns:
        int64 [B, 4]: top, left, height, width. The area is right up to rounding, except where the rectangle would be
        higher or wider than the picture.

    Example:
        >>> half = torch.tensor([0.5])
        >>> rectangle(torch.tensor([0.25]), torch.tensor([1.0]), half, half, (8, 16)).tolist()
        [[2, 4, 4, 8]]
    """
    height, width = size
    h = (height * (area * aspect).sqrt()).round().clamp(max=height)
    w = (width * (area / aspect).sqrt()).round().clamp(max=width)
    top, left = (y * (height - h + 1.0)).floor(), (x * (width - w + 1.0)).floor()
    return torch.stack([top, left, h, w], dim=1).long()


def inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """bool [B, 1, H, W]: the pixels of each rectangle of `rectangle`."""
    top, left, height, width = (side[:, None] for side in boxes.unbind(1))
    rows, columns = (torch.arange(length, device=boxes.device) for length in size)
    high = (rows >= top) & (rows < top + height)
    wide = (columns >= left) & (columns < left + width)
    return (high[:, :, None] & wide[:, None, :])[:, None]
