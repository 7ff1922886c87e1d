"""``dlrecipes predict`` with a classifier or regressor: a table of results, and sheets of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from dlrecipes.contracts import DataInfo
from dlrecipes.data.image_predict import image_predict_loader
from dlrecipes.runs.image_results import ImageResults
from dlrecipes.runs.metric_names import counted

__all__ = ["image_loader", "write_labels"]

_SHOWN = 10  # classes in the printed summary


def image_loader(images: str | Path, info: DataInfo, batch_size: int) -> DataLoader[Any]:
    """Batches of the images, resized and cropped as in the run's evaluation."""
    return image_predict_loader(images, info, batch_size=batch_size)


def write_labels(
    predictions: Iterator[tuple[str, Tensor, Tensor]], info: DataInfo, threshold: float, folder: Path
) -> list[str]:
    """Write ``predictions.csv``, ``predictions.json`` and ``pictures/sheet_001.png`` ...

    Args:
        predictions: path, image, and probabilities [C] or values [T], of each image.
        info: of the run.
        threshold: lowest probability of one of several labels; a single label is always the likeliest.
        folder: to write to; ``pictures`` is in it.

    Returns:
        What to print.
    """
    found: Counter[str] = Counter()
    with ImageResults(folder, info, threshold=threshold) as results:
        for path, image, output in predictions:
            row = results.add(path, image, output)
            found.update(row["labels"] if "labels" in row else [row["label"]] if "label" in row else [])
    counts = ", ".join(f"{name} {count}" for name, count in found.most_common(_SHOWN))
    more = ", ..." if len(found) > _SHOWN else ""
    sheets = f"  {folder / 'pictures'} ({len(results.sheets)} sheets)"
    summary = counted(results.count, "image") + (f": {counts}{more}" if counts else "")
    return [summary, f"  {results.csv_file}", f"  {results.json_file}", sheets]
