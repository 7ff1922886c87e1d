"""What ``dlrecipes predict`` leaves for classification and regression: a table, a JSON file, sheets of pictures."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image
from torch import Tensor

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.runs.image_labels import THRESHOLD, chosen_labels, describe_output
from dlrecipes.runs.pictures.tiles import draw_image_tile, save_grid, to_uint8

__all__ = ["ImageResults", "label_rows"]

_SHEET = 40
_COLUMNS = 8
_SIDE = 220
_MOST_SHEETS = 25
_MOST_COLUMNS = 100


def label_rows(
    path: str, probabilities: Tensor, info: DataInfo, top: int = 5, threshold: float = THRESHOLD
) -> dict[str, Any]:
    """What was predicted for one image, in primitives.

    - classification: ``path``, ``label``, ``probability``, ``top``: the best classes as ``{"label", "probability"}``;
    - several labels: ``path``, ``labels`` from ``threshold`` on, best first, ``probabilities`` of these, ``top``;
    - regression: ``path``, ``values``: target -> number.

    Args:
        path: of the image.
        probabilities: float32 [C], or values [T], on the CPU.
        info: of the run.
        top: how many classes to list.
        threshold: least probability of a label, where an image may have several.

    Raises:
        ValueError: ``top`` is below 1, ``threshold`` is outside 0..1, or the output's width does not fit ``info``.

    Example:
        >>> import torch
        >>> info = DataInfo(task="classification", classes=("cat", "dog"), category_ids=(0, 1), class_counts=(5, 5),
        ...                 num_train=10, max_objects=0, image_size=32)
        >>> label_rows("a.jpg", torch.tensor([0.25, 0.75]), info, top=1)
        {'path': 'a.jpg', 'label': 'dog', 'probability': 0.75, 'top': [{'label': 'dog', 'probability': 0.75}]}
    """
    _check(top, threshold)
    names = info.target_names if info.task == "regression" else info.classes
    if probabilities.shape != (len(names),):
        raise ValueError(f"probabilities must have shape ({len(names)},), got {tuple(probabilities.shape)}")
    values = [_rounded(value) for value in probabilities.tolist()]
    if info.task == "regression":
        return {"path": path, "values": dict(zip(names, values, strict=True))}
    order = probabilities.argsort(descending=True, stable=True).tolist()
    best = [{"label": names[i], "probability": values[i]} for i in order[:top]]
    if info.task == "multilabel":
        chosen = order[: len(chosen_labels(probabilities, threshold))]
        labels, sure = [names[i] for i in chosen], [values[i] for i in chosen]
        return {"path": path, "labels": labels, "probabilities": sure, "top": best}
    return {"path": path, "label": names[order[0]], "probability": values[order[0]], "top": best}


class ImageResults:
    """Writes the predictions of many images, one after another, and holds no more than one sheet of pictures.

    - ``predictions.csv``: ``path``, ``label``, ``probability`` and, up to 100 classes, a column ``p_CLASS`` for each;
      several labels and their probabilities are joined by ``|``. Regression: ``path`` and a column for each target.
      Before these ``ood_p``, if ``with_ood``: how usual the image is, see `dlrecipes.shift.OODScorer`.
    - ``predictions.json``: a list of what :func:`label_rows` gives, in the order of the images.
    - ``pictures/sheet_001.png`` ...: 40 images a sheet, with what was predicted; no sheets after the first 1000 images.

    Args:
        folder: to write to; made if missing.
        info: of the run.
        top: classes listed for each image in the JSON file.
        threshold: least probability of a label, where an image may have several.
        with_ood: a column ``ood_p`` is wanted.

    Raises:
        UserError: the folder cannot be written.
        ValueError: ``top`` is below 1, or ``threshold`` outside 0..1.

    Example::

        with ImageResults(folder, info) as results:
            for path, image, output in predicted:
                results.add(path, image, output)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        info: DataInfo,
        top: int = 5,
        threshold: float = THRESHOLD,
        with_ood: bool = False,
    ) -> None:
        _check(top, threshold)
        self.folder = Path(folder)
        self.info = info
        self.top = top
        self.threshold = threshold
        self.with_ood = with_ood
        self.count = 0
        self._tiles: list[Image.Image] = []
        self._sheets = 0
        names = info.target_names if info.task == "regression" else info.classes
        self._each = list(names) if info.task == "regression" else [f"p_{name}" for name in names]
        if info.task != "regression" and len(names) > _MOST_COLUMNS:
            self._each = []
        head = ["path"] if info.task == "regression" else ["path", "label", "probability"]
        try:
            (self.folder / "pictures").mkdir(parents=True, exist_ok=True)
            self._csv = self.csv_file.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            self._json = self.json_file.open("w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written ({error.strerror}): give another --output.") from error
        self._table = csv.writer(self._csv)
        self._table.writerow([*head, *(["ood_p"] if with_ood else []), *self._each])
        self._json.write("[")

    @property
    def csv_file(self) -> Path:
        """One row an image."""
        return self.folder / "predictions.csv"

    @property
    def json_file(self) -> Path:
        """The same as a list of objects."""
        return self.folder / "predictions.json"

    @property
    def sheets(self) -> list[Path]:
        """Sheets written so far."""
        return [self._sheet(number) for number in range(1, self._sheets + 1)]

    def add(self, path: str, image: Tensor | None, output: Tensor, ood_p: float | None = None) -> dict[str, Any]:
        """Write one image's prediction.

        Args:
            path: of the file, as it shall be listed.
            image: [3, H, W] in 0..255, for the sheets; None: it is not drawn.
            output: float32 [C] probabilities, or [T] values.
            ood_p: p-value of the image being a usual one, for ``with_ood``.

        Returns:
            What :func:`label_rows` gives, and ``ood_p``.

        Raises:
            OSError: the disk is full.
        """
        output = output.float().cpu()
        row = label_rows(path, output, self.info, self.top, self.threshold)
        each = [_rounded(value) for value in output.tolist()] if self._each else []
        usual = {"ood_p": None if ood_p is None else _rounded(ood_p)} if self.with_ood else {}
        row |= usual
        self._table.writerow([path, *_label(row), *usual.values(), *each])
        self._json.write(("," if self.count else "") + "\n " + json.dumps(row, ensure_ascii=False))
        self.count += 1
        if image is not None and self._sheets < _MOST_SHEETS:
            lines = [describe_output(output, self.info, self.threshold), Path(path).name]
            self._tiles.append(draw_image_tile(to_uint8(image).cpu(), lines, _SIDE))
            if len(self._tiles) == _SHEET:
                self._save_sheet()
        return row

    def close(self) -> None:
        """Write the last sheet and end the files. Calling it again changes nothing."""
        if self._csv.closed:
            return
        if self._tiles:
            self._save_sheet()
        self._json.write("\n]\n")
        self._json.close()
        self._csv.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _save_sheet(self) -> None:
        self._sheets += 1
        save_grid(self._tiles, _COLUMNS, self._sheet(self._sheets))
        self._tiles = []

    def _sheet(self, number: int) -> Path:
        return self.folder / "pictures" / f"sheet_{number:03d}.png"


def _check(top: int, threshold: float) -> None:
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in 0..1, got {threshold}")


def _label(row: dict[str, Any]) -> list[Any]:
    """The cells of label and probability."""
    if "values" in row:
        return []
    if "labels" in row:
        return ["|".join(row["labels"]), "|".join(map(str, row["probabilities"]))]
    return [row["label"], row["probability"]]


def _rounded(value: float) -> float:
    """Six digits: float32 holds no more, and a file of a million probabilities is half as long."""
    return float(f"{value:.6g}")
