"""Plots that every task with classes shares: confusion matrix, precision over recall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dlrecipes.runs.pictures.curves import new_figure, save_figure
from dlrecipes.runs.pictures.tiles import class_color

__all__ = ["draw_confusion", "draw_precision_recall", "shorten"]

_MAX_CURVES = 20
_LONGEST_NAME = 28


def draw_confusion(
    matrix: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    path: str | Path,
    *,
    title: str,
    xlabel: str = "predicted",
    ylabel: str = "true",
) -> None:
    """Draw a confusion matrix, coloured by the share of each true class.

    Args:
        matrix: int64 [R, C], rows true, columns predicted.
        rows, columns: R and C names; long ones are shortened.
        path: PNG to write.
        title, xlabel, ylabel: texts.
    """
    share = matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)
    most = max(matrix.shape)
    side = min(24.0, max(5.5, (0.62 if most <= 12 else 0.5) * most + 2.5))
    large = 15 + max(0.0, side - 10)  # a big picture is looked at from further away
    figure = new_figure(side + 1.0, side)
    axes = figure.add_subplot()
    image = axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the row", shrink=0.8, aspect=30, pad=0.02)
    size = 11 if most <= 31 else max(4, 330 // most)
    longest = max(map(len, columns))
    turned = longest > 12 or (longest > 3 and most > 8)
    axes.set_xticks(range(len(columns)), [shorten(name) for name in columns], fontsize=size)
    axes.tick_params(axis="x", rotation=90 if turned else 30 if longest > 3 else 0)
    axes.set_yticks(range(len(rows)), [shorten(name) for name in rows], fontsize=size)
    axes.set_xlabel(xlabel, fontsize=large - 2)
    axes.set_ylabel(ylabel, fontsize=large - 2)
    figure.suptitle(title, fontsize=large)
    if most <= 40:
        for i, row in enumerate(matrix.tolist()):
            for j, count in enumerate(row):
                if count:
                    ink = "white" if share[i, j] > 0.5 else "black"
                    small = size if count < 10_000 else size - 3
                    axes.text(j, i, str(count), ha="center", va="center", color=ink, fontsize=small)
    save_figure(figure, path)


def draw_precision_recall(
    precision: Tensor,
    classes: Sequence[str],
    labels: Sequence[int],
    path: str | Path,
    *,
    title: str,
    averages: Sequence[float] | None = None,
) -> None:
    """Draw precision over recall, a curve for each class (the 20 worst where there are more) and their mean.

    Args:
        precision: float [K, R], precision at R equally spaced recalls 0..1; -1 for a class without true samples.
        classes: K names.
        labels: K labels, for the colours.
        path: PNG to write.
        title: text.
        averages: K average precisions for the legend; default: the mean of each row of ``precision``.
    """
    recall = torch.linspace(0, 1, precision.shape[1])
    known = [i for i in range(len(classes)) if (precision[i] >= 0).all()]
    average = precision.mean(dim=1).tolist() if averages is None else list(averages)
    shown = sorted(known, key=lambda i: average[i])[:_MAX_CURVES]
    figure = new_figure(9.5, 6.0)
    axes = figure.add_subplot()
    for i in sorted(shown):
        color = tuple(c / 255 for c in class_color(labels[i]))
        axes.plot(recall, precision[i], linewidth=1.6, color=color, label=f"{shorten(classes[i])}  {average[i]:.3f}")
    if known:
        mean = sum(average[i] for i in known) / len(known)
        label = f"mean of {len(known)}  {mean:.3f}"
        axes.plot(recall, precision[known].mean(dim=0), linewidth=3.5, color="black", label=label)
        if len(known) > len(shown):
            title += f"\n{len(shown)} worst classes of {len(known)}"
    figure.suptitle(title if known else "Precision over recall: nothing to find", fontsize=14)
    axes.set_xlabel("recall", fontsize=13)
    axes.set_ylabel("precision", fontsize=13)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    if known:
        axes.legend(fontsize=11, loc="center left", bbox_to_anchor=(1.01, 0.5), ncols=math.ceil((len(shown) + 1) / 21))
    save_figure(figure, path)


def shorten(name: str, most: int = _LONGEST_NAME) -> str:
    """A long name without its middle, since both of its ends may tell it from others.

    >>> shorten("American Staffordshire terrier, Staffordshire terrier", 20)
    'American Sta…terrier'
    """
    if len(name) <= most:
        return name
    tail = (most - 1) * 2 // 5
    return f"{name[: most - 1 - tail].rstrip()}…{name[-tail:]}"
