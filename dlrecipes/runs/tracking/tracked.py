"""Pictures of the run folder that also go to the trackers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor

__all__ = ["ImageTracker", "Picture", "TableTracker", "track_pictures"]

Picture = str | os.PathLike[str] | Image.Image | Tensor
"""A file, or pixels: PIL, or uint8 [3, H, W]."""


@runtime_checkable
class ImageTracker(Protocol):
    """A Lightning logger that takes pictures; ``WandbTracker`` is one, and a user's own may be."""

    def log_images(
        self, key: str, images: Sequence[Picture], captions: Sequence[str] | None = None, step: int | None = None
    ) -> None: ...


@runtime_checkable
class TableTracker(Protocol):
    """A Lightning logger that takes tables, with pictures in their cells; ``WandbTracker`` is one."""

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[object]], step: int | None = None
    ) -> None: ...


def track_pictures(trainer: Trainer, pictures: Mapping[str, Path], step: int) -> None:
    """Hand files to every logger that takes pictures; a file that could not be written is left out.

    Args:
        trainer: its loggers are asked.
        pictures: name of the panel -> file.
        step: global step.
    """
    for logger in trainer.loggers:
        if isinstance(logger, ImageTracker):
            for key, path in pictures.items():
                if path.exists():
                    logger.log_images(key, [path], step=step)
