"""Facts about detection data: which splits are used, and the `DataInfo` that parts are told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dlrecipes.contracts import DataInfo
from dlrecipes.data.augment.geometry import longest_side
from dlrecipes.data.augment.geometry import shortest_side as scaled_shortest
from dlrecipes.data.embedded.scenes import CLASSES, MAX_OBJECTS, DigitScenes
from dlrecipes.data.formats.records import DetectionRecord, DetectionSource
from dlrecipes.data.loading.decode import read_image
from dlrecipes.data.splits.image_facts import pixel_statistics
from dlrecipes.data.splits.split_records import FindBoxCopies, missing_parts, split_by_seed
from dlrecipes.errors import UserError

__all__ = ["files_info", "scenes_info", "scenes_report", "with_splits"]

_PICTURES = 50  # whose pixels are looked at: photographs in full size, which take some milliseconds each


def with_splits(
    source: DetectionSource,
    names: tuple[str, str, str],
    *,
    val_fraction: float,
    seed: int,
    find_copies: FindBoxCopies | None = None,
) -> DetectionSource:
    """The source with the splits that are used, in the order train, val, test; missing ones are made by seed.

    Args:
        source: as read.
        names: of the splits to train, validate and test on. A test split that does not exist is left out.
        val_fraction, seed: see `dlrecipes.data.DetectionData`.
        find_copies: see `dlrecipes.data.splits.split_records.split_by_seed`.

    Raises:
        UserError: if a name that is not the default one does not exist.
    """
    fractions = missing_parts(source.root, source.splits, names, val_fraction)
    if fractions is not None:
        source = split_by_seed(source, seed, fractions, find_copies=find_copies)
    return replace(source, splits={name: source.splits[name] for name in names if name in source.splits})


def files_info(
    source: DetectionSource, train_split: str, *, image_size: int, shortest_side: int | None = None
) -> DataInfo:
    """Facts about an audited source; crowd regions do not count as objects."""
    train = source.splits[train_split]
    counts = np.zeros(len(source.classes), dtype=np.int64)
    for record in train:
        counts += np.bincount(record.labels[~record.iscrowd], minlength=len(counts))
    pixels = pixel_statistics(lambda index: read_image(train[index].path), len(train), most=_PICTURES)
    return DataInfo(
        task="detection",
        classes=source.classes,
        category_ids=source.category_ids,
        class_counts=tuple(counts.tolist()),
        num_train=len(train),
        max_objects=max(int((~record.iscrowd).sum()) for records in source.splits.values() for record in records),
        image_size=image_size,
        shortest_side=shortest_side,
        image_shape=_usual_shape(train, image_size, shortest_side),
        pixel_mean=pixels[0],
        pixel_std=pixels[1],
    )


def _usual_shape(records: Sequence[DetectionRecord], image_size: int, shorter: int | None) -> tuple[int, ...]:
    """(height, width) that most images have after the evaluation transform; the first of those that tie."""
    stored = Counter((r.height, r.width) for r in records)
    shapes: Counter[tuple[int, int]] = Counter()
    for shape, count in stored.items():
        side = longest_side(shape, image_size) if shorter is None else scaled_shortest(shape, shorter, image_size)
        shapes[side] += count
    return shapes.most_common(1)[0][0] if shapes else ()


def scenes_info(
    scenes: DigitScenes, *, image_size: int, shortest_side: int | None = None, max_queries: int | None = None
) -> DataInfo:
    """Facts about embedded training scenes; classes are counted in those of epoch 0.

    Raises:
        UserError: if scenes may hold more objects than there are queries.
    """
    if max_queries is not None and max_queries < MAX_OBJECTS:
        raise UserError(
            f"The embedded scenes hold up to {MAX_OBJECTS} objects, but max_queries is {max_queries}: raise it."
        )
    labels = np.concatenate([scenes.labels(0, index) for index in range(len(scenes))])
    pixels = pixel_statistics(lambda index: scenes.scene(0, index)[0], len(scenes), most=_PICTURES)
    return DataInfo(
        task="detection",
        classes=CLASSES,
        category_ids=tuple(range(1, len(CLASSES) + 1)),  # as in the export: COCO counts from 1
        class_counts=tuple(np.bincount(labels, minlength=len(CLASSES)).tolist()),
        num_train=len(scenes),
        max_objects=MAX_OBJECTS,
        image_size=image_size,
        shortest_side=shortest_side,
        pixel_mean=pixels[0],
        pixel_std=pixels[1],
    )


def scenes_report(info: DataInfo) -> str:
    """Objects of each class as a table of text."""
    rows = [*zip(info.classes, info.class_counts, strict=True), ("all", sum(info.class_counts))]
    table = "\n".join(f"  {name:<6} {count:>6}" for name, count in rows)
    return f"Embedded scenes, objects of {info.num_train} training scenes (epoch 0):\n{table}\n"
