"""Pictures without labels, as evaluation would see them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from dlrecipes.contracts import DataInfo
from dlrecipes.data.formats.image_files import PathImages
from dlrecipes.data.formats.image_source import ImageTable
from dlrecipes.data.loading.image_dataset import ImageDataset, unchanged
from dlrecipes.data.loading.predict import find_images
from dlrecipes.data.loading.sampler import EpochSampler

__all__ = ["image_predict_loader"]


def image_predict_loader(
    paths: str | Path | Sequence[str | Path],
    info: DataInfo,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Any]:
    """Batches (`dlrecipes.contracts.ImageBatch`) of bare pictures; targets are zeros of the task's type and width.

    Args:
        paths: image files, folders, or both.
        info: says how evaluation scales and crops, and what targets look like.
        batch_size, num_workers: as in ``DataLoader``.
        rank, world_size: this process among all; picture p goes to rank ``p % world_size``.

    Raises:
        UserError: if a path is missing or a folder holds no image; while reading, if a file cannot be decoded.
    """
    files = find_images(paths)
    table = ImageTable(PathImages(files), _no_targets(info, len(files)))
    dataset = ImageDataset(table, None, image_size=info.image_size, crop_fraction=info.crop_fraction)
    sampler = EpochSampler(len(dataset), shuffle=False, rank=rank, world_size=world_size)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers, collate_fn=unchanged)


def _no_targets(info: DataInfo, count: int) -> NDArray[Any]:
    if info.task == "classification":
        return np.zeros(count, dtype=np.int64)
    return np.zeros((count, len(info.target_names) or info.num_classes), dtype=np.float32)
