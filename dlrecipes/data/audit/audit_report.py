"""What the audit found: numbers for each split, findings, and the table that shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from dlrecipes.data.audit.report_print import PrintedReport, class_table, foreign, grouped, make_table, remarks
from dlrecipes.data.formats.records import DetectionRecord, DetectionSource, Finding, box_areas
from dlrecipes.functional.words import counted

__all__ = ["SIZE_BINS", "AuditReport", "SplitStats"]

_EDGES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SIZE_BINS = ("<0.5", "0.5-1", "1-2", "2-4", "4-8", "8-16", ">=16")
"""Bins of the box-size histogram: square root of the box's area, in feature cells."""


@dataclass(frozen=True)
class SplitStats:
    """Counts of one split. Objects are those that train: crowd regions are counted apart.

    Attributes:
        images: images.
        empty_images: images without objects.
        objects: objects.
        crowd: crowd regions.
        max_objects: most objects in one image.
        max_objects_image: that image.
        class_counts: objects of each class.
        size_counts: objects in each of ``SIZE_BINS``.
    """

    images: int
    empty_images: int
    objects: int
    crowd: int
    max_objects: int
    max_objects_image: str
    class_counts: tuple[int, ...]
    size_counts: tuple[int, ...]

    @classmethod
    def of(cls, records: Sequence[DetectionRecord], num_classes: int, stride: int) -> SplitStats:
        """Count records; box sizes are in pixels of the image files, divided by ``stride``."""
        counts = [int((~r.iscrowd).sum()) for r in records]
        labels = np.concatenate([np.zeros(0, np.int64), *(r.labels[~r.iscrowd] for r in records)])
        boxes = np.concatenate([np.zeros((0, 4)), *(r.boxes[~r.iscrowd] for r in records)])
        bins = np.digitize(np.sqrt(box_areas(boxes)) / stride, _EDGES)
        most = int(np.argmax(counts)) if counts else 0
        return cls(
            images=len(records),
            empty_images=counts.count(0),
            objects=len(labels),
            crowd=int(sum(r.iscrowd.sum() for r in records)),
            max_objects=counts[most] if counts else 0,
            max_objects_image=records[most].path if records else "",
            class_counts=tuple(np.bincount(labels, minlength=num_classes).tolist()),
            size_counts=tuple(np.bincount(bins, minlength=len(SIZE_BINS)).tolist()),
        )


@dataclass(frozen=True)
class AuditReport(PrintedReport):
    """Result of `dlrecipes.data.audit.audit_boxes.audit`.

    Attributes:
        source: the repaired data set: what the datamodule trains on.
        splits: counts by split, after repair.
        total: counts over all splits, each image once.
        findings: what was repaired, dropped or is odd, one by one.
        warnings: what is not an error but spoils results, one sentence each.
        stride: pixels per feature cell of the histogram.
    """

    source: DetectionSource = field(repr=False)
    splits: dict[str, SplitStats]
    total: SplitStats
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    stride: int

    def counted(self) -> dict[str, list[Finding]]:
        """Findings by kind, in the order of first occurrence."""
        return grouped(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Primitives only, for JSON: the same facts as the table, with every finding."""
        classes = self.source.classes
        return {
            "root": self.source.root,
            "format": self.source.format,
            "classes": list(classes),
            "category_ids": list(self.source.category_ids),
            "splits": {name: _stats_dict(stats, classes) for name, stats in self.splits.items()},
            "total": _stats_dict(self.total, classes),
            "stride": self.stride,
            "findings": [asdict(f) for f in self.findings],
            "finding_counts": {kind: len(found) for kind, found in self.counted().items()},
            "warnings": list(self.warnings),
            "notes": list(self.source.notes),
        }

    def parts(self) -> Iterable[Table | Text]:
        source = self.source
        classes = counted(len(source.classes), "class", "classes")
        yield foreign(f"Data: {source.root} ({source.format}, {classes})", "bold")
        counts = {name: stats.class_counts for name, stats in self._rows().items()}
        for table in (
            self._split_table(),
            class_table("boxes per class", source.classes, counts),
            self._size_table(),
        ):
            yield from (Text(), table)
        yield Text()
        yield from remarks(self.findings, self.warnings, source.notes)

    def _rows(self) -> dict[str, SplitStats]:
        return self.splits if len(self.splits) == 1 else {**self.splits, "total": self.total}

    def _split_table(self) -> Table:
        table = make_table("split", "images", "without objects", "boxes", "crowd", "most in one image")
        for name, s in self._rows().items():
            table.add_row(foreign(name), *map(str, (s.images, s.empty_images, s.objects, s.crowd, s.max_objects)))
        return table

    def _size_table(self) -> Table:
        table = make_table(f"box size / {self.stride} px", *SIZE_BINS)
        for name, s in self._rows().items():
            table.add_row(foreign(name), *map(str, s.size_counts))
        return table


def _stats_dict(stats: SplitStats, classes: Sequence[str]) -> dict[str, Any]:
    return {
        **asdict(stats),
        "class_counts": dict(zip(classes, stats.class_counts, strict=True)),
        "size_counts": dict(zip(SIZE_BINS, stats.size_counts, strict=True)),
    }
