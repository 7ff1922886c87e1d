"""What the audit found: numbers for each split, findings, and the table that shows them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlrecipes.data.records import DetectionRecord, DetectionSource, Finding, box_areas

__all__ = ["SIZE_BINS", "AuditReport", "SplitStats"]

_EDGES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SIZE_BINS = ("<0.5", "0.5-1", "1-2", "2-4", "4-8", "8-16", ">=16")
"""Bins of the box-size histogram: square root of the box's area, in feature cells."""

_WIDTH = 100
_EXAMPLES = 5
_CLASSES_SHOWN = 24


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
class AuditReport:
    """Result of `dlrecipes.data.audit.audit`.

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
        groups: dict[str, list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault(finding.kind, []).append(finding)
        return groups

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

    def print(self, console: Console | None = None) -> None:
        """Print the tables: at most 100 columns, plain text where the output is not a terminal."""
        if console is None:
            console = Console(highlight=False)
            if not console.is_terminal:
                console = Console(highlight=False, width=_WIDTH)
        width = min(_WIDTH, console.width)
        for part in self._parts():
            console.print(part, width=width, crop=False)

    def __str__(self) -> str:
        text = io.StringIO()
        # force_jupyter=False: in a notebook rich would display the table instead of writing it
        console = Console(
            file=text, width=_WIDTH, highlight=False, force_terminal=False, force_jupyter=False, color_system=None
        )
        self.print(console)
        return text.getvalue()

    def _parts(self) -> Iterable[Table | Text]:
        source = self.source
        yield Text(f"Data: {source.root} ({source.format}, {len(source.classes)} classes)", style="bold")
        for table in (self._split_table(), self._class_table(), self._size_table()):
            yield from (Text(), table)
        yield Text()
        for kind, found in self.counted().items():
            yield Text(f"{len(found)} x {kind}", style="yellow")
            yield from (Text(f"    {f}", overflow="fold") for f in found[:_EXAMPLES])
            if len(found) > _EXAMPLES:
                yield Text(f"    ... and {len(found) - _EXAMPLES} more")
        yield from (Text(f"Warning: {w}", style="yellow", overflow="fold") for w in self.warnings)
        yield from (Text(f"Note: {n}", overflow="fold") for n in source.notes)
        if not self.findings and not self.warnings:
            yield Text("No problems found.", style="green")

    def _rows(self) -> dict[str, SplitStats]:
        return self.splits if len(self.splits) == 1 else {**self.splits, "total": self.total}

    def _split_table(self) -> Table:
        table = _table("split", "images", "without objects", "boxes", "crowd", "most in one image")
        for name, s in self._rows().items():
            table.add_row(name, *map(str, (s.images, s.empty_images, s.objects, s.crowd, s.max_objects)))
        return table

    def _class_table(self) -> Table:
        rows = self._rows()
        table = _table("boxes per class", *rows)
        order = sorted(range(len(self.source.classes)), key=lambda k: -self.total.class_counts[k])
        shown = (
            order if len(order) <= _CLASSES_SHOWN else [*order[: _CLASSES_SHOWN // 2], *order[-_CLASSES_SHOWN // 2 :]]
        )
        for position, k in enumerate(shown):
            if len(shown) < len(order) and position == _CLASSES_SHOWN // 2:
                rest = order[_CLASSES_SHOWN // 2 : -_CLASSES_SHOWN // 2]
                sums = [sum(s.class_counts[i] for i in rest) for s in rows.values()]
                table.add_row(f"({len(rest)} classes between)", *map(str, sums))
            table.add_row(Text(self.source.classes[k]), *(str(s.class_counts[k]) for s in rows.values()))
        return table

    def _size_table(self) -> Table:
        table = _table(f"box size / {self.stride} px", *SIZE_BINS)
        for name, s in self._rows().items():
            table.add_row(name, *map(str, s.size_counts))
        return table


def _stats_dict(stats: SplitStats, classes: Sequence[str]) -> dict[str, Any]:
    return {
        **asdict(stats),
        "class_counts": dict(zip(classes, stats.class_counts, strict=True)),
        "size_counts": dict(zip(SIZE_BINS, stats.size_counts, strict=True)),
    }


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table
