"""Callbacks that show a person what a classifier or regressor is fed and what it says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor

from dlrecipes.contracts import DataInfo, ImageBatch, ImageOutput
from dlrecipes.runs.image_labels import agreement_color, compare_lines, describe_output, describe_target, target_lines
from dlrecipes.runs.pictures.sheets import BatchSheet, ValidationSheets
from dlrecipes.runs.pictures.tiles import draw_image_tile, to_uint8
from dlrecipes.runs.tracking.tracked import ImageTracker

__all__ = ["ImageBatchPicture", "ImagePredictions", "LabelledImage", "spread"]

_SIDE = 260
_COLUMNS = 4


@dataclass(frozen=True)
class LabelledImage:
    """One image with its truth and what was predicted, all on the CPU.

    Attributes:
        image: uint8 [3, S, S], RGB.
        path: file name.
        target, output: one row of an ``ImageBatch``'s targets and of an ``ImageOutput``'s outputs.
    """

    image: Tensor
    path: str
    target: Tensor
    output: Tensor


class ImageBatchPicture(BatchSheet):
    """Before step 0, saves the first training batch as the model will see it, after augmentation and mixing.

    A wrong label, swapped channels or an augmentation that destroys what is to be seen is found here before an hour is
    spent on it. Soft targets read ``cat .70 + dog .30``. Not drawn again on a resume.

    Mixing must be done before the training step, as in the datamodule's ``on_after_batch_transfer``.

    Args:
        run: the picture goes to ``batch.png`` in it, and to the trackers.
        n: most images to draw.

    Raises:
        ValueError: ``n`` is below 1.
    """

    def tiles(self, batch: ImageBatch, n: int, info: DataInfo) -> list[Image.Image]:
        """Images with their targets."""
        images, targets = to_uint8(batch["images"][:n]).cpu(), batch["targets"][:n].cpu()
        return [
            draw_image_tile(image, [*target_lines(target, info), Path(path).name], _SIDE)
            for image, target, path in zip(images, targets, batch["paths"], strict=False)
        ]


class ImagePredictions(ValidationSheets[LabelledImage]):
    """At each validation, draws the same images with truth and prediction, framed green if right and red if wrong.

    The images are spread evenly over the split, since files often lie sorted by class. A long run is drawn about 50
    times, evenly, and at its end.

    Args:
        run: pictures go to ``predictions/epoch_XXX.png`` in it, the first epoch being 1, and to the trackers.
        n: images.

    Raises:
        ValueError: ``n`` is below 1.
    """

    def positions(self, trainer: Trainer, batch_size: int) -> Collection[int]:
        """Evenly spread over what rank 0 validates, which is itself every W-th image of the split."""
        loader: Any = trainer.val_dataloaders
        loader = loader[0] if isinstance(loader, list | tuple) else loader
        total = trainer.num_val_batches[0] * batch_size
        with suppress(AttributeError, TypeError):  # a loader without it: the last batch may be smaller than thought
            total = min(total, len(loader.sampler))
        return spread(int(total), self.n) if total != float("inf") else range(self.n)

    def pick(self, batch: ImageBatch, index: int, outputs: ImageOutput) -> LabelledImage:
        """One image with its truth and prediction."""
        return LabelledImage(
            to_uint8(batch["images"][index]).cpu(),
            Path(batch["paths"][index]).name,
            batch["targets"][index].cpu(),
            outputs["outputs"][index].float().cpu(),
        )

    def draw(self, pictures: Sequence[LabelledImage], info: DataInfo) -> tuple[list[Image.Image], int]:
        """A framed tile for each image."""
        tiles = [
            draw_image_tile(
                picture.image,
                compare_lines(picture.target, picture.output, info),
                _SIDE,
                agreement_color(picture.target, picture.output, info),
            )
            for picture in pictures
        ]
        return tiles, _COLUMNS

    def track(self, trainer: Trainer, pictures: Sequence[LabelledImage], info: DataInfo, step: int) -> None:
        """Each image by itself, so that the tracker can show one over the steps."""
        captions = [
            f"{p.path}: true {describe_target(p.target, info)}, said {describe_output(p.output, info)}"
            for p in pictures
        ]
        for logger in trainer.loggers:
            if isinstance(logger, ImageTracker):
                logger.log_images("val/predictions", [p.image for p in pictures], captions, step)


def spread(total: int, n: int) -> Collection[int]:
    """``n`` positions in the middle of equal parts of ``range(total)``; all where there are no more.

    >>> sorted(spread(100, 4)), list(spread(3, 4))
    ([12, 37, 62, 87], [0, 1, 2])
    """
    return range(total) if total <= n else {(2 * i + 1) * total // (2 * n) for i in range(n)}
