"""``dlrecipes predict RUN IMAGES``: from a run folder to COCO results and pictures."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.progress import track
from torch.utils.data import DataLoader

from dlrecipes.cli.environment import import_from_here
from dlrecipes.contracts import DataInfo, Prediction
from dlrecipes.data.images import read_image
from dlrecipes.data.predict import predict_loader
from dlrecipes.errors import UserError
from dlrecipes.parts import import_object
from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.pictures import class_color, draw_tile
from dlrecipes.tasks import DetectionTask

__all__ = ["coco_results", "image_ids", "load_task", "picture_names", "predict"]

_PICTURE_SIDES = (512, 1600)  # pixels of the longer side, so that labels can be read and files stay small


def predict(
    run: str | Path,
    images: str | Path,
    *,
    threshold: float = 0.5,
    output: str | Path | None = None,
    batch_size: int = 8,
) -> Path:
    """Detect objects in images with the best checkpoint of a run.

    Writes ``predictions.json`` (COCO results) and ``pictures/NAME.png`` with the boxes, and prints where.

    Args:
        run: run folder, or a checkpoint.
        images: an image, or a folder of images.
        threshold: lowest score of a detection that is kept, in 0..1; 0 keeps all, which COCO's metrics need.
        output: folder to write to; default ``RUN/predict-001``, ``-002`` ...
        batch_size: images at once.

    Returns:
        The folder.

    Raises:
        UserError: no such run, no usable checkpoint, no readable image, a threshold outside 0..1, no place to write.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold must be between 0 and 1, got {threshold}.")
    checkpoint, home = _find_checkpoint(Path(run))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = load_task(checkpoint, device)
    if task.info is None:
        raise UserError(f"{checkpoint} does not know its classes: it was saved before training began.")
    loader = predict_loader(images, task.info, batch_size=batch_size)
    folder = _make_folder(Path(output) if output is not None else None, home)
    try:
        results = _write_pictures_and_collect(_predictions(task, loader, device), task.info, threshold, folder)
        (folder / "predictions.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): give another --output.") from error
    pictures = len(list((folder / "pictures").iterdir()))
    print(f"{len(results)} objects with a score of at least {threshold:g} in {pictures} images ({checkpoint})")
    print(f"  {folder / 'predictions.json'}\n  {folder / 'pictures'}")
    return folder


def load_task(checkpoint: Path, device: torch.device) -> DetectionTask:
    """The task of a checkpoint; classes of the user's own are imported as the run's ``config.yaml`` names them.

    Raises:
        UserError: the checkpoint cannot be used, or a class of the user's cannot be imported from here.
    """
    import_from_here()
    task: Any = DetectionTask
    config = checkpoint.parent.parent / "config.yaml"
    if config.is_file():  # the user's own file, as trusted as the code it names; a checkpoint alone is not
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
        try:
            for path in _class_paths(values.get("model", {})):
                import_object(path)
            task = import_object(values["model"]["class_path"])
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(
                f"{config} names a class that is not here ({error}): run this where training was run."
            ) from error
    loaded: DetectionTask = task.load_from_checkpoint(checkpoint, map_location=device)
    return loaded.eval()


def coco_results(
    image_id: int, file_name: str, prediction: Prediction, info: DataInfo, threshold: float = 0.0
) -> list[dict[str, Any]]:
    """Detections of one image in COCO's results format, with the data set's own category ids.

    Args:
        image_id: of COCO.
        file_name: added to each entry.
        prediction: boxes in pixels, (x1, y1, x2, y2).
        info: of the run.
        threshold: lowest score.

    Returns:
        Dicts with ``image_id``, ``file_name``, ``category_id``, ``category``, ``bbox`` (x, y, width, height in pixels)
        and ``score``.
    """
    rows = zip(prediction["scores"].tolist(), prediction["labels"].tolist(), prediction["boxes"].tolist(), strict=True)
    return [
        {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": info.category_ids[label],
            "category": info.classes[label],
            "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 5),
        }
        for score, label, (x1, y1, x2, y2) in rows
        if score >= threshold
    ]


def _predictions(
    task: DetectionTask, loader: DataLoader[Any], device: torch.device
) -> Iterator[tuple[str, Prediction]]:
    batches = track(loader, description="Predicting", disable=not sys.stderr.isatty(), transient=True)
    with torch.inference_mode():
        for index, batch in enumerate(batches):
            on_device = task.transfer_batch_to_device(batch, device, 0)
            yield from zip(batch["paths"], task.predict_step(on_device, index), strict=True)


def _write_pictures_and_collect(
    predictions: Iterator[tuple[str, Prediction]], info: DataInfo, threshold: float, folder: Path
) -> list[dict[str, Any]]:
    found = [(path, _on_cpu(prediction)) for path, prediction in predictions]
    ids = image_ids([path for path, _ in found])
    names = picture_names([path for path, _ in found])
    results = []
    for (path, prediction), image_id, name in zip(found, ids, names, strict=True):
        results += coco_results(image_id, Path(path).name, prediction, info, threshold)
        _draw(path, prediction, info, threshold, folder / "pictures" / name)
    return results


def _draw(path: str, prediction: Prediction, info: DataInfo, threshold: float, target: Path) -> None:
    image = torch.from_numpy(read_image(path)).permute(2, 0, 1)
    keep = prediction["scores"] >= threshold
    labels, scores = prediction["labels"][keep].tolist(), prediction["scores"][keep].tolist()
    texts = [f"{info.classes[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    side = min(max(*image.shape[1:], _PICTURE_SIDES[0]), _PICTURE_SIDES[1])
    colors = [class_color(label) for label in labels]
    draw_tile(image, prediction["boxes"][keep], texts, colors, Path(path).name, side).save(target)


def _on_cpu(prediction: Prediction) -> Prediction:
    return {
        "scores": prediction["scores"].cpu(),
        "labels": prediction["labels"].cpu(),
        "boxes": prediction["boxes"].cpu(),
    }


def image_ids(paths: Sequence[str]) -> list[int]:
    """COCO names its files by their ids (``000000397133.jpg``); other files are numbered from 0."""
    stems = [Path(path).stem for path in paths]
    if all(stem.isdecimal() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(len(paths)))


def picture_names(paths: Sequence[str]) -> list[str]:
    """A PNG for each image; images of one name in several folders keep apart."""
    root = Path(os.path.commonpath([Path(path).parent for path in paths]))
    return ["_".join(Path(path).relative_to(root).parts) + ".png" for path in paths]


def _find_checkpoint(run: Path) -> tuple[Path, Path]:
    """The checkpoint to use, and the folder of the run."""
    if run.is_file():
        home = run.parent.parent if run.parent.name == "checkpoints" else run.parent
        return run, home
    folder = RunFolder.open(run)
    best = folder.best_checkpoint
    return (best if best.is_file() else folder.resume_checkpoint), folder.path


def _make_folder(output: Path | None, home: Path) -> Path:
    if output is None:
        number = 1
        while (home / f"predict-{number:03d}").exists():
            number += 1
        output = home / f"predict-{number:03d}"
    try:
        (output / "pictures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output} cannot be made ({error.strerror}): give another --output.") from error
    return output


def _class_paths(values: Mapping[str, Any]) -> Iterator[str]:
    """Every class that a part of a config names."""
    for key, value in values.items():
        if key == "class_path":
            yield str(value)
        elif isinstance(value, Mapping):
            yield from _class_paths(value)
