"""What is done to a batch of images once it is on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dlrecipes.contracts import ImageBatch
from dlrecipes.data.augment.device_augment import DeviceAugment
from dlrecipes.data.augment.image_resize import evaluation_batch
from dlrecipes.data.augment.mixing import MixSamples

__all__ = ["DeviceStep"]


@dataclass(frozen=True)
class DeviceStep:
    """Augment, scale, mix. Evaluation: scale.

    Attributes:
        image_size: side of the squares that the model sees.
        crop_fraction: see `dlrecipes.contracts.DataInfo`; in training all of the picture is used.
        augment: of pictures in their own size; None where the data set has done it.
        mix: None: not.
    """

    image_size: int
    crop_fraction: float
    augment: DeviceAugment | None = None
    mix: MixSamples | None = None

    @torch.no_grad()
    def __call__(self, batch: ImageBatch, *, training: bool) -> ImageBatch:
        """The batch as the model gets it: images uint8 or, after mixing, float32 [B, 3, image_size, image_size]."""
        images = batch["images"]
        if training and self.augment is not None:
            images = self.augment(images, batch.get("draw", batch["index"]), batch["epoch"])
        if images.shape[-1] != self.image_size:
            images = evaluation_batch(images, self.image_size, 1.0 if training else self.crop_fraction)
        batch = {**batch, "images": images.contiguous()}
        return self.mix(batch) if training and self.mix is not None else batch
