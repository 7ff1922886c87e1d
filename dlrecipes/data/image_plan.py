"""What is done to the pictures of a data set, worked out of the options and the data before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from dlrecipes.contracts import evaluation_side
from dlrecipes.data.augment.device_augment import DeviceAugment
from dlrecipes.data.augment.device_step import DeviceStep
from dlrecipes.data.augment.image_transforms import IMAGE_PRESETS, ImageTransform, build_image_transform
from dlrecipes.data.augment.mixing import MIXES, MixSamples
from dlrecipes.data.formats.image_source import ImageSource
from dlrecipes.data.loading.workers import at_least
from dlrecipes.data.splits.image_facts import SMALL_SIDE, are_digits, small_side
from dlrecipes.errors import UserError

__all__ = ["ImageOptions", "ImagePlan"]

_PHOTO_SIZE = 224
_PHOTO_CROP = 0.875
_TRAIN_DETAIL = 1.5  # training pictures are kept that much larger, since crops of them are enlarged


@dataclass(frozen=True)
class ImagePlan:
    """What happens to a picture on its way.

    Attributes:
        small: side of the pictures if they are equal squares of at most `SMALL_SIDE`: they stay so until they are on
            the device. None otherwise.
        transform: what the data set does in training, picture by picture; None: what evaluation does.
        step: what is done on the device.
        notes: what was decided, one sentence each.
    """

    small: int | None
    transform: ImageTransform | None
    step: DeviceStep
    notes: tuple[str, ...]

    def batch_side(self, *, training: bool) -> int | None:
        """Side of the squares that the data set hands out; None: the pictures' own."""
        stays = self.small is not None and not (training and self.transform is not None)
        return None if stays else self.step.image_size

    def cache_side(self, *, training: bool) -> int | None:
        """Pixels of the shorter side in the cache, at most; None: pictures are kept as they are."""
        if self.small is not None:
            return None
        if training and self.transform is not None:
            return round(_TRAIN_DETAIL * self.step.image_size)
        return evaluation_side(self.step.image_size, self.step.crop_fraction)


class ImageOptions:
    """The options of `dlrecipes.data.ClassificationData` that say what happens to pictures; see there.

    Raises:
        UserError: for a value that no data could make right.
    """

    def __init__(
        self,
        *,
        image_size: int | None,
        crop_fraction: float | None,
        augment: str | ImageTransform,
        mirror: bool | None,
        device_augment: bool | None,
        mix: str,
        mix_alpha: float | None,
        mix_prob: float,
        seed: int,
    ) -> None:
        at_least("image_size", image_size, 8)
        if crop_fraction is not None and not 0.0 < crop_fraction <= 1.0:
            raise UserError(f"crop_fraction must be above 0 and at most 1, got {crop_fraction}.")
        if mix not in MIXES:
            raise UserError(f"mix must be one of {', '.join(MIXES)}, got {mix!r}.")
        if mix_alpha is not None and not mix_alpha > 0.0:
            raise UserError(f"mix_alpha must be greater than 0, got {mix_alpha}.")
        if not 0.0 <= mix_prob <= 1.0:
            raise UserError(f"mix_prob must be in 0..1, got {mix_prob}.")
        self.preset = augment if isinstance(augment, str) and augment in IMAGE_PRESETS else None
        self.transform = None if self.preset else build_image_transform(augment)
        if device_augment and self.preset is None:
            raise UserError(f"device_augment needs a preset ({', '.join(IMAGE_PRESETS)}), not a transform.")
        self.image_size = image_size
        self.crop_fraction = crop_fraction
        self.mirror = mirror
        self.device_augment = device_augment
        self.mix, self.mix_alpha, self.mix_prob = mix, mix_alpha, mix_prob
        self.seed = seed

    def plan(self, source: ImageSource) -> ImagePlan:
        """For an audited source.

        Raises:
            UserError: if an option does not go with the data.
        """
        small = small_side(source)
        size = self.image_size or small or _PHOTO_SIZE
        crop = self.crop_fraction or (1.0 if small else _PHOTO_CROP)
        if self.device_augment and not small:
            raise UserError(
                f"device_augment needs pictures that are equal squares of at most {SMALL_SIDE} pixels, and those of "
                f"{source.root} are not: leave it out."
            )
        notes = [f"The model sees {size} x {size} pixels; evaluation takes {crop:.1%} of the shorter side."]
        transform, on_device = self.transform, None
        if self.preset in ("light", "strong"):
            digits = are_digits(source.classes)
            mirror = not digits if self.mirror is None else self.mirror
            border = "zero" if digits else "reflect"  # strokes that go on beyond the edge would be other digits
            if not mirror and self.mirror is None:
                notes.append(
                    "Augmentation does not mirror, because the classes are called as the digits; mirror: true does."
                )
            if small and self.device_augment is not False:
                notes.append(f"Pictures of {small} pixels are augmented as whole batches on the device.")
                on_device = DeviceAugment(self.preset, mirror=mirror, border=border, seed=self.seed)
            else:
                transform = build_image_transform(
                    self.preset, small or size, small=bool(small), mirror=mirror, border=border
                )
        step = DeviceStep(size, crop, on_device, self._mixing(source))
        return ImagePlan(small, transform, step, tuple(notes))

    def _mixing(self, source: ImageSource) -> MixSamples | None:
        if self.mix == "none":
            return None
        if source.task == "regression" and self.mix != "mixup":
            raise UserError(
                f"mix {self.mix!r} cannot be used for regression, where a number does not go with the share of the "
                "area: use mixup or none."
            )
        if self.mix == "remix" and source.task != "classification":
            raise UserError(
                "mix 'remix' is for one label an image, of which it keeps the rarer one: use mixup or none."
            )
        labels = len(source.classes) if source.task == "classification" else None
        return MixSamples(self.mix, num_classes=labels, alpha=self.mix_alpha, probability=self.mix_prob, seed=self.seed)
