"""The one record type that every detection format becomes, and the parsed data set that holds them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrecipes.functional.words import visible

__all__ = ["DetectionRecord", "DetectionSource", "Finding", "box_areas", "make_record"]


@dataclass(frozen=True, eq=False)
class DetectionRecord:
    """One image and its objects. Compared by identity: arrays have no single truth value.

    Attributes:
        path: image file.
        width, height: pixels of the image file (as annotated, 0 where that is unknown, until the audit has decoded it).
        boxes: float64 [n, 4], (x1, y1, x2, y2) in pixels of the image file.
        labels: int64 [n], contiguous: position in ``DetectionSource.classes``.
        areas: float64 [n], square pixels: COCO's own ``area`` where given, otherwise the box's.
        iscrowd: bool [n].
        image_id: the data set's own id of the image (COCO), otherwise a running number, unique within its split.
        annotation: where the objects were read from, for messages (empty: unknown).
        object_ids: the name of each object in that file (COCO's annotation id, a line number ...), for messages.
        turned: size and boxes are those of the picture turned upright as its EXIF orientation says, and it is read so;
            set by the audit.
    """

    path: str
    width: int
    height: int
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    iscrowd: NDArray[np.bool_]
    image_id: int
    annotation: str = ""
    object_ids: tuple[str, ...] = ()
    turned: bool = False

    def object_name(self, index: int) -> str:
        """What to call an object in a message: ``"annotation 17"``, ``"line 3"``, ``"object 2"``."""
        return self.object_ids[index] if index < len(self.object_ids) else f"object {index + 1}"

    def select(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> DetectionRecord:
        """The same image with some of its objects: a boolean mask or positions, applied to every per-object array."""
        picked = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep
        names = tuple(self.object_name(int(i)) for i in picked) if self.object_ids else ()
        return replace(
            self,
            boxes=self.boxes[picked],
            labels=self.labels[picked],
            areas=self.areas[picked],
            iscrowd=self.iscrowd[picked],
            object_ids=names,
        )


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the data, in a form that a report can group and count.

    Attributes:
        kind: short name of the group, such as ``"degenerate box"``.
        where: file and object, such as ``"Annotations/a.xml, object 2"``.
        detail: the values.
    """

    kind: str
    where: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}" if self.detail else self.where


@dataclass(frozen=True)
class DetectionSource:
    """A parsed detection data set.

    Attributes:
        root: folder that was given.
        format: ``"coco"``, ``"label-studio"``, ``"cvat"``, ``"voc"``, ``"yolo"``, ``"csv"`` or ``"scenes"``.
        splits: records by split; ``valid`` and ``train2017`` are called ``val`` and ``train``.
        classes: class names; position = contiguous label; the union over splits.
        category_ids: the data set's own id of each class, in the order of ``classes``.
        notes: what was decided while reading, one sentence each, for the printed table.
        problems: findings of the reader that are not yet repaired; the audit counts them or refuses.
    """

    root: str
    format: str
    splits: dict[str, list[DetectionRecord]]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[Finding, ...] = field(default=())

    def __post_init__(self) -> None:
        # Names go to terminals, tables and files: what is in them is to be seen, and to do nothing.
        object.__setattr__(self, "classes", tuple(map(visible, self.classes)))


def box_areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x2 − x1)(y2 − y1) of float64 [n, 4] boxes, zero where a side is not positive; float64 [n].

    >>> box_areas(np.array([[0.0, 0.0, 2.0, 3.0], [1.0, 1.0, 1.0, 5.0]])).tolist()
    [6.0, 0.0]
    """
    with np.errstate(over="ignore", invalid="ignore"):  # absurd coordinates: the audit clips or refuses them
        sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None)
        return np.asarray(sides[:, 0] * sides[:, 1], dtype=np.float64)


def make_record(
    path: str,
    size: tuple[int, int],
    boxes: Any,
    labels: Any,
    image_id: int,
    *,
    areas: Any = None,
    iscrowd: Any = None,
    annotation: str = "",
    object_ids: tuple[str, ...] = (),
) -> DetectionRecord:
    """Build a record from lists, with the dtypes and shapes that `DetectionRecord` promises, also for no objects.

    Args:
        path: image file.
        size: (width, height) in pixels.
        boxes: n × (x1, y1, x2, y2).
        labels: n contiguous labels.
        image_id, annotation, object_ids: see `DetectionRecord`.
        areas: n areas; the boxes' own if None.
        iscrowd: n flags; all False if None.

    Raises:
        ValueError: if the numbers of boxes, labels, areas or flags differ.

    >>> make_record("a.jpg", (8, 8), [], [], 0).boxes.shape
    (0, 4)
    """
    box = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    label = np.asarray(labels, dtype=np.int64).reshape(-1)
    area = box_areas(box) if areas is None else np.asarray(areas, dtype=np.float64).reshape(-1)
    crowd = np.zeros(len(box), dtype=np.bool_) if iscrowd is None else np.asarray(iscrowd, dtype=np.bool_).reshape(-1)
    if not len(box) == len(label) == len(area) == len(crowd):
        raise ValueError(f"{path}: {len(box)} boxes, {len(label)} labels, {len(area)} areas, {len(crowd)} crowd flags")
    return DetectionRecord(path, int(size[0]), int(size[1]), box, label, area, crowd, image_id, annotation, object_ids)
