"""``dlrecipes predict RUN IMAGES``: from a run folder to a table of results and pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch.utils.data import DataLoader

from dlrecipes.checkpoint_io import load_checkpoint_file
from dlrecipes.cli.actions.predict_detection import detection_loader, write_detections
from dlrecipes.cli.actions.predict_images import image_loader, write_labels
from dlrecipes.cli.environment import import_from_here
from dlrecipes.data.audit.pixel_check import PixelCheck
from dlrecipes.data.loading.predict import check_images, find_images
from dlrecipes.errors import UserError
from dlrecipes.functional.words import say
from dlrecipes.parts import import_object, model_of_run
from dlrecipes.runs.folder import RunFolder
from dlrecipes.shift.features import penultimate
from dlrecipes.shift.ood import OOD_FILE, OODScorer
from dlrecipes.tasks.base import BaseTask

__all__ = ["find_checkpoint", "load_task", "predict"]


def predict(
    run: str | Path,
    images: str | Path,
    *,
    threshold: float = 0.5,
    output: str | Path | None = None,
    batch_size: int | None = None,
) -> Path:
    """Apply the best checkpoint of a run to images.

    A detector writes ``predictions.json`` (COCO results) and ``pictures/NAME.png`` with the boxes; a classifier or
    regressor ``predictions.csv``, ``predictions.json`` and sheets of pictures with what was found. It prints where.
    After ``dlrecipes fit-ood RUN`` each image of a classifier has a column ``ood_p``, small where it is unlike the
    validation images. Where the images look unlike those of training as a whole (inverted, much darker, red and blue
    swapped ...), one sentence says so: `dlrecipes.data.PixelCheck`.

    Args:
        run: run folder, or a checkpoint.
        images: an image, or a folder of images.
        threshold: lowest score of a detection that is kept, in 0..1; 0 keeps all, which COCO's metrics need. Of a
            multi-label classifier: lowest probability of a label.
        output: folder to write to; default ``RUN/predict-001``, ``-002`` ...
        batch_size: images at once; default 8 for a detector, 64 otherwise.

    Returns:
        The folder.

    Raises:
        UserError: no such run, no usable checkpoint, no readable image, a threshold outside 0..1, no place to write.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold must be between 0 and 1, got {threshold}.")
    checkpoint, home = find_checkpoint(Path(run))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = load_task(checkpoint, device)
    if task.info is None:
        raise UserError(f"{checkpoint} does not know its classes: it was saved before training began.")
    detector = task.info.task == "detection"
    files = find_images(images)
    orientations = check_images(files)
    loader = (detection_loader if detector else image_loader)(files, task.info, batch_size or (8 if detector else 64))
    folder = _make_folder(Path(output) if output is not None else None, home)
    ood_file = home / OOD_FILE
    scorer = OODScorer.load(ood_file, device) if task.info.task == "classification" and ood_file.is_file() else None
    pixels = PixelCheck(task.info)
    found = _predictions(task, loader, device, scorer, pixels)
    try:
        if detector:
            lines = write_detections(found, task.info, threshold, folder, orientations)
        else:
            lines = write_labels(found, task.info, threshold, folder, with_ood=scorer is not None)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): give another --output.") from error
    say(f"{lines[0]} ({checkpoint})", *lines[1:])
    if advice := pixels.advice():
        say(f"advice: {advice}")
    return folder


def load_task(checkpoint: Path, device: torch.device) -> BaseTask:
    """The task of a checkpoint; classes of the user's own are imported as the run's ``config.yaml`` names them.

    Raises:
        UserError: the checkpoint cannot be used, or a class of the user's cannot be imported from here.
    """
    import_from_here()
    config = checkpoint.parent.parent / "config.yaml"
    task = import_object(model_of_run(config)["class_path"]) if config.is_file() else _recorded_task(checkpoint)
    loaded: BaseTask = task.load_from_checkpoint(checkpoint, map_location=device)
    return loaded.eval()


def _recorded_task(checkpoint: Path) -> Any:
    """The task's class as the checkpoint names it, if it is one of ours: importing another would run its code."""
    record = load_checkpoint_file(checkpoint).get("dlrecipes")
    if record is None:
        raise UserError(f"{checkpoint} was not made by a dlrecipes task, so nobody knows what its weights are for.")
    path = str(record["task"]["class_path"])
    if not path.startswith("dlrecipes.tasks."):
        raise UserError(f"{checkpoint} names the task {path}: give the run folder, whose config.yaml vouches for it.")
    return import_object(path)


def _predictions(
    task: BaseTask, loader: DataLoader[Any], device: torch.device, scorer: OODScorer | None, pixels: PixelCheck
) -> Iterator[tuple[str, torch.Tensor, Any, float | None]]:
    """Path, image as the model saw it, prediction, and how usual it is, of each image."""
    batches = track(loader, description="Predicting", disable=not sys.stderr.isatty(), transient=True)
    with torch.inference_mode():
        for index, batch in enumerate(batches):
            pixels.add(batch["images"], batch.get("sizes"))
            on_device = task.transfer_batch_to_device(batch, device, 0)
            usual: list[float | None] = [None] * len(batch["paths"])
            if scorer is not None:
                usual = scorer.p_values(*penultimate(task.model, task.normalise(on_device["images"]))).tolist()
            yield from zip(batch["paths"], batch["images"], task.predict_step(on_device, index), usual, strict=True)


def find_checkpoint(run: Path) -> tuple[Path, Path]:
    """The checkpoint to use, and the folder of the run."""
    if run.is_file():
        home = run.parent.parent if run.parent.name == "checkpoints" else run.parent
        return run, home
    folder = RunFolder.open(run)
    best = folder.best_checkpoint
    return (best if best.is_file() else folder.resume_checkpoint), folder.path


def _make_folder(output: Path | None, home: Path) -> Path:
    numbers = count(1)
    while True:
        folder = output if output is not None else home / f"predict-{next(numbers):03d}"
        try:
            folder.mkdir(parents=True, exist_ok=output is not None)  # mkdir decides between processes that race
            (folder / "pictures").mkdir(exist_ok=True)
            return folder
        except FileExistsError as error:
            if output is not None:
                raise UserError(f"{folder} cannot be made ({error.strerror}): give another --output.") from error
        except OSError as error:
            raise UserError(f"{folder} cannot be made ({error.strerror}): give another --output.") from error
