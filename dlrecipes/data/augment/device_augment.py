"""Augmentation of small pictures as whole batches, on the device where they are.

Each picture's changes are a function of (seed, epoch, index) alone, nothing waits for the device, and the number of
kernels does not depend on the batch: an H100 takes a few milliseconds for a step, workers would take longer.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from dlrecipes.data.augment.device_ops import (
    BORDERS,
    Colours,
    change_colours,
    inside,
    rectangle,
    shift_and_mirror,
    to_bytes,
    warp,
)
from dlrecipes.data.augment.stateless_random import uniform

__all__ = ["DEVICE_PRESETS", "DeviceAugment"]

DEVICE_PRESETS = ("none", "light", "strong")

_SHIFT = 0.125  # of the side: 4 of CIFAR's 32 pixels
_ROTATION = 10.0  # degrees, of pictures that must not be mirrored
_ERASED = 0.25  # of the pictures
_ERASED_AREA = (0.02, 0.33)  # as in Random Erasing (Zhong et al. 2020)
_STREAMS = 16

# "strong" draws one of these for each picture, and how far it goes in either direction, as TrivialAugment does (Müller
# and Hutter 2021). Columns: radians of rotation; shear along x, y; shift along x, y, in sides; then `Colours`.
_LARGEST = (
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),  # nothing
    (math.pi / 6, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.7, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.7, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.7, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
)
_ONE_SIDED = 8  # the columns from here on have no negative direction


class DeviceAugment:
    """Augment uint8 batches of small pictures.

    - ``"none"``: nothing.
    - ``"light"``: pad by an eighth of the side and crop, and mirror half of the pictures; where ``mirror`` is False,
      rotate by up to 10° instead.
    - ``"strong"``: that, then one change of shape or colour at a random strength (rotation, shear, shift, brightness,
      contrast, saturation, solarising, stretched contrast, or none), and in a quarter of the pictures a
      rectangle of 2 to 33 % of the area in one colour.

    All changes of shape are one resampling.

    Args:
        preset: see above.
        mirror: False where left and right matter, as for digits.
        border: what lies outside the picture: ``"reflect"`` or ``"zero"``.
        strength: 0..1, factor on everything that has a size or a frequency, except mirroring; 0: the identity then.
        seed: of the run.

    Raises:
        ValueError: for a value that is not one of these.

    Example:
        >>> images = torch.arange(48, dtype=torch.uint8).reshape(1, 3, 4, 4)
        >>> augment = DeviceAugment("light", seed=1)
        >>> out = augment(images, torch.tensor([5]), epoch=2)
        >>> out.shape, out.dtype, torch.equal(out, augment(images, torch.tensor([5]), epoch=2))
        (torch.Size([1, 3, 4, 4]), torch.uint8, True)
    """

    def __init__(
        self,
        preset: str = "light",
        *,
        mirror: bool = True,
        border: str = "reflect",
        strength: float = 1.0,
        seed: int = 0,
    ) -> None:
        if preset not in DEVICE_PRESETS:
            raise ValueError(f"preset must be one of {', '.join(DEVICE_PRESETS)}, got {preset!r}")
        if border not in BORDERS:
            raise ValueError(f"border must be one of {', '.join(BORDERS)}, got {border!r}")
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"strength must be in 0..1, got {strength}")
        self.preset = preset
        self.mirror = mirror
        self.border = border
        self.strength = strength
        self.seed = seed

    def __call__(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Augment one batch.

        Args:
            images: uint8 [B, 3, H, W].
            index: int64 [B], positions in the split, on the same device.
            epoch: of the run.

        Returns:
            uint8 [B, 3, H, W].
        """
        if self.preset == "none" or len(images) == 0:
            return images
        u = uniform(self.seed, epoch, index, _STREAMS)
        shift, mirror = self._shift(u, images), (u[:, 2] < 0.5) & self.mirror
        if self.preset == "light" and self.mirror:
            return shift_and_mirror(images, shift, mirror, border=self.border)
        change = self._operation(u) if self.preset == "strong" else torch.zeros_like(u[:, : len(_LARGEST[0])])
        turn = change[:, 0]
        if not self.mirror:
            turn = turn + (2.0 * u[:, 3] - 1.0) * (self.strength * math.radians(_ROTATION))
        sides = torch.stack([change[:, 3] * images.shape[-1], change[:, 4] * images.shape[-2]], dim=1)
        matrix = _matrix(turn, change[:, 1], change[:, 2], mirror)
        original = images.to(torch.float32, memory_format=torch.contiguous_format)  # faster from here on than NHWC
        moved = warp(original, matrix, shift.flip(1) + sides, border=self.border)
        if self.preset == "light":
            return to_bytes(moved)
        coloured = change_colours(moved, original, Colours(*change[:, 5:].unbind(1)))
        return to_bytes(self._erase(u, coloured))

    def _shift(self, u: Tensor, images: Tensor) -> Tensor:
        """int64 [B, 2], rows and columns: each number of whole pixels up to the largest is equally likely."""
        reach = [round(self.strength * _SHIFT * side) for side in images.shape[-2:]]
        moves = [(u[:, k] * (2 * most + 1)).floor().long() - most for k, most in enumerate(reach)]
        return torch.stack(moves, dim=1)

    def _operation(self, u: Tensor) -> Tensor:
        """float32 [B, 10]: a row of `_LARGEST` for each picture, times its strength."""
        largest = _largest(u.device)
        chosen = largest[(u[:, 4] * len(largest)).long()]
        sign = 2.0 * u[:, 5:6] - 1.0
        columns = torch.arange(chosen.shape[1], device=u.device)
        return chosen * torch.where(columns < _ONE_SIDED, sign, sign.abs()) * self.strength

    def _erase(self, u: Tensor, images: Tensor) -> Tensor:
        least, most = _ERASED_AREA
        aspect = torch.exp((2.0 * u[:, 8] - 1.0) * math.log(3.0))
        size = (images.shape[-2], images.shape[-1])
        area = least + (most - least) * u[:, 7]
        area = torch.where(u[:, 6] < _ERASED * self.strength, area, 0.0)
        boxes = rectangle(area, aspect, u[:, 9], u[:, 10], size)
        colour = 255.0 * u[:, 11:14, None, None]
        return torch.where(inside(boxes, size), colour, images)


def _matrix(turn: Tensor, shear_x: Tensor, shear_y: Tensor, mirror: Tensor) -> Tensor:
    """float32 [B, 2, 2]: mirror, then shear, then rotate."""
    cos, sin, sign = turn.cos(), turn.sin(), 1.0 - 2.0 * mirror.float()
    first = torch.stack([(cos - sin * shear_y) * sign, cos * shear_x - sin], dim=1)
    second = torch.stack([(sin + cos * shear_y) * sign, sin * shear_x + cos], dim=1)
    return torch.stack([first, second], dim=1)


@lru_cache
def _largest(device: torch.device) -> Tensor:
    """`_LARGEST` on the device, copied there once: a copy in each step would wait."""
    return torch.tensor(_LARGEST, device=device)
