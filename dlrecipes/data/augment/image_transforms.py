"""Augmentation of whole images, one at a time on the host: a small protocol, presets, anyone's albumentations.

A transform is a pure function of the image and a seed, so a sample does not depend on the worker that made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.augment.transforms import import_albumentations
from dlrecipes.errors import UserError
from dlrecipes.parts import import_object

__all__ = ["IMAGE_PRESETS", "AlbumentationsImages", "ImageTransform", "build_image_transform"]

IMAGE_PRESETS = ("none", "light", "strong")

_ROTATION = 10  # degrees, of small pictures that must not be mirrored


@runtime_checkable
class ImageTransform(Protocol):
    """What augments one image. A function with this signature will do."""

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Transform one image.

        Args:
            image: uint8 [H, W, 3], RGB; may be read-only.
            seed: the only source of randomness.

        Returns:
            uint8 [H', W', 3]; where it is not the square that the batch needs, it is scaled and its centre taken.
        """


class AlbumentationsImages:
    """Any albumentations transforms as an `ImageTransform`.

    Each call is seeded: 2.0.8 otherwise repeats itself across workers and epochs.

    Args:
        transforms: one or several.

    Example:
        >>> import albumentations as A
        >>> transform = AlbumentationsImages(A.HorizontalFlip(p=1.0))
        >>> transform(np.arange(6, dtype=np.uint8).reshape(1, 2, 3), seed=0).tolist()
        [[[3, 4, 5], [0, 1, 2]]]
    """

    def __init__(self, transforms: Sequence[Any] | Any) -> None:
        given = list(transforms) if isinstance(transforms, Sequence) else [transforms]
        self._compose = import_albumentations().Compose(given)

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        self._compose.set_random_seed(seed)
        changed: NDArray[np.uint8] = self._compose(image=np.ascontiguousarray(image))["image"]
        return changed


def build_image_transform(
    spec: str | ImageTransform,
    image_size: int = 224,
    *,
    small: bool = False,
    mirror: bool = True,
    border: str = "reflect",
) -> ImageTransform | None:
    """The training transform; None for the preset ``"none"``, which is what evaluation does.

    Args:
        spec: a preset, the import path of a transform or of a class that makes one without arguments, or a transform.
        image_size: side of the result; that of the pictures themselves if they are ``small``.
        small: pictures of one size of at most 64 pixels: crop with a margin of an eighth instead of a random part.
        mirror: whether a preset may mirror.
        border: what a preset puts where there is no picture: ``"reflect"`` or ``"zero"``.

    Raises:
        UserError: if the name is no preset and cannot be imported, or what it names cannot be called.
    """
    if isinstance(spec, str):
        if spec == "none":
            return None
        if spec in IMAGE_PRESETS:
            return AlbumentationsImages(_preset(spec, image_size, small, mirror, border))
        spec = _imported(spec)
    if not callable(spec):
        raise UserError(f"augment must be a name, an import path or callable, got {type(spec).__name__}.")
    return spec


def _imported(path: str) -> Any:
    remedy = f"use one of {', '.join(IMAGE_PRESETS)} or an import path such as my_package.MyTransform"
    if "." not in path:
        raise UserError(f"There is no augmentation {path!r}: {remedy}.")
    try:
        found = import_object(path)
    except UserError as error:
        raise UserError(f"The augmentation {path!r} cannot be used ({error}): {remedy}.") from error
    return found() if isinstance(found, type) else found


def _preset(name: str, side: int, small: bool, mirror: bool, border: str) -> list[Any]:
    A = import_albumentations()
    chain: list[Any]
    outside = {"border_mode": cv2.BORDER_REFLECT_101 if border == "reflect" else cv2.BORDER_CONSTANT, "p": 1.0}
    if small:
        chain = [A.Pad(padding=round(side / 8), **outside), A.RandomCrop(side, side)]
        if not mirror:
            chain.append(A.Affine(rotate=(-_ROTATION, _ROTATION), **outside))
    else:
        least = 0.35 if name == "light" else 0.2
        chain = [A.RandomResizedCrop(size=(side, side), scale=(least, 1.0), area_for_downscale="image")]
    if mirror:
        chain.append(A.HorizontalFlip(p=0.5))
    return chain if name == "light" else [*chain, *_strong(A, outside)]


def _strong(A: Any, outside: dict[str, Any]) -> list[Any]:
    """One change of shape or colour at random strength, as TrivialAugment, and in a quarter a rectangle erased."""
    still = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": (0.0, 0.0), "p": 1.0}
    changes = [
        A.NoOp(p=1.0),
        A.Affine(rotate=(-30, 30), **outside),
        A.Affine(shear={"x": (-17, 17), "y": (0, 0)}, **outside),
        A.Affine(shear={"x": (0, 0), "y": (-17, 17)}, **outside),
        A.Affine(translate_percent={"x": (-0.25, 0.25), "y": (0.0, 0.0)}, **outside),
        A.Affine(translate_percent={"x": (0.0, 0.0), "y": (-0.25, 0.25)}, **outside),
        A.ColorJitter(**{**still, "brightness": (0.3, 1.7)}),
        A.ColorJitter(**{**still, "contrast": (0.3, 1.7)}),
        A.ColorJitter(**{**still, "saturation": (0.1, 1.9)}),
        A.ColorJitter(**{**still, "hue": (-0.05, 0.05)}),
        A.UnsharpMask(blur_limit=(3, 5), alpha=(0.3, 1.0), p=1.0),
        A.Solarize(threshold_range=(0.3, 1.0), p=1.0),
        A.Posterize(num_bits=(3, 7), p=1.0),
        A.AutoContrast(p=1.0),
    ]
    erase = A.Erasing(scale=(0.02, 0.33), ratio=(0.3, 3.3), fill="random_uniform", p=0.25)
    return [A.OneOf(changes, p=1.0), erase]
