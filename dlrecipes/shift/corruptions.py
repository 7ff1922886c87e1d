"""Images as a worse camera, a cheaper codec or another light would have made them, in five severities."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt"]

SEVERITIES = (1, 2, 3, 4, 5)
_SMALL_SIDE = 64  # pixels: up to here the parameters are those of CIFAR-10-C, above those of ImageNet-C
_MOST_ANGLE = math.pi / 4  # of motion blur, either way

Numbers = Mapping[str, float]
Change = Callable[[Tensor, Numbers, list[np.random.Generator]], Tensor]


def corrupt(images: Tensor, name: str, severity: int, index: Tensor | None = None, *, seed: int = 0) -> Tensor:
    """One corruption of a batch of images, as in CIFAR-10-C and ImageNet-C (Hendrycks and Dietterich, 2019,
    arXiv:1903.12261).

    The parameters of each severity are theirs: of CIFAR-10-C where the shorter side has at most 64 pixels, otherwise
    of ImageNet-C. Three things differ. Levels are rounded and not cut off. Motion blur is a line of Gaussian weights
    that begins at the pixel; severities 3 and 4 of small images are nearly one, there as here. ``saturation`` only
    takes colour away (to none in severity 5), because their five steps change direction and are no order.

    Args:
        images: uint8 [B, 3, H, W], RGB.
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        index: int64 [B], positions in the data set, which noise and angles follow from; None: 0 ... B − 1.
        seed: of noise and angles.

    Returns:
        uint8 [B, 3, H, W] on the same device, a function of each image, its index and the seed alone.

    Raises:
        ValueError: an unknown name or severity, images of another dtype or shape, an index of another length.

    Example:
        >>> images = torch.arange(0, 192, 16, dtype=torch.uint8).reshape(1, 3, 2, 2)
        >>> corrupt(images, "contrast", 5)[0, 0].tolist()
        [[20, 23], [25, 28]]
    """
    if name not in _CORRUPTIONS:
        raise ValueError(f"name={name!r}: choose one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity={severity}: choose one of 1 to 5")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be uint8 [B, 3, H, W], got {images.dtype} {list(images.shape)}")
    positions = range(len(images)) if index is None else index.tolist()
    if len(positions) != len(images):
        raise ValueError(f"index holds {len(positions)} positions for {len(images)} images")
    if len(images) == 0:
        return images.clone()
    found = _CORRUPTIONS[name]
    ladder = found.small if min(images.shape[-2:]) <= _SMALL_SIDE else found.large
    numbers = {key: values[severity - 1] for key, values in ladder.items()}
    generators = [np.random.default_rng([seed, position]) for position in positions]
    with torch.no_grad():
        changed = found.change(images, numbers, generators)
    return changed if changed.dtype == torch.uint8 else (255 * changed).round_().clamp_(0, 255).to(torch.uint8)


def _unit(images: Tensor) -> Tensor:
    return images.float() / 255


def _like(arrays: list[NDArray[np.float32]], images: Tensor) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(images.device)


def _gaussian_noise(images: Tensor, numbers: Numbers, generators: list[np.random.Generator]) -> Tensor:
    noise = [g.standard_normal(tuple(images.shape[1:]), dtype=np.float32) for g in generators]
    return _unit(images) + numbers["std"] * _like(noise, images)


def _shot_noise(images: Tensor, numbers: Numbers, generators: list[np.random.Generator]) -> Tensor:
    photons = numbers["photons"]  # of a white pixel
    levels = images.cpu().numpy() / 255.0
    counts = [g.poisson(image * photons).astype(np.float32) for g, image in zip(generators, levels, strict=True)]
    return _like(counts, images) / photons


def _gaussian_blur(images: Tensor, numbers: Numbers, generators: list[np.random.Generator]) -> Tensor:
    sigma = numbers["sigma"]
    line = _gaussian_line(int(4 * sigma + 0.5), sigma)  # as far as scipy and scikit-image go
    return _filter(_unit(images), torch.outer(line, line), "replicate")


def _defocus_blur(images: Tensor, numbers: Numbers, generators: list[np.random.Generator]) -> Tensor:
    radius, reach = numbers["radius"], math.ceil(numbers["radius"])
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    disk = (steps[:, None].square() + steps.square() <= radius**2).double()
    line = _gaussian_line(1 if radius <= 8 else 2, numbers["edge"])
    soft = F.conv2d((disk / disk.sum())[None, None], torch.outer(line, line)[None, None], padding=len(line) - 1)
    return _filter(_unit(images), soft[0, 0], "reflect")


def _motion_blur(images: Tensor, numbers: Numbers, generators: list[np.random.Generator]) -> Tensor:
    radius = int(numbers["radius"])
    angles = torch.tensor([g.uniform(-_MOST_ANGLE, _MOST_ANGLE) for g in generators], dtype=torch.float64)
    kernels = torch.stack([_streak(radius, numbers["sigma"], angle) for angle in angles.tolist()])
    return _filter(_unit(images), kernels, "replicate")


def _brightness(images: Tensor, numbers: Numbers, generators: list[np.random.Generator]) -> Tensor:
    """HSV's value is raised: hue and saturation stay, so each channel is scaled by the same factor."""
    levels = _unit(images)
    value = levels.amax(1, keepdim=True)
    raised = (value + numbers["added"]).clamp(max=1)
    return torch.where(value > 0, levels * (raised / value.clamp(min=1e-6)), raised)


def _contrast(images: Tensor, numbers: Numbers, generators: list[np.random.Generator]) -> Tensor:
    levels = _unit(images)
    return torch.lerp(levels.mean((2, 3), keepdim=True), levels, numbers["factor"])


def _saturation(images: Tensor, numbers: Numbers, generators: list[np.random.Generator]) -> Tensor:
    """HSV's saturation is scaled: each channel moves towards the largest."""
    levels = _unit(images)
    return torch.lerp(levels.amax(1, keepdim=True), levels, numbers["factor"])


def _pixelate(images: Tensor, numbers: Numbers, generators: list[np.random.Generator]) -> Tensor:
    height, width = images.shape[-2:]
    small = (max(1, int(width * numbers["factor"])), max(1, int(height * numbers["factor"])))

    def change(picture: Image.Image) -> Image.Image:
        return picture.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX)

    return _by_pillow(images, change)


def _jpeg(images: Tensor, numbers: Numbers, generators: list[np.random.Generator]) -> Tensor:
    def change(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(numbers["quality"]))
        return Image.open(file)

    return _by_pillow(images, change)


def _by_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """uint8 [B, 3, H, W], picture by picture."""
    arrays = images.permute(0, 2, 3, 1).cpu().numpy()
    changed = np.stack([np.asarray(change(Image.fromarray(array))) for array in arrays])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).contiguous().to(images.device)


def _gaussian_line(reach: int, sigma: float) -> Tensor:
    """float64 [2 · reach + 1], sum 1."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    line = torch.exp(-steps.square() / (2 * sigma**2))
    return line / line.sum()


def _streak(radius: int, sigma: float, angle: float) -> Tensor:
    """float64 [4r + 1, 4r + 1], sum 1: a half-line from the centre, 2r + 1 points shared between the nearest cells."""
    steps = np.arange(2 * radius + 1)
    weight = np.exp(-np.square(steps) / (2 * sigma**2))
    kernel = np.zeros((4 * radius + 3, 4 * radius + 3))  # a cell more on each side for the sharing
    row, column = (steps * f(angle) + 2 * radius + 1 for f in (math.sin, math.cos))
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - (row - top)) * np.abs(1 - right - (column - left))
            np.add.at(kernel, (top + down, left + right), weight * share)
    return torch.from_numpy(kernel[1:-1, 1:-1] / weight.sum())


def _filter(levels: Tensor, kernel: Tensor, border: str) -> Tensor:
    """[B, 3, H, W] filtered with one kernel [k, k], or one for each image [B, k, k]; k is odd."""
    batch, channels, height, width = levels.shape
    reach = kernel.shape[-1] // 2
    if border == "reflect" and reach >= min(height, width):
        border = "replicate"  # nothing is left to mirror
    each = kernel.to(levels).expand(batch, *kernel.shape[-2:]).repeat_interleave(channels, 0)[:, None]
    padded = F.pad(levels, (reach,) * 4, mode=border).reshape(1, batch * channels, height + 2 * reach, -1)
    return F.conv2d(padded, each, groups=batch * channels).reshape(batch, channels, height, width)


@dataclass(frozen=True)
class _Corruption:
    """How images are changed, and each number's five values: for small images, and for large ones."""

    change: Change
    small: Mapping[str, tuple[float, ...]]
    large: Mapping[str, tuple[float, ...]]


_CORRUPTIONS: Mapping[str, _Corruption] = {
    "gaussian_noise": _Corruption(
        _gaussian_noise, {"std": (0.04, 0.06, 0.08, 0.09, 0.10)}, {"std": (0.08, 0.12, 0.18, 0.26, 0.38)}
    ),
    "shot_noise": _Corruption(_shot_noise, {"photons": (500, 250, 100, 75, 50)}, {"photons": (60, 25, 12, 5, 3)}),
    "gaussian_blur": _Corruption(_gaussian_blur, {"sigma": (0.4, 0.6, 0.7, 0.8, 1.0)}, {"sigma": (1, 2, 3, 4, 6)}),
    "defocus_blur": _Corruption(
        _defocus_blur,
        {"radius": (0.3, 0.4, 0.5, 1.0, 1.5), "edge": (0.4, 0.5, 0.6, 0.2, 0.1)},
        {"radius": (3, 4, 6, 8, 10), "edge": (0.1, 0.5, 0.5, 0.5, 0.5)},
    ),
    "motion_blur": _Corruption(
        _motion_blur,
        {"radius": (6, 6, 6, 8, 9), "sigma": (1.0, 1.5, 2.0, 2.0, 2.5)},
        {"radius": (10, 15, 15, 15, 20), "sigma": (3, 5, 8, 12, 15)},
    ),
    "brightness": _Corruption(
        _brightness, {"added": (0.05, 0.1, 0.15, 0.2, 0.3)}, {"added": (0.1, 0.2, 0.3, 0.4, 0.5)}
    ),
    "contrast": _Corruption(_contrast, {"factor": (0.75, 0.5, 0.4, 0.3, 0.15)}, {"factor": (0.4, 0.3, 0.2, 0.1, 0.05)}),
    "saturation": _Corruption(
        _saturation, {"factor": (0.8, 0.6, 0.4, 0.2, 0.0)}, {"factor": (0.8, 0.6, 0.4, 0.2, 0.0)}
    ),
    "pixelate": _Corruption(
        _pixelate, {"factor": (0.95, 0.9, 0.85, 0.75, 0.65)}, {"factor": (0.6, 0.5, 0.4, 0.3, 0.25)}
    ),
    "jpeg": _Corruption(_jpeg, {"quality": (80, 65, 58, 50, 40)}, {"quality": (25, 18, 15, 10, 7)}),
}

CORRUPTIONS = tuple(_CORRUPTIONS)
"""Names that `corrupt` knows."""
