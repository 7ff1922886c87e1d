"""Measures a fold's network on the part that it has not seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import LightningDataModule

from dlrecipes.checkpoint_io import load_checkpoint_file
from dlrecipes.cross_validation.out_of_fold import collect_predictions
from dlrecipes.cross_validation.results import DONE
from dlrecipes.trainer import quiet_lightning

__all__ = ["evaluate_fold"]


def evaluate_fold(
    task: Any, data: LightningDataModule, folder: Path, *, checkpoint: Path | None = None
) -> dict[str, float]:
    """Measure a trained task on its held-out fold, on one device, and leave metrics and predictions in its run folder.

    Args:
        task: a dlrecipes task.
        data: with the same fold held out.
        folder: gets ``fold.json``, which says that the fold is finished, and before it the predictions.
            ``out_of_fold.csv``: image, target, prediction; of a classifier the probability of each class. Of a detector
            ``out_of_fold.json`` (COCO results with ``file_name`` and ``category``) and ``out_of_fold_truth.json`` (the
            annotations of the same images in COCO's format).
        checkpoint: whose weights are measured; None: the task's own.

    Returns:
        The metrics, with names beginning with ``val/``.

    Raises:
        UserError: a task or data of one's own that do not tell what was predicted for which image.
    """
    quiet_lightning()
    if checkpoint is not None:  # by ckpt_path, Lightning would ask for the callbacks that it was made with
        task.load_state_dict(load_checkpoint_file(checkpoint)["state_dict"])
    seen = collect_predictions(task, data)
    trainer = pl.Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        callbacks=[seen],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    (metrics,) = trainer.validate(task, datamodule=data, verbose=False)
    seen.write(folder)
    (folder / DONE).write_text(json.dumps(dict(metrics), indent=1), encoding="utf-8")  # last: the fold is finished
    return {name: float(value) for name, value in metrics.items()}
