"""What the audit of labelled images found: numbers for each split, findings, and the table that shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from dlrecipes.data.audit.report_print import PrintedReport, class_table, foreign, grouped, make_table, remarks
from dlrecipes.data.formats.image_source import ImageSource, ImageTable
from dlrecipes.data.formats.records import Finding

__all__ = ["ImageAuditReport", "ImageStats", "TargetStats"]


@dataclass(frozen=True)
class TargetStats:
    """A number to predict, in one split."""

    mean: float
    std: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class ImageStats:
    """Counts of one split.

    Attributes:
        images: images.
        smallest, median, largest: (height, width) of the image in this position by number of pixels.
        class_counts: images of each class (an image with several labels counts for each); empty for regression.
        unlabelled: images without any label (multilabel).
        targets: by name (regression).
    """

    images: int
    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    class_counts: tuple[int, ...]
    unlabelled: int
    targets: dict[str, TargetStats]

    @classmethod
    def of(cls, table: ImageTable, source: ImageSource) -> ImageStats:
        """Count an audited split, whose sizes are known."""
        if table.sizes is None:
            raise ValueError("sizes: the images were not audited")
        order = np.argsort(table.sizes.prod(axis=1), kind="stable")
        low, middle, high = (table.sizes[order[k]].tolist() for k in (0, len(order) // 2, -1))
        counts: Sequence[int] = ()
        unlabelled, numbers = 0, {}
        if source.task == "classification":
            counts = np.bincount(table.targets, minlength=len(source.classes)).tolist()
        elif source.task == "multilabel":
            counts = table.targets.sum(axis=0).astype(np.int64).tolist()
            unlabelled = int((~table.targets.any(axis=1)).sum())
        else:
            for name, column in zip(source.target_names, table.targets.astype(np.float64).T, strict=True):
                numbers[name] = TargetStats(*(float(f(column)) for f in (np.mean, np.std, np.min, np.max)))
        return cls(
            images=len(table),
            smallest=(low[0], low[1]),
            median=(middle[0], middle[1]),
            largest=(high[0], high[1]),
            class_counts=tuple(counts),
            unlabelled=unlabelled,
            targets=numbers,
        )


@dataclass(frozen=True)
class ImageAuditReport(PrintedReport):
    """Result of `dlrecipes.data.audit.audit_images.audit_images`.

    Attributes:
        source: the data set as the datamodule uses it: with sizes, without images that were left out.
        splits: counts by split.
        findings: what was left out or is odd, one by one.
        warnings: what is not an error but spoils results, one sentence each.
        conversions: images that are stored in another form than RGB, by form.
        turned: images that are turned upright by their EXIF orientation.
    """

    source: ImageSource = field(repr=False)
    splits: dict[str, ImageStats]
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    conversions: dict[str, int]
    turned: int = 0

    def counted(self) -> dict[str, list[Finding]]:
        """Findings by kind, in the order of first occurrence."""
        return grouped(self.findings)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided while reading, and what is converted."""
        notes = [*self.source.notes]
        if self.conversions:
            forms = ", ".join(f"{count} {form}" for form, count in self.conversions.items())
            notes.append(f"images that are not stored as RGB are converted: {forms}")
        if self.turned:
            notes.append(f"images turned upright, as their EXIF orientation says: {self.turned}")
        return tuple(notes)

    def to_dict(self) -> dict[str, Any]:
        """Primitives only, for JSON: the same facts as the table, with every finding."""
        classes = self.source.classes
        return {
            "root": self.source.root,
            "format": self.source.format,
            "task": self.source.task,
            "classes": list(classes),
            "target_names": list(self.source.target_names),
            "splits": {
                name: {
                    **asdict(stats),
                    **{key: list(getattr(stats, key)) for key in ("smallest", "median", "largest")},
                    "class_counts": dict(zip(classes, stats.class_counts, strict=False)),
                }
                for name, stats in self.splits.items()
            },
            "findings": [asdict(f) for f in self.findings],
            "finding_counts": {kind: len(found) for kind, found in self.counted().items()},
            "warnings": list(self.warnings),
            "conversions": dict(self.conversions),
            "turned": self.turned,
            "notes": list(self.source.notes),
        }

    def parts(self) -> Iterable[Table | Text]:
        source = self.source
        count = len(source.classes or source.target_names)
        wide = f"{count} {'class' if source.classes else 'target'}"
        wide += ("es" if source.classes else "s") * (count != 1)
        yield foreign(f"Data: {source.root} ({source.format}, {source.task}, {wide})", "bold")
        yield from (Text(), self._split_table(), Text())
        if source.classes:
            counts = {name: stats.class_counts for name, stats in self.splits.items()}
            if len(counts) > 1:
                total = np.sum([stats.class_counts for stats in self.splits.values()], axis=0)
                counts["total"] = tuple(total.tolist())
            yield class_table("images per class", source.classes, counts)
        else:
            yield self._target_table()
        yield Text()
        yield from remarks(self.findings, self.warnings, self.notes)

    def _split_table(self) -> Table:
        unlabelled = ["without labels"] if self.source.task == "multilabel" else []
        table = make_table("split", "images", *unlabelled, "smallest", "median", "largest")
        for name, s in self.splits.items():
            sizes = (f"{width}x{height}" for height, width in (s.smallest, s.median, s.largest))
            table.add_row(foreign(name), str(s.images), *([str(s.unlabelled)] if unlabelled else []), *sizes)
        return table

    def _target_table(self) -> Table:
        table = make_table("target", "split", "mean", "std", "min", "max")
        for target in self.source.target_names:
            for name, stats in self.splits.items():
                t = stats.targets[target]
                table.add_row(
                    foreign(target), foreign(name), *(f"{v:.4g}" for v in (t.mean, t.std, t.minimum, t.maximum))
                )
        return table
