"""``dlrecipes predict`` with a classifier or regressor: a table of results, and sheets of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from dlrecipes.contracts import DataInfo
from dlrecipes.data.loading.image_predict import image_predict_loader
from dlrecipes.functional.words import counted
from dlrecipes.runs.image_results import ImageResults

__all__ = ["image_loader", "write_labels"]

_SHOWN = 10  # classes in the printed summary
_STRANGE = 0.05  # what a share of .05 of usual images has at most


def image_loader(images: Sequence[str], info: DataInfo, batch_size: int) -> DataLoader[Any]:
    """Batches of the images, resized and cropped as in the run's evaluation."""
    return image_predict_loader(images, info, batch_size=batch_size)


def write_labels(
    predictions: Iterator[tuple[str, Tensor, Tensor, float | None]],
    info: DataInfo,
    threshold: float,
    folder: Path,
    with_ood: bool = False,
) -> list[str]:
    """Write ``predictions.csv``, ``predictions.json`` and ``pictures/sheet_001.png`` ...

    Args:
        predictions: path, image, and probabilities [C] or values [T], of each image, and its ``ood_p``.
        info: of the run.
        threshold: lowest probability of one of several labels; a single label is always the likeliest.
        folder: to write to; ``pictures`` is in it.
        with_ood: write the column ``ood_p``.

    Returns:
        What to print.
    """
    found: Counter[str] = Counter()
    strange = 0
    with ImageResults(folder, info, threshold=threshold, with_ood=with_ood) as results:
        for path, image, output, ood_p in predictions:
            row = results.add(path, image, output, ood_p)
            strange += ood_p is not None and ood_p <= _STRANGE
            found.update(row["labels"] if "labels" in row else [row["label"]] if "label" in row else [])
    counts = ", ".join(f"{name} {count}" for name, count in found.most_common(_SHOWN))
    more = ", ..." if len(found) > _SHOWN else ""
    sheets = f"  {folder / 'pictures'} ({counted(len(results.sheets), 'sheet')})"
    summary = counted(results.count, "image") + (f": {counts}{more}" if counts else "")
    if with_ood:
        summary += f"; ood_p is at most {_STRANGE:g} for {strange}"
    return [summary, f"  {results.csv_file}", f"  {results.json_file}", sheets]
