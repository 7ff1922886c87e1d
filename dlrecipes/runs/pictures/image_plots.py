"""Plots of what a classifier or regressor has predicted for a whole split; numpy arrays in, a PNG out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, r2_score

from dlrecipes.functional.words import counted
from dlrecipes.runs.metric_names import format_value
from dlrecipes.runs.pictures.curves import new_figure, save_figure
from dlrecipes.runs.pictures.plots import draw_confusion, draw_precision_recall, shorten

__all__ = [
    "draw_class_bars",
    "draw_class_confusion",
    "draw_class_curves",
    "draw_reliability",
    "draw_scatter",
    "most_confused",
    "reliability",
]

_MOST_BARS = 40
_MOST_TARGETS = 4
_RECALLS = np.linspace(0, 1, 501)


def draw_class_confusion(
    targets: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str], path: str | Path, split: str
) -> None:
    """Draw the confusion matrix; of more than 30 classes those that are taken for one another most often.

    Args:
        targets, labels: int64 [n], true and predicted.
        classes: K names.
        path: PNG to write.
        split: for the title.
    """
    chosen = most_confused(targets, labels, len(classes))
    names = [classes[i] for i in chosen]
    accuracy = float((targets == labels).mean()) if len(targets) else float("nan")
    title = f"Confusion, {split} split: {counted(len(targets), 'image')}, accuracy {accuracy:.3f}"
    if len(chosen) < len(classes):
        title = f"The {len(chosen)} most confused of {len(classes)} classes, {split} split, accuracy {accuracy:.3f}"
    place = np.full(len(classes), len(chosen), dtype=np.int64)  # a last column for all the others
    place[chosen] = np.arange(len(chosen))
    rows, columns = place[targets], place[labels]
    width = len(chosen) + 1
    counts = np.bincount(rows * width + columns, minlength=width * width).reshape(width, width)[: len(chosen)]
    if len(chosen) == len(classes):
        draw_confusion(torch.from_numpy(counts[:, :-1]), names, names, path, title=title)
    else:
        draw_confusion(torch.from_numpy(counts), names, [*names, "all others"], path, title=title)


def most_confused(targets: NDArray[np.int64], labels: NDArray[np.int64], classes: int, most: int = 30) -> list[int]:
    """Classes to show: all up to ``most``, else those of the most frequent mistakes, confused ones side by side.

    Example:
        >>> most_confused(np.array([0, 0, 3, 3, 2]), np.array([0, 1, 2, 2, 2]), classes=4, most=2)
        [3, 2]
    """
    if classes <= most:
        return list(range(classes))
    wrong = targets != labels
    pairs, counts = np.unique(targets[wrong] * classes + labels[wrong], return_counts=True)
    chosen: dict[int, None] = {}
    for pair in pairs[np.argsort(-counts, kind="stable")].tolist():
        if len(chosen) >= most:
            break
        chosen |= dict.fromkeys(divmod(pair, classes))
    seen = np.bincount(targets, minlength=classes)  # few mistakes: the most frequent classes fill up
    chosen |= dict.fromkeys(np.argsort(-seen, kind="stable").tolist())
    return list(chosen)[:most]


def draw_class_curves(
    truth: NDArray[np.bool_],
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
    labels: Sequence[int],
    path: str | Path,
    title: str,
) -> None:
    """Draw precision over recall of each class against the rest, and the mean of the classes.

    Args:
        truth: bool [n, K].
        probabilities: float32 [n, K].
        classes: K names.
        labels: K labels, for the colours.
        path: PNG to write.
        title: text.
    """
    curves, averages = np.full((len(classes), len(_RECALLS)), -1.0), [-1.0] * len(classes)
    for i in range(len(classes)):
        if truth[:, i].any():
            precision, recall, _ = precision_recall_curve(truth[:, i], probabilities[:, i])
            # average precision is the area under these steps: from one recall to the next, the latter's precision
            curves[i] = precision[::-1][np.searchsorted(recall[::-1], _RECALLS)]
            averages[i] = float(average_precision_score(truth[:, i], probabilities[:, i]))
    draw_precision_recall(torch.from_numpy(curves), classes, labels, path, title=title, averages=averages)


def reliability(
    confidence: NDArray[np.float32], right: NDArray[np.bool_], bins: int = 15
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], float]:
    """Counts, mean confidence and share of right ones in equally wide bins of confidence, and the calibration error.

    A bin holds its upper edge. The last two are NaN where a bin is empty. The error is the mean over samples of
    \\|share right − mean confidence\\| of their bin (Naeini et al., 2015; Guo et al., 2017, arXiv:1706.04599).

    Args:
        confidence: float32 [n], in 0..1.
        right: bool [n].
        bins: how many.

    Example:
        >>> counts, _, share, error = reliability(np.array([0.9, 0.9, 0.2]), np.array([True, False, False]), bins=2)
        >>> counts.tolist(), share.tolist(), round(error, 3)
        ([1, 2], [0.0, 0.5], 0.333)
    """
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    total, hits = (np.bincount(place, weights=w, minlength=bins) for w in (confidence, right.astype(np.float64)))
    error = float(np.abs(hits - total).sum() / max(1, len(confidence)))
    none = np.where(counts > 0, counts, np.nan)
    return counts, total / none, hits / none, error


def draw_reliability(
    confidence: NDArray[np.float32],
    right: NDArray[np.bool_],
    path: str | Path,
    *,
    title: str,
    xlabel: str = "confidence in the predicted class",
    ylabel: str = "share that is right",
) -> None:
    """Draw the share that is right over the confidence, in 15 bins, over a histogram of the confidence.

    Args:
        confidence: float32 [n], in 0..1.
        right: bool [n].
        path: PNG to write.
        title, xlabel, ylabel: texts.
    """
    counts, mean, share, error = reliability(confidence, right)
    figure = new_figure(6.6, 7.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, len(counts) + 1)
    middles, width = (edges[:-1] + edges[1:]) / 2, 0.92 / len(counts)
    upper.bar(middles, np.nan_to_num(share), width=width, color="#4878a8", label=ylabel)
    gap = np.nan_to_num(mean - share)
    upper.bar(
        middles, gap, bottom=np.nan_to_num(share), width=width, color="none", edgecolor="crimson", hatch="////",
        linewidth=0.8, label="gap to the confidence",
    )  # fmt: skip
    upper.plot([0, 1], [0, 1], linestyle="--", color="0.35", linewidth=1.5, label="perfectly calibrated")
    upper.set_ylabel(ylabel, fontsize=13)
    upper.set_ylim(0, 1.02)
    upper.set_title(f"{title}\ncalibration error {error:.3f} over {len(confidence)}", fontsize=14)
    upper.legend(fontsize=11, loc="upper left")
    lower.bar(middles, counts, width=width, color="0.6")
    lower.set_ylabel("number", fontsize=13)
    lower.set_xlabel(xlabel, fontsize=13)
    lower.set_xlim(0, 1)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=11)
    save_figure(figure, path)


def draw_class_bars(
    truth: NDArray[np.bool_],
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
    path: str | Path,
    split: str,
    threshold: float = 0.5,
) -> None:
    """Draw average precision, precision and recall of each label, best first; of more than 40 the best and worst 20.

    Args:
        truth: bool [n, K].
        probabilities: float32 [n, K].
        classes: K names.
        path: PNG to write.
        split: for the title.
        threshold: of precision and recall.
    """
    found = probabilities >= threshold
    hits = (found & truth).sum(0)
    recall = hits / np.maximum(1, truth.sum(0))
    precision = hits / np.maximum(1, found.sum(0))
    known = [i for i in range(len(classes)) if truth[:, i].any()]
    average = {i: float(average_precision_score(truth[:, i], probabilities[:, i])) for i in known}
    order = sorted(known, key=lambda i: -average[i])
    title = f"Labels of the {split} split (number of images), precision and recall at probability {threshold:g}"
    if len(order) > _MOST_BARS:
        title += f"\nbest and worst {_MOST_BARS // 2} of {len(order)}"
        order = order[: _MOST_BARS // 2] + order[-_MOST_BARS // 2 :]
    figure = new_figure(9.5, max(3.0, 1.6 + 0.42 * len(order)))
    axes = figure.add_subplot()
    places = np.arange(len(order))
    axes.barh(places, [average[i] for i in order], height=0.7, color="#4878a8", label="average precision")
    axes.scatter(precision[order], places, marker="D", s=42, color="#ee8100", zorder=3, label="precision")
    axes.scatter(recall[order], places, marker="o", s=48, color="#1a1a1a", zorder=3, label="recall")
    names = [f"{shorten(classes[i])}  ({int(truth[:, i].sum())})" for i in order]
    axes.set_yticks(places, names, fontsize=11)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0, 1.02)
    figure.suptitle(title, fontsize=14)
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    axes.legend(fontsize=11, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save_figure(figure, path)


def draw_scatter(
    targets: NDArray[np.float32], values: NDArray[np.float32], names: Sequence[str], path: str | Path, split: str
) -> None:
    """Draw predicted over true values and a histogram of the errors; of more than four targets those with the worst R².

    Args:
        targets, values: float32 [n, T].
        names: T names.
        path: PNG to write.
        split: for the title.
    """
    r2 = [float(r2_score(targets[:, i], values[:, i])) if len(targets) > 1 else float("nan") for i in range(len(names))]
    shown = sorted(sorted(range(len(names)), key=lambda i: r2[i])[:_MOST_TARGETS])
    figure = new_figure(5.4 * len(shown) + 0.6, 7.6)
    panels = figure.subplots(2, len(shown), height_ratios=(3, 1), squeeze=False)
    title = f"{split} split, {counted(len(targets), 'image')}"
    if len(shown) < len(names):
        title += f", the {len(shown)} targets with the worst R² of {len(names)}"
    figure.suptitle(title, fontsize=14)
    for column, i in enumerate(shown):
        _scatter_panel(panels[0][column], targets[:, i], values[:, i], names[i], r2[i])
        _error_panel(panels[1][column], values[:, i] - targets[:, i])
    save_figure(figure, path)


def _scatter_panel(axes: Any, target: NDArray[np.float32], value: NDArray[np.float32], name: str, r2: float) -> None:
    low, high = float(min(target.min(), value.min())), float(max(target.max(), value.max()))
    margin = 0.04 * (high - low) or 1.0
    many = len(target) > 500
    axes.scatter(target, value, s=8 if many else 22, alpha=max(0.05, min(0.7, 300 / len(target))), linewidths=0)
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, linestyle="--", color="crimson", linewidth=1.5, label="predicted = true")
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_aspect("equal")
    mae = float(np.abs(value - target).mean())
    axes.set_title(f"{shorten(name, 40)}\nMAE {format_value(mae)}, R² {format_value(r2)}", fontsize=13)
    axes.set_xlabel("true", fontsize=13)
    axes.set_ylabel("predicted", fontsize=13)
    axes.legend(fontsize=11, loc="upper left")
    axes.grid(alpha=0.3)


def _error_panel(axes: Any, error: NDArray[np.float32]) -> None:
    axes.hist(error, bins=min(60, max(10, len(error) // 8)), color="0.6")
    axes.axvline(0, color="crimson", linestyle="--", linewidth=1.5)
    axes.set_xlabel("predicted − true", fontsize=13)
    axes.set_ylabel("number", fontsize=13)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
