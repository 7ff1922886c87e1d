"""Augmentation: a small protocol, presets by name, and a wrapper for anyone's albumentations.

A transform is a pure function of its arguments, ``seed`` included, so a sample does not depend on the worker that made
it, on how many there are, or on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.augment.geometry import Boxes, Image, Kept, crop, flip_half, longest_side, resize, shortest_side
from dlrecipes.data.augment.strong import StrongAugment, import_albumentations
from dlrecipes.errors import UserError

__all__ = [
    "TRANSFORMS",
    "AlbumentationsTransform",
    "DetectionTransform",
    "LightAugment",
    "PaperAugment",
    "ResizeLongest",
    "ResizeShortest",
    "StrongAugment",
    "build_transform",
    "eval_transform",
    "import_albumentations",
]

TRANSFORMS = ("none", "light", "strong", "paper")


@runtime_checkable
class DetectionTransform(Protocol):
    """What augments one sample. A function with this signature will do."""

    def __call__(self, image: Image, boxes: Boxes, labels: NDArray[np.int64], seed: int) -> tuple[Image, Boxes, Kept]:
        """Transform one sample.

        Args:
            image: uint8 [H, W, 3], RGB; may be read-only.
            boxes: float64 [n, 4], (x1, y1, x2, y2) in pixels.
            labels: int64 [n], to look at.
            seed: the only source of randomness.

        Returns:
            image uint8 [H', W', 3]; boxes float64 [m, 4] inside it; and ``kept`` int64 [m]: box ``i`` belongs to object
            ``kept[i]`` of the input. Labels, areas and crowd flags are picked by it, so no transform can mix them up.
        """


class ResizeLongest:
    """The longer side becomes ``size`` pixels. Boxes of a picture that has that size already do not change by a bit."""

    def __init__(self, size: int) -> None:
        self.size = _positive("size", size)
        self.cache_side: int | None = size

    def __call__(self, image: Image, boxes: Boxes, labels: NDArray[np.int64], seed: int) -> tuple[Image, Boxes, Kept]:
        image, boxes = resize(image, boxes, *longest_side(image.shape, self.size))
        return image, boxes, np.arange(len(boxes))


class ResizeShortest:
    """The shorter side becomes ``size`` pixels, unless the longer one then exceeds ``longest`` (DETR: 800, 1333)."""

    def __init__(self, size: int = 800, longest: int = 1333) -> None:
        self.size = _positive("size", size)
        self.longest = _positive("longest", longest)
        self.cache_side: int | None = longest

    def __call__(self, image: Image, boxes: Boxes, labels: NDArray[np.int64], seed: int) -> tuple[Image, Boxes, Kept]:
        image, boxes = resize(image, boxes, *shortest_side(image.shape, self.size, self.longest))
        return image, boxes, np.arange(len(boxes))


class LightAugment:
    """Flip, mild zoom and colour jitter for small data; the picture keeps its shape.

    Half of the pictures are zoomed by a factor between 0.8 and 1.5; objects of which less than 0.3 of the area is left
    are dropped, but where possible not all of them. Colours change in four of five.

    Args:
        size: longer side of the result.
        flip: mirror half of the pictures; False where left and right matter, as for digits.
        turn: turn half of them upside down, too: where there is no up and down, as under a microscope.
    """

    def __init__(self, size: int, *, flip: bool = True, turn: bool = False) -> None:
        self.size = _positive("size", size)
        self.flip = flip
        self.turn = turn
        self.cache_side: int | None = round(1.25 * size)
        albumentations = import_albumentations()
        jitter = albumentations.ColorJitter(
            brightness=(0.75, 1.25), contrast=(0.75, 1.25), saturation=(0.75, 1.25), hue=(-0.02, 0.02), p=0.8
        )
        self._colours = albumentations.Compose([jitter])

    def __call__(self, image: Image, boxes: Boxes, labels: NDArray[np.int64], seed: int) -> tuple[Image, Boxes, Kept]:
        rng = np.random.default_rng(seed)
        kept = np.arange(len(boxes))
        image, boxes = flip_half(image, boxes, rng, sideways=self.flip, upside_down=self.turn)
        if rng.random() < 0.5:
            image, boxes, kept = self._zoom(image, boxes, rng)
        image, boxes = resize(image, boxes, *longest_side(image.shape, self.size))
        self._colours.set_random_seed(seed)  # without it, 2.0.8 repeats the same changes in each worker and epoch
        return self._colours(image=image)["image"], boxes, kept

    def _zoom(self, image: Image, boxes: Boxes, rng: np.random.Generator) -> tuple[Image, Boxes, Kept]:
        height, width = image.shape[:2]
        for _ in range(5):
            factor = float(np.exp(rng.uniform(np.log(0.8), np.log(1.5))))
            w, h = max(1, round(width / factor)), max(1, round(height / factor))
            x, y = round(rng.random() * (width - w)), round(rng.random() * (height - h))  # negative when zooming out
            cut = crop(image, boxes, (x, y, x + w, y + h), min_visible=0.3)
            if len(cut[2]) > 0 or len(boxes) == 0:
                return cut
        return image, boxes, np.arange(len(boxes))


class PaperAugment:
    """DETR's training augmentation (Carion et al. 2020, section A.4).

    Flip half of the pictures; then either resize the shorter side to one of 480, 512 ... 800 (longer one at most 1333),
    or, half of the time, first resize it to 400, 500 or 600 and crop 384 to 600 pixels in each direction. Objects of
    which less than a pixel is left in a crop are dropped.

    Args:
        flip: False where left and right matter.
        turn: see `LightAugment`; not in the paper.
    """

    sizes = tuple(range(480, 801, 32))
    longest = 1333

    def __init__(self, *, flip: bool = True, turn: bool = False) -> None:
        self.flip = flip
        self.turn = turn
        self.cache_side: int | None = self.longest

    def __call__(self, image: Image, boxes: Boxes, labels: NDArray[np.int64], seed: int) -> tuple[Image, Boxes, Kept]:
        rng = np.random.default_rng(seed)
        kept = np.arange(len(boxes))
        image, boxes = flip_half(image, boxes, rng, sideways=self.flip, upside_down=self.turn)
        if rng.random() < 0.5:
            side = int(rng.choice((400, 500, 600)))
            # The paper's code leaves the longer side free here.
            image, boxes = resize(image, boxes, *shortest_side(image.shape, side, 2**31))
            height, width = image.shape[:2]
            w, h = (int(rng.integers(min(384, s), min(600, s) + 1)) for s in (width, height))
            x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            image, boxes, kept = crop(image, boxes, (x, y, x + w, y + h), min_visible=0.0)
        side = int(rng.choice(self.sizes))
        image, boxes = resize(image, boxes, *shortest_side(image.shape, side, self.longest))
        return image, boxes, kept


class AlbumentationsTransform:
    """Any albumentations transforms as a `DetectionTransform`, reproducible and with exact labels.

    Each call is seeded (2.0.8 otherwise repeats itself across workers and epochs), objects are carried by position
    rather than by label (it hands integers back as floats), and boxes that touch or cross the border are clipped.

    Args:
        transforms: one or several; geometric ones as well as colours. They decide the size of the result.
        min_visibility: objects of which less than this share of the area is left are dropped.

    Example:
        >>> import albumentations as A
        >>> transform = AlbumentationsTransform([A.HorizontalFlip(p=1.0)])
        >>> image, boxes = np.zeros((10, 20, 3), np.uint8), np.array([[2.0, 1.0, 8.0, 5.0]])
        >>> transform(image, boxes, np.array([7]), seed=0)[1].round(3).tolist()
        [[12.0, 1.0, 18.0, 5.0]]
    """

    def __init__(self, transforms: Sequence[Any] | Any, *, min_visibility: float = 0.25) -> None:
        if not 0.0 <= min_visibility <= 1.0:
            raise ValueError(f"min_visibility must be in 0..1, got {min_visibility}")
        albumentations = import_albumentations()
        self.cache_side: int | None = None  # unknown what it needs: full resolution
        self._compose = albumentations.Compose(
            list(transforms) if isinstance(transforms, Sequence) else [transforms],
            bbox_params=albumentations.BboxParams(
                format="pascal_voc",
                label_fields=["positions"],
                min_visibility=min_visibility,
                clip=True,
                filter_invalid_bboxes=True,
            ),
        )

    def __call__(self, image: Image, boxes: Boxes, labels: NDArray[np.int64], seed: int) -> tuple[Image, Boxes, Kept]:
        self._compose.set_random_seed(seed)
        out = self._compose(image=np.ascontiguousarray(image), bboxes=boxes, positions=np.arange(len(boxes)))
        kept = np.asarray(out["positions"], dtype=np.float64).round().astype(np.int64)
        return out["image"], np.asarray(out["bboxes"], dtype=np.float64).reshape(-1, 4), kept


def build_transform(
    spec: str | DetectionTransform, image_size: int, *, flip: bool = True, turn: bool = False
) -> DetectionTransform:
    """The training transform.

    Args:
        spec: ``"none"`` (resize only), ``"light"``, ``"strong"``, ``"paper"``, the import path of a transform or of a
            class that makes one without arguments, or a transform.
        image_size: longer side of the result (``"paper"`` has its own sizes).
        flip: whether a preset may mirror.
        turn: whether a preset may turn pictures upside down.

    Raises:
        UserError: if the name is no preset and no import path, or what it names cannot be called.
    """
    if not isinstance(spec, str):
        if not callable(spec):
            raise UserError(f"transform must be a name, an import path or callable, got {type(spec).__name__}.")
        return spec
    if spec == "none":
        return ResizeLongest(image_size)
    if spec == "light":
        return LightAugment(image_size, flip=flip, turn=turn)
    if spec == "strong":
        return StrongAugment(image_size, flip=flip, turn=turn)
    if spec == "paper":
        return PaperAugment(flip=flip, turn=turn)
    return _imported(spec)


def eval_transform(image_size: int, shortest_side: int | None = None) -> DetectionTransform:
    """The transform of evaluation and prediction: what ``DataInfo.image_size`` and ``DataInfo.shortest_side`` say."""
    return ResizeLongest(image_size) if shortest_side is None else ResizeShortest(shortest_side, image_size)


def _imported(path: str) -> DetectionTransform:
    module, _, name = path.rpartition(".")
    remedy = f"use one of {', '.join(TRANSFORMS)} or an import path such as my_package.MyTransform"
    if not module:
        raise UserError(f"There is no transform {path!r}: {remedy}.")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"The transform {path!r} cannot be imported ({error}): {remedy}.") from error
    made: Any = found() if isinstance(found, type) else found
    if not callable(made):
        raise UserError(f"The transform {path!r} is a {type(made).__name__} and cannot be called: {remedy}.")
    transform: DetectionTransform = made
    return transform


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value
