"""Properties of images that people have words for: what a report can name when data has shifted."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PROPERTIES", "image_properties"]

#: the columns of ``image_properties``
PROPERTIES = (
    "brightness",
    "contrast",
    "sharpness",
    "noise",
    "saturation",
    "red share",
    "green share",
    "blue share",
    "aspect ratio",
)

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_LAPLACE = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
_NOISE = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))  # Immerkær, 1996: blind to edges and slopes
_NOISE_GAIN = 6.0  # root of the sum of its squares: the deviation of its answer to noise of deviation 1
_PIXELS = 1 << 24  # of one piece: 64 MiB of a float32 channel


@torch.no_grad()
def image_properties(images: Tensor, sizes: Tensor | None = None) -> Tensor:
    r"""Nine numbers of each image, on its device.

    * brightness: mean luma, 0 to 1.
    * contrast: standard deviation of luma.
    * sharpness: standard deviation of luma's Laplacian over the contrast, so that less contrast is not less sharp.
    * noise: :math:`\sqrt{π/2}` times the mean of :math:`|I * N| / 6` (Immerkær, 1996): the deviation of white noise.
    * saturation: mean of (max − min) / max over the channels of a pixel, HSV's.
    * red, green, blue share: the channel's part in the sum of all, which brightness does not change.
    * aspect ratio: width over height.

    Args:
        images: uint8 [B, 3, H, W], RGB, of at least 3 × 3 pixels.
        sizes: int [B, 2], (height, width) of the original files; None: those of ``images``.

    Returns:
        float32 [B, 9], the columns of ``PROPERTIES``.

    Raises:
        ValueError: images of another kind or smaller, sizes of another shape.

    Example:
        >>> grey = torch.full((1, 3, 4, 8), 51, dtype=torch.uint8)
        >>> [round(value, 3) for value in image_properties(grey)[0].tolist()]
        [0.2, 0.0, 0.0, 0.0, 0.0, 0.333, 0.333, 0.333, 2.0]
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 3:
        raise ValueError(f"images must be uint8 [B, 3, H, W] of at least 3 × 3, got {images.dtype} {[*images.shape]}")
    if sizes is not None and tuple(sizes.shape) != (len(images), 2):
        raise ValueError(f"sizes must be [{len(images)}, 2], (height, width) of each image, got {list(sizes.shape)}")
    height, width = images.shape[2:]
    step = max(1, _PIXELS // (height * width))
    found = torch.cat([_measure(images[start : start + step]) for start in range(0, len(images), step)] or [_none()])
    if sizes is None:
        ratio = torch.full((len(images), 1), width / height, device=images.device)
    else:
        ratio = (sizes[:, 1:] / sizes[:, :1]).to(images.device, torch.float32)
    return torch.cat((found.to(images.device), ratio), 1)


def _none() -> Tensor:
    return torch.zeros(0, len(PROPERTIES) - 1)


def _measure(images: Tensor) -> Tensor:
    """float32 [B, 8]: all but the aspect ratio."""
    levels = images.float() / 255
    luma = (levels * levels.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    filters = torch.stack([luma.new_tensor(_LAPLACE), luma.new_tensor(_NOISE)])[:, None]
    edges, residue = F.conv2d(luma, filters).unbind(1)
    contrast = luma.flatten(1).std(1, correction=0)
    sharpness = edges.flatten(1).std(1, correction=0) / contrast.clamp(min=1 / 255)  # of a level: nothing to see
    noise = residue.abs().mean((1, 2)) * (math.sqrt(math.pi / 2) / _NOISE_GAIN)
    largest, smallest = levels.amax(1), levels.amin(1)
    saturation = ((largest - smallest) / largest.clamp(min=1 / 255)).mean((1, 2))
    channels = levels.mean((2, 3))
    total = channels.sum(1, keepdim=True)
    shares = torch.where(total > 0, channels / total.clamp(min=1e-9), 1 / 3)
    return torch.cat((torch.stack((luma.mean((1, 2, 3)), contrast, sharpness, noise, saturation), 1), shares), 1)
