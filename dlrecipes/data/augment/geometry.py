"""Resize, crop and flip of a picture together with its boxes, in float64 pixels: what a step does not move stays exact.

Albumentations keeps boxes as float32 shares of the picture, so even a flip that is applied twice moves them a little.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Boxes",
    "Image",
    "Kept",
    "choose_window",
    "crop",
    "flip_half",
    "longest_side",
    "mirror",
    "resize",
    "shortest_side",
    "turn_over",
]

Image = NDArray[np.uint8]  # [H, W, 3], RGB
Boxes = NDArray[np.float64]  # [n, 4], (x1, y1, x2, y2) in pixels
Kept = NDArray[np.int64]  # [m], positions among the objects before


def resize(image: Image, boxes: Boxes, height: int, width: int) -> tuple[Image, Boxes]:
    """To ``height`` × ``width``: averaging when smaller, bilinear when larger."""
    old_height, old_width = image.shape[:2]
    if (old_height, old_width) == (height, width):
        return image, boxes
    smaller = height * width < old_height * old_width
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    ratio = np.array([width / old_width, height / old_height] * 2)
    return np.asarray(resized, dtype=np.uint8), boxes * ratio


def mirror(image: Image, boxes: Boxes) -> tuple[Image, Boxes]:
    """Left to right: (x1, x2) becomes (W − x2, W − x1)."""
    width = float(image.shape[1])
    mirrored = boxes.copy()
    mirrored[:, 0], mirrored[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    return np.ascontiguousarray(image[:, ::-1]), mirrored


def turn_over(image: Image, boxes: Boxes) -> tuple[Image, Boxes]:
    """Top to bottom: (y1, y2) becomes (H − y2, H − y1)."""
    height = float(image.shape[0])
    turned = boxes.copy()
    turned[:, 1], turned[:, 3] = height - boxes[:, 3], height - boxes[:, 1]
    return np.ascontiguousarray(image[::-1]), turned


def flip_half(
    image: Image, boxes: Boxes, rng: np.random.Generator, *, sideways: bool, upside_down: bool
) -> tuple[Image, Boxes]:
    """Mirror every other picture and turn every other one over, as far as that is allowed; what is not is not drawn."""
    if sideways and rng.random() < 0.5:
        image, boxes = mirror(image, boxes)
    if upside_down and rng.random() < 0.5:
        image, boxes = turn_over(image, boxes)
    return image, boxes


def crop(
    image: Image, boxes: Boxes, window: tuple[int, int, int, int], min_visible: float
) -> tuple[Image, Boxes, Kept]:
    """Cut ``window`` (x1, y1, x2, y2) out; what lies outside the picture becomes black.

    Returns:
        picture; boxes clipped to it; int64 positions of the objects that are kept: those of which at least
        ``min_visible`` of the area is left, and one pixel in each direction where something was cut off.
    """
    x1, y1, x2, y2 = window
    height, width = image.shape[:2]
    inside = image[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    pad = (max(-y1, 0), max(y2 - height, 0), max(-x1, 0), max(x2 - width, 0))
    cut = cv2.copyMakeBorder(inside, *pad, cv2.BORDER_CONSTANT) if any(pad) else np.ascontiguousarray(inside)
    moved = boxes - np.array([x1, y1, x1, y1], dtype=np.float64)
    clipped = moved.clip(0.0, np.array([x2 - x1, y2 - y1] * 2, dtype=np.float64))
    sides, full = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    visible = sides.prod(axis=1) >= min_visible * full.prod(axis=1)
    whole = (sides == full).all(axis=1)  # an object that was tiny before is not lost
    kept = np.flatnonzero(visible & (whole | (sides >= 1.0).all(axis=1)))
    return np.asarray(cut, dtype=np.uint8), clipped[kept], kept.astype(np.int64)


def choose_window(boxes: Boxes, windows: NDArray[np.int64], min_visible: float) -> tuple[int, int, int, int]:
    """The window that shows least of objects which `crop` would drop: what is seen but not labelled teaches a detector
    that such things are background. A window with an object to keep goes before one without; then the first.

    Args:
        boxes: float64 [n, 4], (x1, y1, x2, y2), each with an area.
        windows: int64 [k, 4], candidates in the same coordinates.
        min_visible: see `crop`.

    Example:
        >>> whole, half, none = (0, 0, 9, 9), (0, 0, 4, 4), (5, 5, 9, 9)
        >>> choose_window(np.array([[2.0, 2.0, 9.0, 9.0]]), np.array([half, none, whole]), min_visible=0.6)
        (0, 0, 9, 9)
    """
    low = np.maximum(windows[:, None, :2], boxes[None, :, :2])
    high = np.minimum(windows[:, None, 2:], boxes[None, :, 2:])
    visible = (high - low).clip(min=0.0).prod(axis=2) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)  # [k, n]
    kept = visible >= min_visible
    lost = np.where(kept, 0.0, visible).sum(axis=1) + len(boxes) * (~kept.any(axis=1))
    x1, y1, x2, y2 = windows[int(np.argmin(lost))].tolist()
    return x1, y1, x2, y2


def longest_side(shape: Sequence[int], side: int) -> tuple[int, int]:
    """(height, width) of ``shape`` scaled so that the longer one is ``side``, at least 1 each.

    Example:
        >>> longest_side((480, 640, 3), 320)
        (240, 320)
    """
    height, width = shape[:2]
    longest = max(height, width)
    return max(1, round(height * side / longest)), max(1, round(width * side / longest))


def shortest_side(shape: Sequence[int], side: int, longest: int) -> tuple[int, int]:
    """(height, width) scaled so that the shorter one is ``side``, or the longer one ``longest`` if that makes less.

    Example:
        >>> shortest_side((480, 640), 800, 1333), shortest_side((480, 1000), 800, 1333)
        ((800, 1067), (640, 1333))
    """
    height, width = shape[:2]
    ratio = min(side / min(height, width), longest / max(height, width))
    return max(1, round(height * ratio)), max(1, round(width * ratio))
