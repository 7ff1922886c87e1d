"""Samples as pure functions of (seed, epoch, index): annotated files, the embedded scenes, bare files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from dlrecipes.data.augment.transforms import DetectionTransform
from dlrecipes.data.embedded.scenes import DigitScenes
from dlrecipes.data.formats.records import DetectionRecord, box_areas
from dlrecipes.data.loading.cache import ImageCache
from dlrecipes.data.loading.collate import DetectionSample
from dlrecipes.data.loading.decode import read_image
from dlrecipes.data.loading.sampler import sample_seed
from dlrecipes.errors import UserError

__all__ = ["PredictImages", "RecordDataset", "SceneDataset", "epoch_and_index", "transformed"]


class RecordDataset(Dataset[DetectionSample]):
    """Annotated files.

    Args:
        records: as after the audit.
        cache: their decoded pictures.
        transform: see `DetectionTransform`.
        seed: with epoch and index, the source of all randomness.
        drop_crowd: leave crowd regions out (training).
    """

    def __init__(
        self,
        records: Sequence[DetectionRecord],
        cache: ImageCache,
        transform: DetectionTransform,
        *,
        seed: int = 0,
        drop_crowd: bool = False,
    ) -> None:
        self.records = [record.select(~record.iscrowd) for record in records] if drop_crowd else list(records)
        self.cache = cache
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int] | int) -> DetectionSample:
        """Sample ``(epoch, index)``; a bare index means epoch 0.

        An index of n or more is a further copy of record ``index % n``, with random numbers of its own.
        """
        epoch, index = epoch_and_index(key)
        return transformed(self.read(index), self.transform, sample_seed(self.seed, epoch, index))

    def read(self, index: int) -> DetectionSample:
        """A sample that is not transformed yet: the cached picture, which is read-only, and boxes in its pixels."""
        index %= len(self)
        record, image = self.records[index], self.cache[index]
        height, width = image.shape[:2]
        boxes = record.boxes
        if (width, height) != (record.width, record.height):
            boxes = boxes * np.array([width / record.width, height / record.height] * 2)
        return {
            "image": image,
            "boxes": boxes,
            "labels": record.labels,
            "area": record.areas,
            "iscrowd": record.iscrowd,
            "image_id": index,
            "path": record.path,
            "orig_size": (record.height, record.width),
        }


class SceneDataset(Dataset[DetectionSample]):
    """The embedded scenes; arguments as in `RecordDataset`."""

    def __init__(self, scenes: DigitScenes, transform: DetectionTransform, *, seed: int = 0) -> None:
        self.scenes = scenes
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key: tuple[int, int] | int) -> DetectionSample:
        """Sample ``(epoch, index)``; a bare index means epoch 0."""
        epoch, index = epoch_and_index(key)
        image, boxes, labels = self.scenes.scene(epoch, index)
        sample: DetectionSample = {
            "image": image,
            "boxes": boxes,
            "labels": labels,
            "area": box_areas(boxes),
            "iscrowd": np.zeros(len(labels), dtype=np.bool_),
            "image_id": index,
            "path": f"scene:{self.scenes.split}:{index}",
            "orig_size": (self.scenes.size, self.scenes.size),
        }
        return transformed(sample, self.transform, sample_seed(self.seed, epoch, index))


class PredictImages(Dataset[DetectionSample]):
    """Pictures without annotations: targets are empty.

    Args:
        paths: image files, as from `dlrecipes.data.loading.predict.find_images`.
        transform: that of evaluation.
    """

    def __init__(self, paths: Sequence[str], transform: DetectionTransform) -> None:
        self.paths = list(paths)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int] | int) -> DetectionSample:
        """Raises `UserError` if the file cannot be decoded."""
        _, index = epoch_and_index(key)
        image = read_image(self.paths[index], turned=True)  # as whoever took the picture sees it
        sample: DetectionSample = {
            "image": image,
            "boxes": np.zeros((0, 4)),
            "labels": np.zeros(0, dtype=np.int64),
            "area": np.zeros(0),
            "iscrowd": np.zeros(0, dtype=np.bool_),
            "image_id": index,
            "path": self.paths[index],
            "orig_size": (image.shape[0], image.shape[1]),
        }
        return transformed(sample, self.transform, 0)


def epoch_and_index(key: tuple[int, int] | int) -> tuple[int, int]:
    """What a sampler asked for; a bare index means epoch 0."""
    return key if isinstance(key, tuple) else (0, key)


def transformed(sample: DetectionSample, transform: DetectionTransform, seed: int) -> DetectionSample:
    """The sample after ``transform``, whose result is checked.

    Raises:
        UserError: if the transform does not return what `DetectionTransform` promises.
    """
    image, boxes, kept = transform(sample["image"], sample["boxes"], sample["labels"], seed)
    if (
        image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or boxes.shape != (len(kept), 4)
        or not np.issubdtype(kept.dtype, np.integer)
        or not np.isfinite(boxes).all()
        or not ((kept >= 0) & (kept < len(sample["labels"]))).all()
    ):
        raise UserError(
            f"The transform {type(transform).__name__} returned image {image.dtype} {list(image.shape)}, boxes "
            f"{list(boxes.shape)} and kept {kept.dtype} {list(kept.shape)} for {sample['path']}, which holds "
            f"{len(sample['labels'])} objects: it must return uint8 [H, W, 3], finite [m, 4], and m of their positions."
        )
    return {
        **sample,
        "image": image,
        "boxes": boxes,
        "labels": sample["labels"][kept],
        "area": sample["area"][kept],
        "iscrowd": sample["iscrowd"][kept],
    }
