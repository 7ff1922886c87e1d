"""A trained classifier and its data, for commands that look at its features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlrecipes.cli.actions.predict import find_checkpoint, load_task
from dlrecipes.cli.actions.run_data import run_config, run_data
from dlrecipes.contracts import DataInfo, ImageBatch
from dlrecipes.data import ClassificationData
from dlrecipes.errors import UserError
from dlrecipes.tasks.base import BaseTask

__all__ = ["RunImages", "open_run"]


@dataclass(frozen=True)
class RunImages:
    """A run, ready to be looked at.

    Attributes:
        home: its folder.
        checkpoint: that was loaded.
        task: in evaluation mode, on ``device``.
        info: of the checkpoint.
        data: its datamodule, or that of other data with the same classes.
        device: CUDA's first, or the CPU.
    """

    home: Path
    checkpoint: Path
    task: BaseTask
    info: DataInfo
    data: ClassificationData
    device: torch.device

    def batches(self, split: str) -> Iterable[ImageBatch]:
        """Of a split (``"train"``, ``"val"`` or ``"test"``), as evaluation reads them; ``preprocess`` does the rest."""
        return self.data.evaluation_dataloader(split)

    @property
    def preprocess(self) -> Callable[[Tensor], Tensor]:
        """From uint8 images of ``batches`` on the device to what ``task.model`` takes."""

        def scale(images: Tensor) -> Tensor:
            count = len(images)
            batch: ImageBatch = {
                "images": images,
                "targets": torch.zeros(count, dtype=torch.int64),
                "weights": None,
                "index": torch.arange(count),
                "epoch": 0,
                "paths": [""] * count,
            }
            normalised: Tensor = self.task.normalise(self.data.finish(batch, training=False)["images"])
            return normalised

        return scale


def open_run(run: str | Path, data: str | None = None) -> RunImages:
    """The best checkpoint of a classifier's run, and its data.

    Args:
        run: run folder, or a checkpoint in one.
        data: other data with the same classes; None: the run's own.

    Raises:
        UserError: no such run or data, or a run of another task.
    """
    checkpoint, home = find_checkpoint(Path(run))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = load_task(checkpoint, device)
    if task.info is None or task.info.task != "classification":
        kind = "unknown" if task.info is None else task.info.task
        raise UserError(
            f"{checkpoint} is of a task of the kind {kind}: this needs a classifier with one label an image"
        )
    datamodule: Any = run_data(run_config(home), task.info, path=data)
    if not isinstance(datamodule, ClassificationData):
        raise UserError(f"{home} was trained on a {type(datamodule).__name__}: this needs a ClassificationData")
    return RunImages(home, checkpoint, task, task.info, datamodule, device)
