"""Several annotated pictures in one: mosaic and mixup of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from dlrecipes.data.augment.geometry import Boxes, Image, Kept, choose_window, crop, longest_side, resize
from dlrecipes.data.augment.strong import MIN_VISIBLE
from dlrecipes.data.loading.collate import DetectionSample

__all__ = ["mix_up", "mosaic"]

_CENTRE = (0.3, 0.7)  # where the four pictures meet, as a share of each side
_CANDIDATES = 8
_BLEND = (0.45, 0.55)


def mosaic(
    samples: Sequence[DetectionSample],
    side: int,
    rng: np.random.Generator,
    *,
    scales: tuple[float, float] = (0.5, 1.0),
) -> DetectionSample:
    """Parts of four pictures round a random point (Bochkovskiy et al. 2020, "YOLOv4").

    The result has the first picture's shape, with ``side`` pixels on the longer side, and takes its name. Each picture
    fills its tile: it is scaled by ``scales`` times what makes its own longer side ``side`` (by more where it would not
    reach otherwise), log-uniform, and a window is cut out as in `dlrecipes.data.StrongAugment`; objects of which less
    than 0.3 of the area is left are dropped. Tiles are dealt at random.

    Args:
        samples: four of them, untransformed.
        side: see above.
        rng: source of all randomness.
        scales: least and most. With 1 and 1, a mosaic holds about as many objects as a picture does.

    Raises:
        ValueError: for another number of samples.
    """
    if len(samples) != 4:
        raise ValueError(f"a mosaic needs 4 samples, got {len(samples)}")
    height, width = (max(2, length) for length in longest_side(samples[0]["image"].shape, side))
    meeting = (rng.uniform(*_CENTRE, 2) * [width, height]).round().clip(1, [width - 1, height - 1])
    x, y = meeting.astype(int).tolist()
    tiles = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    canvas = np.empty((height, width, 3), dtype=np.uint8)
    parts = []
    for sample, place in zip(samples, rng.permutation(4).tolist(), strict=True):
        x1, y1, x2, y2 = tiles[place]
        canvas[y1:y2, x1:x2], boxes, kept = _tile(sample, (y2 - y1, x2 - x1), side, scales, rng)
        parts.append((sample, boxes + np.array([x1, y1, x1, y1], dtype=np.float64), kept))
    return _joined(canvas, parts)


def mix_up(first: DetectionSample, second: DetectionSample, rng: np.random.Generator) -> DetectionSample:
    """Two pictures laid over one another, about half of each, with the objects of both (Zhang et al. 2019, "Bag of
    freebies for training object detection neural networks").

    λ x₁ + (1 − λ) x₂ with λ ~ U(.45, .55), so that both stay visible and no object needs a weight. The result has the
    first picture's shape and name; where the second has another, it is moved at random, cut and padded with black.

    Args:
        first, second: transformed samples.
        rng: source of all randomness.
    """
    height, width = first["image"].shape[:2]
    room = np.array([second["image"].shape[1] - width, second["image"].shape[0] - height])
    x, y = (rng.random(2) * room).round().astype(int).tolist()  # negative where the second picture is smaller
    other, boxes, kept = crop(second["image"], second["boxes"], (x, y, x + width, y + height), MIN_VISIBLE)
    share = rng.uniform(*_BLEND)
    blend = np.asarray(cv2.addWeighted(first["image"], share, other, 1.0 - share, 0.0), dtype=np.uint8)
    return _joined(blend, [(first, first["boxes"], np.arange(len(first["boxes"]))), (second, boxes, kept)])


def _tile(
    sample: DetectionSample, size: tuple[int, int], side: int, scales: tuple[float, float], rng: np.random.Generator
) -> tuple[Image, Boxes, Kept]:
    """A part of the picture that fills ``size``, (height, width)."""
    image, boxes = sample["image"], sample["boxes"]
    height, width = image.shape[:2]
    alone = side / max(height, width)
    least = max(size[0] / height, size[1] / width)
    low, high = (max(least, scale * alone) for scale in scales)
    scale = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    sides = np.array([min(width, round(size[1] / scale)), min(height, round(size[0] / scale))]).clip(min=1)
    corners = (rng.random((_CANDIDATES, 2)) * ([width, height] - sides)).round()
    windows = np.concatenate([corners, corners + sides], axis=1).astype(np.int64)
    part, cut, kept = crop(image, boxes, choose_window(boxes, windows, MIN_VISIBLE), MIN_VISIBLE)
    part, cut = resize(part, cut, *size)
    return part, cut, kept


def _joined(image: Image, parts: Sequence[tuple[DetectionSample, Boxes, Kept]]) -> DetectionSample:
    """One sample of several: the objects that each keeps, under the first one's name."""
    return {
        **parts[0][0],
        "image": image,
        "boxes": np.concatenate([boxes for _, boxes, _ in parts]),
        "labels": np.concatenate([sample["labels"][kept] for sample, _, kept in parts]),
        "area": np.concatenate([sample["area"][kept] for sample, _, kept in parts]),
        "iscrowd": np.concatenate([sample["iscrowd"][kept] for sample, _, kept in parts]),
    }
