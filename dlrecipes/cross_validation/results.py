"""What the finished folds say: each metric over the folds, and over all out-of-fold predictions together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from dlrecipes.cross_validation.out_of_fold import join, pooled_metrics
from dlrecipes.runs.metric_names import format_value, is_measured

__all__ = ["DONE", "CrossValidation", "FoldMetric", "summarise"]

DONE = "fold.json"
"""Metrics of a fold; the last file that it leaves."""


@dataclass(frozen=True)
class FoldMetric:
    """A metric over the folds.

    Attributes:
        mean: over the folds.
        low, high: 95 % interval of the mean by Student's t with k − 1 degrees of freedom. The folds share most of
            their training images, so it is too narrow rather than too wide, and no estimator of that is unbiased
            (Bengio & Grandvalet, 2004).
        values: of each fold.
    """

    mean: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> FoldMetric:
        """From the value of each fold.

        Example:
            >>> found = FoldMetric.of([0.8, 0.9, 1.0])
            >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
            (0.9, 0.652, 1.148)
        """
        x = torch.tensor(values, dtype=torch.float64)
        mean = float(x.mean())
        if len(values) < 2:
            return cls(mean, math.nan, math.nan, tuple(values))
        half = float(student.ppf(0.975, len(values) - 1)) * float(x.std()) / math.sqrt(len(values))
        return cls(mean, mean - half, mean + half, tuple(values))


@dataclass(frozen=True)
class CrossValidation:
    """What the finished folds say.

    Attributes:
        path: folder of all of them.
        folds: run folder of each finished fold.
        metrics: name → value over the folds; those that all folds have.
        out_of_fold: file with the predictions for each image by the network that has not been trained on it: CSV; of
            detectors COCO results, beside which ``out_of_fold_truth.json`` has the annotations of the same images.
        pooled: name → value over all out-of-fold predictions in one evaluation (detectors: `pooled_metrics`).
    """

    path: Path
    folds: tuple[Path, ...]
    metrics: Mapping[str, FoldMetric]
    out_of_fold: Path
    pooled: Mapping[str, float] = field(default_factory=dict)

    def print(self, names: Sequence[str] = (), console: Console | None = None) -> None:
        """A row for each metric: mean, interval, the value over all predictions together if known, and each fold.

        Args:
            names: metrics without ``val/``, most important first; none: all that are of no single class.
            console: where to print; standard output unless given.
        """
        console = console or Console(highlight=False, soft_wrap=True)
        wanted = [f"val/{name}" for name in names if f"val/{name}" in self.metrics]
        shown = wanted or [name for name in self.metrics if name.count("/") == 1]
        table = Table(title=f"{len(self.folds)} folds, each by its best checkpoint", title_justify="left")
        pooled = ("pooled",) if self.pooled else ()
        for number, name in enumerate(("metric", "mean", "95 % interval", *pooled, *(p.name for p in self.folds))):
            table.add_column(name, justify="right" if number else "left")
        for name in shown:
            metric = self.metrics[name]
            interval = "" if math.isnan(metric.low) else f"{format_value(metric.low)} to {format_value(metric.high)}"
            together = (format_value(self.pooled[name]) if name in self.pooled else "",) if self.pooled else ()
            table.add_row(name[4:], format_value(metric.mean), interval, *together, *map(format_value, metric.values))
        console.print(table)
        if self.pooled:
            console.print("pooled: all out-of-fold predictions in one evaluation", markup=False)
        console.print(f"out-of-fold predictions: {self.out_of_fold}", markup=False)


def summarise(root: Path, folds: Sequence[Path]) -> CrossValidation:
    """Put the files of finished folds together: ``out_of_fold.*`` and ``summary.json``.

    Args:
        root: folder of all of them.
        folds: run folder of each finished fold, one or more.
    """
    values = [json.loads((path / DONE).read_text(encoding="utf-8")) for path in folds]
    shared = [name for name in values[0] if all(name in each and is_measured(name, each[name]) for each in values)]
    metrics = {name: FoldMetric.of([each[name] for each in values]) for name in shared}
    joined = join(folds, root)
    pooled = pooled_metrics(joined)
    summary = {name: {"mean": m.mean, "low": m.low, "high": m.high, "folds": m.values} for name, m in metrics.items()}
    for name, value in pooled.items():
        summary.setdefault(name, {})["pooled"] = value
    (root / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return CrossValidation(root, tuple(folds), metrics, joined, pooled)
