"""Strong augmentation of one picture with its boxes: for a few hundred images and many epochs."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.augment.geometry import (
    Boxes,
    Image,
    Kept,
    choose_window,
    crop,
    longest_side,
    mirror,
    resize,
    turn_over,
)

__all__ = ["MIN_VISIBLE", "StrongAugment", "import_albumentations"]

MIN_VISIBLE = 0.3
"""Objects of which less than this share of the area is left by a crop are dropped."""

_ZOOM = (0.6, 2.0)  # out and in
_MOST_STRETCH = 1.25  # of width against height
_CANDIDATES = 8


class StrongAugment:
    """Large-scale jitter, flips and colours; the picture keeps its shape, so that batches need no padding.

    - Four of five pictures are zoomed by a factor between 0.6 and 2 and stretched by up to 1.25, both log-uniform: a
      window of that size is cut out, black where it is larger than the picture (Ghiasi et al. 2021, "Simple
      copy-paste", call it large-scale jitter). Of 8 random places the one is taken that shows least of objects which
      are then dropped: those of which less than 0.3 of the area is left, or less than a pixel in one direction. Where
      none keeps an object, the picture stays whole.
    - Brightness, contrast, saturation and hue of four in five, grey for one in twenty, blur for one in ten
      (albumentations).

    Scaled once, from the cached picture: about 3 ms at 320 pixels on one core.

    Args:
        size: longer side of the result.
        flip: mirror half of the pictures; False where left and right matter, as for digits.
        turn: turn half of them upside down, too: where there is no up and down, as under a microscope.
        zoom: False leaves out zoom and stretch.

    Raises:
        ValueError: ``size`` < 1.
    """

    def __init__(self, size: int, *, flip: bool = True, turn: bool = False, zoom: bool = True) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size
        self.flip = flip
        self.turn = turn
        self.zoom = zoom
        self.cache_side: int | None = round(1.5 * size)
        A = import_albumentations()
        jitter = A.ColorJitter(
            brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.6, 1.4), hue=(-0.03, 0.03), p=0.8
        )
        self._colours = A.Compose([jitter, A.ToGray(p=0.05), A.GaussianBlur(blur_limit=(3, 5), p=0.1)])

    def __call__(self, image: Image, boxes: Boxes, labels: NDArray[np.int64], seed: int) -> tuple[Image, Boxes, Kept]:
        return self._augment(image, boxes, seed, zoom=self.zoom)

    def after_mosaic(
        self, image: Image, boxes: Boxes, labels: NDArray[np.int64], seed: int
    ) -> tuple[Image, Boxes, Kept]:
        """The same without zoom, for a mosaic: the pictures in it have been zoomed one by one."""
        return self._augment(image, boxes, seed, zoom=False)

    def _augment(self, image: Image, boxes: Boxes, seed: int, *, zoom: bool) -> tuple[Image, Boxes, Kept]:
        rng = np.random.default_rng(seed)
        mirrored, turned, zoomed = (rng.random(3) < (0.5, 0.5, 0.8)).tolist()
        kept = np.arange(len(boxes))
        shape = longest_side(image.shape, self.size)
        if zoom and zoomed:
            image, boxes, kept = self._cut(image, boxes, rng)
        image, boxes = resize(image, boxes, *shape)
        # flipped last, when the picture is smallest
        if self.flip and mirrored:
            image, boxes = mirror(image, boxes)
        if self.turn and turned:
            image, boxes = turn_over(image, boxes)
        self._colours.set_random_seed(seed)  # without it, 2.0.8 repeats the same changes in each worker and epoch
        return self._colours(image=image)["image"], boxes, kept

    def _cut(self, image: Image, boxes: Boxes, rng: np.random.Generator) -> tuple[Image, Boxes, Kept]:
        height, width = image.shape[:2]
        # One size for all candidates: in a crowd, the largest window would always win.
        zoom = np.exp(rng.uniform(*np.log(_ZOOM)))
        stretch = np.exp(rng.uniform(-0.5, 0.5) * np.log(_MOST_STRETCH))
        sides = np.array([width / (zoom * stretch), height * stretch / zoom]).round().clip(min=1.0)
        corners = (rng.random((_CANDIDATES, 2)) * ([width, height] - sides)).round()  # negative when zooming out
        windows = np.concatenate([corners, corners + sides], axis=1).astype(np.int64)
        cut = crop(image, boxes, choose_window(boxes, windows, MIN_VISIBLE), MIN_VISIBLE)
        return cut if len(cut[2]) > 0 or len(boxes) == 0 else (image, boxes, np.arange(len(boxes)))


def import_albumentations() -> Any:
    """The package, imported where it is used, and kept from asking the network for its newest version."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    return import_module("albumentations")  # 2 to 3 s: only where it is used
