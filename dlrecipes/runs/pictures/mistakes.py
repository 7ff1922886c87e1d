"""The worst mistakes of an evaluation: what makes one, in words and as a sheet of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from dlrecipes.contracts import DataInfo
from dlrecipes.runs.image_labels import describe_target, short_number, short_probability
from dlrecipes.runs.pictures.curves import new_figure, save_figure
from dlrecipes.runs.pictures.tiles import draw_image_tile, save_grid
from dlrecipes.runs.pictures.worst import WorstImage

__all__ = ["describe_mistakes", "draw_mistakes", "mistake_columns", "score_mistakes", "target_scale"]

_SIDE = 280
_COLUMNS = 4


def score_mistakes(outputs: Tensor, targets: Tensor, task: str, scale: Tensor) -> tuple[Tensor, Tensor]:
    """How bad the mistake in each image is, 0 where there is none, and what is worth keeping of it.

    - classification: the probability of the wrong class; [truth, predicted label, its probability, that of the truth];
    - several labels: the largest \\|p − y\\| of .5 or more; [label, p, y];
    - regression: the largest \\|error\\| in standard deviations of training; targets and values.

    Nothing waits for the device.

    Args:
        outputs: float32 [B, C] probabilities, or [B, T] values.
        targets: as in an ``ImageBatch``.
        task: ``DataInfo.task``.
        scale: :func:`target_scale`, on the same device.

    Returns:
        float32 [B] and float32 [B, V].
    """
    if task == "regression":
        error = ((outputs - targets.float()).abs() / scale).amax(dim=1)
        return error, torch.cat([targets.float(), outputs], dim=1)
    if task == "multilabel":
        gap, label = (outputs - targets.float()).abs().max(dim=1)
        chosen = label[:, None]
        values = [chosen.float(), outputs.gather(1, chosen), targets.float().gather(1, chosen)]
        return torch.where(gap >= 0.5, gap, 0.0), torch.cat(values, dim=1)
    labels = targets if targets.dim() == 1 else targets.argmax(dim=1)
    confidence, predicted = outputs.max(dim=1)
    truth = outputs.gather(1, labels[:, None])
    columns = [labels.float()[:, None], predicted.float()[:, None], confidence[:, None], truth]
    return torch.where(predicted == labels, 0.0, confidence), torch.cat(columns, dim=1)


def target_scale(info: DataInfo) -> Tensor:
    """float32 [T], the targets' standard deviations in training; 1 for one that does not vary, and where unknown."""
    std = torch.tensor(info.target_std or (1.0,) * len(info.target_names))
    return torch.where(std > 0, std, 1.0)


def mistake_columns(info: DataInfo) -> list[str]:
    """Names of the cells that :func:`describe_mistakes` gives."""
    if info.task == "regression":
        names = info.target_names
        return [*(f"true {name}" for name in names), *(f"predicted {name}" for name in names), "deviations off"]
    if info.task == "multilabel":
        return ["label", "probability", "true"]
    return ["true", "predicted", "probability", "probability of the true class"]


def describe_mistakes(worst: Sequence[WorstImage], info: DataInfo) -> list[list[str | float]]:
    """A table's row for each mistake, under :func:`mistake_columns`."""
    if info.task == "regression":
        return [[*w.values.tolist(), w.score] for w in worst]
    rows: list[list[str | float]] = []
    for w in worst:
        if info.task == "multilabel":
            label, probability, truth = w.values.tolist()
            rows.append([info.classes[int(label)], probability, truth])
        else:
            label, predicted, probability, truth = w.values.tolist()
            rows.append([info.classes[int(label)], info.classes[int(predicted)], probability, truth])
    return rows


def draw_mistakes(worst: Sequence[WorstImage], info: DataInfo, path: str | Path) -> None:
    """A sheet of the worst mistakes, worst first; without any, a picture that says so.

    Args:
        worst: what ``WorstImages`` kept of :func:`score_mistakes`.
        info: of the data.
        path: PNG to write.
    """
    if not worst:
        figure = new_figure(6.0, 2.0)
        figure.text(0.5, 0.5, "no mistakes", ha="center", va="center", fontsize=18)
        save_figure(figure, path)
        return
    save_grid([_tile(w, info) for w in worst], _COLUMNS, path)


def _tile(worst: WorstImage, info: DataInfo) -> Image.Image:
    if info.task == "regression":
        count = len(info.target_names)
        target, value = worst.values[:count], worst.values[count:]
        if count > 1:  # the one number that is furthest off
            i = int(((value - target).abs() / target_scale(info)).argmax())
            lines = [f"{info.target_names[i]}: true {short_number(float(target[i]))}"]
            lines.append(f"said {short_number(float(value[i]))}")
        else:
            lines = [f"true {describe_target(target, info)}", f"said {short_number(float(value[0]))}"]
    elif info.task == "multilabel":
        label, probability, truth = worst.values.tolist()
        name = f"{info.classes[int(label)]} {short_probability(probability)}"
        lines = [f"missed {name}" if truth > 0.5 else f"not there: {name}"]
    else:
        label, predicted, probability, truth = worst.values.tolist()
        lines = [
            f"true {info.classes[int(label)]} {short_probability(truth)}",
            f"said {info.classes[int(predicted)]} {short_probability(probability)}",
        ]
    return draw_image_tile(worst.image, [*lines, Path(worst.path).name], _SIDE)
