"""Embedded detection data: scenes composed from scikit-learn's scans of real handwritten digits, without any download.

Each scene is a pure function of (seed, split, epoch, index). Glyphs of train, validation and test are disjoint, so a
detector cannot score by remembering scans.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.embedded.digits import DIGIT_CLASSES, scan_rows
from dlrecipes.errors import UserError

__all__ = ["CLASSES", "LONG_TAIL_RATIO", "MAX_OBJECTS", "SPLIT_SIZES", "DigitScenes"]

CLASSES = DIGIT_CLASSES
SPLIT_SIZES = {"train": 2400, "val": 300, "test": 300}
MAX_OBJECTS = 8  # in one scene
LONG_TAIL_RATIO = 50.0  # most frequent class : rarest class, as in the usual long-tailed CIFAR benchmarks

_MIN_HEIGHT, _MAX_HEIGHT = 15.0, 38.5
_MAX_ANGLE = math.radians(20.0)
_MAX_COVER = 0.2  # of the smaller of two boxes
_ATTEMPTS = 6
_GLYPH = 50  # side of an upsampled scan: 8 x 8 plus a margin of 1, times 5
_INK = 96  # of 255: from this opacity on a pixel belongs to the digit
_MIN_CONTRAST = 70.0  # of 255, in luminance

_SPLIT_CODES = {"train": 0, "val": 1, "test": 2}
_CENTRE = np.full(2, (_GLYPH - 1) / 2.0)


class _Glyphs(NamedTuple):
    opacity: NDArray[np.uint8]  # [n, 50, 50]
    hulls: list[NDArray[np.float64]]  # n times [2, k]: convex hull of the ink, relative to the centre of the canvas
    by_class: list[NDArray[np.intp]]  # ten times: positions in the two above
    sources: NDArray[np.intp]  # [n]: rows of sklearn's data set


class _Digit(NamedTuple):
    label: int
    glyph: int
    to_scene: NDArray[np.float64]  # [2, 3]: affine map from the glyph's canvas to the picture
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 of the transformed hull
    colour: tuple[float, ...]  # 3, 0..255
    opacity: float


@lru_cache(maxsize=3)
def _load_glyphs(split: str) -> _Glyphs:
    from sklearn.datasets import load_digits  # 1.4 s to import: only where scenes are made

    digits = load_digits()
    sources: list[int] = []
    by_class: list[NDArray[np.intp]] = []
    for rows in scan_rows(split):
        by_class.append(np.arange(len(sources), len(sources) + len(rows)))
        sources.extend(rows.tolist())
    opacity = np.stack([_upsample(digits.images[row]) for row in sources])
    return _Glyphs(opacity, [_hull(glyph) for glyph in opacity], by_class, np.array(sources, dtype=np.intp))


def _upsample(scan: NDArray[np.float64]) -> NDArray[np.uint8]:
    """8 x 8 scan with 17 grey levels -> smooth opacity map with crisp edges, uint8 [50, 50]."""
    padded = np.pad(scan / 16.0, 1).astype(np.float32)
    smooth = cv2.resize(padded, (_GLYPH, _GLYPH), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip((smooth - 0.38) / 0.3, 0.0, 1.0) * 255.0, dtype=np.uint8)


def _hull(glyph: NDArray[np.uint8]) -> NDArray[np.float64]:
    ys, xs = np.nonzero(glyph >= _INK)
    points = cv2.convexHull(np.stack([xs, ys], axis=1).astype(np.int32))[:, 0, :]
    return np.asarray(points.T - (_GLYPH - 1) / 2.0, dtype=np.float64)


class DigitScenes:
    """Detection scenes of 1 to 8 handwritten digits on clutter.

    Digits are 14 to 40 pixels tall (before the picture's edge or a neighbour covers anything), turned by up to 20
    degrees, inked in one colour, and cover at most a quarter of each other. Boxes are tight around the rendered ink.
    Training scenes are composed anew in each epoch; ``val`` and ``test`` are the same in all epochs.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        seed: any integer >= 0.
        size: side of the square picture in pixels, at least 48.
        num_images: scenes an epoch; 2400, 300 and 300 if None.
        long_tailed: class frequencies fall geometrically from zero to nine, 50 : 1 (meant for training).

    Raises:
        UserError: unknown split, or a number outside its range.

    Example:
        >>> scenes = DigitScenes("val", seed=0)
        >>> image, boxes, labels = scenes.scene(epoch=0, index=0)
        >>> image.shape, str(image.dtype), boxes.shape == (len(labels), 4)
        ((96, 96, 3), 'uint8', True)
    """

    classes: tuple[str, ...] = CLASSES

    def __init__(
        self,
        split: str,
        *,
        seed: int = 0,
        size: int = 96,
        num_images: int | None = None,
        long_tailed: bool = False,
    ) -> None:
        if split not in _SPLIT_CODES:
            raise UserError(f"The embedded scenes have no split {split!r}: choose one of {', '.join(_SPLIT_CODES)}.")
        if seed < 0:
            raise UserError(f"The seed of the embedded scenes must not be negative, got {seed}.")
        if size < 48:
            raise UserError(f"Embedded scenes need a size of at least 48 pixels, got {size}.")
        if num_images is not None and num_images < 1:
            raise UserError(f"The number of embedded scenes must be at least 1, got {num_images}.")
        self.split = split
        self.seed = seed
        self.size = size
        self.num_images = SPLIT_SIZES[split] if num_images is None else num_images
        self.long_tailed = long_tailed
        self._glyphs = _load_glyphs(split)
        weights = LONG_TAIL_RATIO ** -(np.arange(len(CLASSES)) / (len(CLASSES) - 1)) if long_tailed else np.ones(10)
        self._class_cdf = np.cumsum(weights) / weights.sum()

    def __len__(self) -> int:
        return self.num_images

    @property
    def glyph_sources(self) -> NDArray[np.intp]:
        """Rows of ``sklearn.datasets.load_digits()`` that this split draws its digits from."""
        return self._glyphs.sources

    def scene(self, epoch: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.int64]]:
        """One scene.

        Returns:
            image uint8 [size, size, 3] RGB, boxes float64 [n, 4] (x1, y1, x2, y2) in pixels, labels int64 [n].

        Raises:
            IndexError: ``index`` outside ``range(len(self))``.
        """
        rng = self._rng(epoch, index)
        digits = self._compose(rng)
        image = _background(rng, self.size)
        boxes = np.array([_paint(image, self._glyphs.opacity[d.glyph], d) for d in digits], dtype=np.float64)
        return image, boxes, np.array([d.label for d in digits], dtype=np.int64)

    def labels(self, epoch: int, index: int) -> NDArray[np.int64]:
        """Labels of one scene, int64 [n], without rendering it."""
        return np.array([d.label for d in self._compose(self._rng(epoch, index))], dtype=np.int64)

    def _rng(self, epoch: int, index: int) -> np.random.Generator:
        if not 0 <= index < self.num_images:
            raise IndexError(f"scene {index} of {self.num_images}")
        return np.random.default_rng(
            (self.seed, _SPLIT_CODES[self.split], epoch if self.split == "train" else 0, index, self.size)
        )

    def _compose(self, rng: np.random.Generator) -> list[_Digit]:
        """Which digits go where; later ones lie on top."""
        wanted = int(rng.integers(1, MAX_OBJECTS + 1))
        traits = rng.random((wanted, 9))
        spots = rng.random((wanted, _ATTEMPTS, 2))
        labels = np.searchsorted(self._class_cdf, traits[:, 0], side="right").clip(max=len(CLASSES) - 1)
        digits: list[_Digit] = []
        for label, trait, spot in zip(labels.tolist(), traits, spots, strict=True):
            digit = self._place(label, trait, spot, [d.box for d in digits])
            if digit is not None:
                digits.append(digit)
        return digits

    def _place(
        self,
        label: int,
        trait: NDArray[np.float64],
        spots: NDArray[np.float64],
        taken: list[tuple[float, float, float, float]],
    ) -> _Digit | None:
        """Try spots, a little smaller each time; None where the picture is too full."""
        _, pick, tall, turn, stretch, dense, r, g, b = trait.tolist()
        candidates = self._glyphs.by_class[label]
        glyph = int(candidates[int(pick * len(candidates))])
        angle, wide = (turn - 0.5) * 2.0 * _MAX_ANGLE, 0.85 + 0.4 * stretch
        cos, sin = math.cos(angle), math.sin(angle)
        matrix = np.array([[cos * wide, -sin], [sin * wide, cos]])
        outline = matrix @ self._glyphs.hulls[glyph]
        low = outline.min(axis=1)
        w, h = (outline.max(axis=1) - low).tolist()
        height = _MIN_HEIGHT + (_MAX_HEIGHT - _MIN_HEIGHT) * tall
        for u, v in spots.tolist():
            scale = height / h
            x, y = 1.0 + u * (self.size - 2.0 - w * scale), 1.0 + v * (self.size - 2.0 - height)
            box = (x, y, x + w * scale, y + height)
            if x >= 0.0 and all(_cover(box, other) <= _MAX_COVER for other in taken):
                turned = matrix * scale
                shift = np.array([x, y]) - low * scale - turned @ _CENTRE
                to_scene = np.concatenate([turned, shift[:, None]], axis=1)
                return _Digit(label, glyph, to_scene, box, (r * 255.0, g * 255.0, b * 255.0), 0.8 + 0.2 * dense)
            height = max(_MIN_HEIGHT, height * 0.92)
        return None


def _luminance(red: float, green: float, blue: float) -> float:
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _cover(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over the smaller of two boxes."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0.0 or h <= 0.0:
        return 0.0
    return w * h / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _background(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Low-frequency colour noise at two scales, grain, and thin strokes that are no digits."""
    centre, spread = rng.uniform(40.0, 215.0, 3), rng.uniform(10.0, 45.0)
    coarse = (centre + rng.uniform(-spread, spread, (3, 3, 3))).astype(np.float32)
    fine = rng.uniform(-spread, spread, (10, 10, 3)).astype(np.float32) * 0.35
    grain = np.frombuffer(rng.bytes(size * size * 3), dtype=np.uint8).reshape(size, size, 3) & 15
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    smooth = cv2.add(smooth, cv2.resize(fine, (size, size), interpolation=cv2.INTER_LINEAR))
    image = np.asarray(cv2.add(smooth, grain, dtype=cv2.CV_8U), dtype=np.uint8)  # saturates
    strokes = int(rng.integers(2, 7))
    ends = rng.integers(0, size, (strokes, 2, 2)).tolist()
    tints = (centre + rng.uniform(-90.0, 90.0, (strokes, 3))).clip(0, 255).tolist()
    bends = rng.integers(0, 180, (strokes, 2)).tolist()
    for (start, end), tint, (bend, turn) in zip(ends, tints, bends, strict=True):
        if bend < 90:
            cv2.line(image, start, end, tint, 1, cv2.LINE_AA)
        else:
            axes = (6 + abs(start[0] - end[0]) // 3, 6 + abs(start[1] - end[1]) // 3)
            cv2.ellipse(image, start, axes, turn, 0, bend, tint, 1, cv2.LINE_AA)
    return image


def _paint(image: NDArray[np.uint8], opacity: NDArray[np.uint8], digit: _Digit) -> tuple[float, float, float, float]:
    """Blend one digit into ``image`` in place; the tight box of its ink."""
    height, width = image.shape[:2]
    x, y = max(int(digit.box[0]) - 2, 0), max(int(digit.box[1]) - 2, 0)
    right, bottom = min(int(digit.box[2]) + 4, width), min(int(digit.box[3]) + 4, height)
    to_patch = digit.to_scene.copy()
    to_patch[:, 2] -= (x, y)
    patch = image[y:bottom, x:right]
    ink = cv2.warpAffine(opacity, to_patch, (right - x, bottom - y), flags=cv2.INTER_LINEAR)
    left, top, w, h = cv2.boundingRect(cv2.inRange(ink, _INK, 255))

    colour = digit.colour
    paper = _luminance(*cv2.mean(patch)[:3])
    luminance = _luminance(*colour)
    if abs(luminance - paper) < _MIN_CONTRAST:  # towards the end of the scale that is further away
        lift = paper + math.copysign(_MIN_CONTRAST + 15.0, 127.5 - paper) - luminance
        colour = tuple(min(max(value + lift, 0.0), 255.0) for value in colour)
    flat = np.empty_like(patch)
    flat[:] = np.array(colour, dtype=np.uint8)
    weight = ink * np.float32(digit.opacity / 255.0)
    image[y:bottom, x:right] = cv2.blendLinear(patch, flat, 1.0 - weight, weight)
    return float(x + left), float(y + top), float(x + left + w), float(y + top + h)
