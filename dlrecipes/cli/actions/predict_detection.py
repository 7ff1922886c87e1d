"""``dlrecipes predict`` with a detector: COCO results, and a picture of each image with its boxes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from dlrecipes.contracts import DataInfo, Prediction
from dlrecipes.data.loading.decode import read_image
from dlrecipes.data.loading.predict import predict_loader
from dlrecipes.functional.words import counted
from dlrecipes.runs.coco_results import coco_results
from dlrecipes.runs.pictures.tiles import class_color, draw_tile

__all__ = ["detection_loader", "image_ids", "picture_names", "write_detections"]

_PICTURE_SIDES = (512, 1600)  # pixels of the longer side, so that labels can be read and files stay small


def detection_loader(images: Sequence[str], info: DataInfo, batch_size: int) -> DataLoader[Any]:
    """Batches of the images; see `dlrecipes.data.loading.predict.predict_loader`."""
    return predict_loader(images, info, batch_size=batch_size)


def write_detections(
    predictions: Iterator[tuple[str, torch.Tensor, Prediction, float | None]],
    info: DataInfo,
    threshold: float,
    folder: Path,
    orientations: Sequence[int] = (),
) -> list[str]:
    """Write ``predictions.json`` (COCO results) and ``pictures/NAME.png``.

    Args:
        predictions: path, padded image and boxes of each image, and None.
        info: of the run.
        threshold: lowest score that is kept.
        folder: to write to; ``pictures`` is in it.
        orientations: EXIF orientation of each image, for a note.

    Returns:
        What to print.
    """
    found = [(path, _on_cpu(prediction)) for path, _, prediction, _ in predictions]
    ids = image_ids([path for path, _ in found])
    names = picture_names([path for path, _ in found])
    results = []
    for (path, prediction), image_id, name in zip(found, ids, names, strict=True):
        results += coco_results(image_id, Path(path).name, prediction, info, threshold)
        _draw(path, prediction, info, threshold, folder / "pictures" / name)
    (folder / "predictions.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return [
        f"{counted(len(results), 'object')} with a score of at least {threshold:g} in {counted(len(found), 'image')}",
        f"  {folder / 'predictions.json'}, where image_id {_numbering(ids)}",
        f"  {folder / 'pictures'}",
        *_turned([path for path, _ in found], orientations),
    ]


def _numbering(ids: Sequence[int]) -> str:
    """What the ids are, which COCO's own tools compare with those of the annotations."""
    if list(ids) == list(range(len(ids))):
        return "counts the images in order of name; file_name tells which"
    return "is the number that names the file"


def _turned(paths: Sequence[str], orientations: Sequence[int]) -> list[str]:
    """A note on images that are stored in another way than they are shown."""
    turned = [path for path, orientation in zip(paths, orientations, strict=False) if orientation != 1]
    if not turned:
        return []
    return [
        f"{counted(len(turned), 'image')} turned upright, as the EXIF orientation says ({turned[0]}): boxes are in the "
        "pixels of the picture as it is shown, not as it is stored."
    ]


def _draw(path: str, prediction: Prediction, info: DataInfo, threshold: float, target: Path) -> None:
    image = torch.from_numpy(read_image(path, turned=True)).permute(2, 0, 1)
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
