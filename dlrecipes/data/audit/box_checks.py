"""Checks of boxes: what proves that a file was misread is refused, what a single box got wrong is repaired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.audit.turned import fits_turned_only
from dlrecipes.data.formats.layout import shown
from dlrecipes.data.formats.records import DetectionRecord, Finding, box_areas
from dlrecipes.errors import UserError

__all__ = ["MIN_SIDE", "refuse_misread_boxes", "refuse_non_finite_boxes", "refuse_turned_boxes", "repair_boxes"]

MIN_SIDE = 0.01
"""Sides below this many pixels are no area: what is left of a box at the edge by rounding, not an object."""

# Shares of a split's boxes beyond which the reading is wrong, not the boxes.
_MOST, _THIRD = 0.95, 1 / 3


def refuse_non_finite_boxes(records: Sequence[DetectionRecord], root: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        UserError: naming file, object and image.
    """
    for record in records:
        bad = np.flatnonzero(~np.isfinite(record.boxes).all(axis=1))
        if len(bad):
            raise UserError(
                f"{_where(record, int(bad[0]), root)} (image {shown(record.path, root)}): "
                f"box {_numbers(record.boxes[bad[0]])} is not finite; correct or remove it."
            )


def refuse_misread_boxes(split: str, records: Sequence[DetectionRecord], file_format: str, root: str) -> None:
    """Refuse a split whose boxes, taken together, cannot be what the format says.

    Args:
        split: name, for the message.
        records: finite boxes, true image sizes.
        file_format: ``DetectionSource.format``.
        root: data set folder, for messages.

    Raises:
        UserError: if the boxes look normalised where pixels are due, like corners where sizes are due (COCO), like
            sizes where corners are due (VOC, CSV), or lie outside their images for the most part.
    """
    filled = [r for r in records if len(r.boxes)]
    if not filled:
        return
    boxes = np.concatenate([r.boxes for r in filled])
    sizes = np.concatenate([np.tile([float(r.width), float(r.height)], (len(r.boxes), 1)) for r in filled])
    first, last = filled[0], boxes[:, 2:]
    if file_format in ("coco", "voc", "csv") and boxes.max() <= 1.5 and sizes.min() > 4:
        raise UserError(
            f"{_where(first, 0, root)}: box {_numbers(first.boxes[0])} and all others of {split!r} look normalised "
            "(none exceeds 1.5), but pixels are due; multiply by the image's width and height, or use the YOLO format."
        )
    if file_format == "coco":
        over = _any(last > 1.05 * sizes)
        as_sizes = last - boxes[:, :2]
        as_corners = ((as_sizes > boxes[:, :2]) & (as_sizes <= sizes + 1)).all(axis=1)
        if over.mean() >= _THIRD and as_corners.mean() >= _MOST:
            raise UserError(
                f"{_example(filled, over, root)} reach beyond their images, but fit as corners: the boxes of {split!r} "
                "look like [x1, y1, x2, y2] where COCO has [x, y, width, height]; subtract the first corner."
            )
    if file_format in ("voc", "csv"):
        reversed_ = _any(last <= boxes[:, :2])
        as_box = (boxes[:, :2] + last <= sizes + 1).all(axis=1)
        if reversed_.mean() >= _THIRD and as_box.mean() >= _MOST:
            raise UserError(
                f"{_example(filled, reversed_, root)} end before they begin, but fit as sizes: the boxes of {split!r} "
                "look like [x, y, width, height] where corners are due; add the first corner."
            )
    outside = _any((last <= 0) | (boxes[:, :2] >= sizes))
    if outside.mean() > 0.5:
        raise UserError(
            f"{_example(filled, outside, root)} lie entirely outside their images ({split!r}); "
            "the annotations belong to other images or to another image size: export them again."
        )


def refuse_turned_boxes(records: Sequence[DetectionRecord], root: str) -> None:
    """Refuse boxes that leave the pictures as they are stored, and fit them as their EXIF tag turns them.

    Args:
        records: of images that their EXIF tag turns by 90 degrees, and that are not to be read so
            (`dlrecipes.data.audit.turned.turned_pictures`); finite boxes, sizes of the stored images.
        root: data set folder, for messages.

    Raises:
        UserError: if more boxes end beyond the stored picture alone than beyond the turned one alone.
    """
    filled = [r for r in records if len(r.boxes)]
    if not filled:
        return
    evidence = np.concatenate([fits_turned_only(r.boxes, (r.width, r.height)) for r in filled])
    against = np.concatenate([fits_turned_only(r.boxes, (r.height, r.width)) for r in filled])
    if evidence.sum() > against.sum():
        raise UserError(
            f"{_example(filled, evidence, root)} fit only the pictures as their EXIF tag turns them, though the "
            "annotations state the size of the stored ones; save the pictures rotated (for example by "
            "`mogrify -auto-orient`)."
        )


def repair_boxes(record: DetectionRecord, root: str = "") -> tuple[DetectionRecord, list[Finding]]:
    """Clip boxes to the image and drop those without area.

    Every box that is left satisfies 0 ≤ x1 < x2 ≤ width and 0 ≤ y1 < y2 ≤ height. A record whose boxes are all fine
    is returned as it is. Areas shrink with a clipped box, in proportion.

    Args:
        record: finite boxes, true image size.
        root: data set folder, for the findings.

    Returns:
        The record and one finding for each box that was changed or dropped.
    """
    limit = np.array([record.width, record.height] * 2, dtype=np.float64)
    clipped = np.clip(record.boxes, 0.0, limit)
    flat = _any(record.boxes[:, 2:] - record.boxes[:, :2] < MIN_SIDE)
    gone = _any(clipped[:, 2:] - clipped[:, :2] < MIN_SIDE)
    moved = _any(np.abs(clipped - record.boxes) > MIN_SIDE)
    if not (gone.any() or (clipped != record.boxes).any()):
        return record, []
    findings = []
    for i in np.flatnonzero(gone | moved):
        kind = "box over the edge (clipped)"
        if gone[i]:
            kind = "box without area (dropped)" if flat[i] else "box outside the image (dropped)"
        detail = f"box {_numbers(record.boxes[i])} in {record.width}x{record.height}"
        findings.append(Finding(kind, _where(record, int(i), root), detail))
    keep = ~gone
    before, after = box_areas(record.boxes), box_areas(clipped)
    known = np.isfinite(record.areas) & np.isfinite(before) & (before > 0)
    areas = np.where(known, record.areas, after)
    areas[known] *= after[known] / before[known]
    return replace(record, boxes=clipped, areas=areas).select(keep), findings


def _any(condition: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Per box: whether any of its coordinates meets the condition."""
    return np.asarray(condition.any(axis=1), dtype=np.bool_)


def _where(record: DetectionRecord, index: int, root: str) -> str:
    return f"{shown(record.annotation or record.path, root)}, {record.object_name(index)}"


def _example(records: Sequence[DetectionRecord], chosen: NDArray[np.bool_], root: str) -> str:
    """``"2 of 9 boxes, such as a.xml, object 3: box [...] in 640x480,"``: the first of the chosen boxes."""
    owner = [(r, i) for r in records for i in range(len(r.boxes))]
    record, index = owner[int(np.flatnonzero(chosen)[0])]
    return (
        f"{int(chosen.sum())} of {len(chosen)} boxes, such as {_where(record, index, root)}: "
        f"box {_numbers(record.boxes[index])} in {record.width}x{record.height},"
    )


def _numbers(box: NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{v:g}" for v in box) + "]"
