"""What can be expected of detection data as it is: few images, empty ones, one class, crowds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dlrecipes.contracts import DataInfo
from dlrecipes.data.formats.records import DetectionRecord
from dlrecipes.functional.words import counted

__all__ = ["expectations"]

_FEWEST_IMAGES, _FEW_IMAGES = 20, 100  # of training
_FEW_BOXES = 10  # of a class, in training
_FEW_HELD_OUT = 20  # images of a split that is measured
_MANY_EMPTY = 0.5  # share of the training images
_CROWDED = 50  # objects in one image
_COUNTED = 100  # detections of an image that COCO's average precision looks at


def expectations(
    info: DataInfo,
    splits: Mapping[str, Sequence[DetectionRecord]],
    train_split: str,
    batch_size: int,
    *,
    strong: bool = False,
) -> list[str]:
    """One sentence for each property of the data that limits what a run on it can show.

    - fewer than 20 or 100 training images;
    - classes with 1 to 9 boxes in training (the audit names those with none);
    - one class;
    - more than half of the training images without objects, and how many batches have none at all;
    - 50 or more objects in one image, and more than the 100 detections that COCO's measure counts;
    - fewer than 20 images in a split that is measured, or no object.

    Args:
        info: facts about the data.
        splits: audited records.
        train_split: which of them is trained on.
        batch_size: images a batch on one device.
        strong: training images are augmented strongly as it is.
    """
    train = splits[train_split]
    found = [
        _few_images(len(train), strong),
        _rare_classes(info),
        _one_class(info),
        _empty(train, batch_size),
        *_crowds(splits),
    ]
    found += [_held_out(name, records) for name, records in splits.items() if name != train_split]
    return [sentence for sentence in found if sentence]


def _few_images(count: int, strong: bool) -> str:
    if count < _FEWEST_IMAGES:
        return (
            f"{counted(count, 'training image')}: expect a model that knows these by heart, not one that finds objects "
            "in others."
        )
    if count < _FEW_IMAGES:
        helps = "more images help most" if strong else "more images and --augment strong help most"
        return f"{count} training images are few: expect results to differ between seeds; {helps}."
    return ""


def _rare_classes(info: DataInfo) -> str:
    rare = [(n, name) for name, n in zip(info.classes, info.class_counts, strict=True) if 0 < n < _FEW_BOXES]
    if not rare or sum(info.class_counts) == 0:
        return ""
    named = ", ".join(f"{name} ({count})" for count, name in sorted(rare)[:5])
    more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
    return f"Fewer than {_FEW_BOXES} boxes to learn from for {named}{more}: expect little of their AP."


def _one_class(info: DataInfo) -> str:
    if info.num_classes != 1:
        return ""
    return f"One class ({info.classes[0]}): mAP is its AP, and nothing can be taken for another class."


def _empty(train: Sequence[DetectionRecord], batch_size: int) -> str:
    share = float(np.mean([not (~record.iscrowd).any() for record in train]))
    if share <= _MANY_EMPTY:
        return ""
    alone = share**batch_size
    return (
        f"{share:.0%} of the training images hold no object: they teach only what background is, and about "
        f"{alone:.0%} of the batches of {batch_size} hold none at all; expect to need more epochs."
    )


def _crowds(splits: Mapping[str, Sequence[DetectionRecord]]) -> Iterable[str]:
    counts = {name: [int((~record.iscrowd).sum()) for record in records] for name, records in splits.items()}
    most = max(max(of_split, default=0) for of_split in counts.values())
    if most >= _CROWDED:
        yield (
            f"Up to {most} objects in one image: the model needs more queries than that, and small objects that stand "
            "close a larger --data.image_size."
        )
    over = sum(count > _COUNTED for of_split in counts.values() for count in of_split)
    if over:
        yield (
            f"{counted(over, 'image')} with more than {_COUNTED} objects: COCO's mAP counts the best "
            f"{_COUNTED} detections of an image, so it cannot reach 1 on them."
        )


def _held_out(name: str, records: Sequence[DetectionRecord]) -> str:
    boxes = sum(int((~record.iscrowd).sum()) for record in records)
    if boxes == 0:
        return f"The {name} split holds no object in its {counted(len(records), 'image')}: it can have no mAP."
    if len(records) >= _FEW_HELD_OUT:
        return ""
    return (
        f"The {name} split holds {counted(len(records), 'image')} with {counted(boxes, 'box', 'boxes')}: expect "
        "its mAP to jump between epochs."
    )
