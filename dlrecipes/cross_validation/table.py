"""Out-of-fold predictions of classification and regression: a table with a row for each image."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from dlrecipes.contracts import DataInfo, ImageBatch, ImageOutput
from dlrecipes.cross_validation.collector import Collector, check_output

__all__ = ["TABLE", "ImageCollector", "join_tables"]

TABLE = "out_of_fold.csv"


class ImageCollector(Collector):
    """Paths, targets and outputs; a row for each image."""

    def __init__(self, info: DataInfo) -> None:
        self.info = info
        self.paths: list[str] = []
        self.targets: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def on_validation_batch_end(  # type: ignore[override]  # Lightning types outputs as Tensor or Mapping
        self,
        trainer: pl.Trainer,
        pl_module: LightningModule,
        outputs: ImageOutput,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        check_output(pl_module, outputs, "outputs", "an ImageOutput", "ClassificationTask")
        self.paths += batch["paths"]
        self.targets.append(batch["targets"].cpu())
        self.outputs.append(outputs["outputs"].float().cpu())

    def write(self, folder: Path) -> None:
        info = self.info
        classes = info.classes if info.task != "regression" else ()
        targets, outputs = torch.cat(self.targets), torch.cat(self.outputs)
        with (folder / TABLE).open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            if info.task == "classification":
                writer.writerow(("image", "target", "prediction", *(f"p({name})" for name in classes)))
                for name, target, row in zip(self.paths, targets.tolist(), outputs.tolist(), strict=True):
                    best = classes[max(range(len(row)), key=row.__getitem__)]
                    writer.writerow((name, classes[target], best, *(f"{p:.6g}" for p in row)))
                return
            columns = classes or info.target_names
            writer.writerow(("image", *columns, *(f"predicted {name}" for name in columns)))
            for name, true, row in zip(self.paths, targets.tolist(), outputs.tolist(), strict=True):
                writer.writerow((name, *(f"{v:.6g}" for v in true), *(f"{v:.6g}" for v in row)))


def join_tables(folds: Sequence[Path], root: Path) -> Path:
    """The tables of all folds as one, whose first column names the fold; returns its path."""
    with (root / TABLE).open("w", newline="", encoding="utf-8") as joined:
        writer = csv.writer(joined)
        for number, path in enumerate(folds):
            with (path / TABLE).open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)  # a cell may hold a line's end
            if number == 0:
                writer.writerow(("fold", *header))
            writer.writerows((path.name, *row) for row in rows)
    return root / TABLE
