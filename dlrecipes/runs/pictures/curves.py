"""Curves of a run, drawn from its metrics.csv alone: loss, quality, learning rate."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.metric_names import DETECTION_HEADLINE, format_value, panel_of, with_split
from dlrecipes.runs.metrics_csv import read_metrics
from dlrecipes.runs.pictures.fonts import font_for

__all__ = ["CurvesPicture", "best_row", "draw_curves", "new_figure", "save_figure"]

Row = dict[str, float]
_SECONDS_BETWEEN = 30.0
_LOSSES = ("train/loss", "train/loss_epoch", "val/loss")
_OF_VALIDATION = " on the validation split"
_LOSS, _ERROR, _QUALITY, _RATE = "Loss", f"Error{_OF_VALIDATION}", f"Quality{_OF_VALIDATION}", "Learning rate"
_MOST_LINES = 4
_NAMES = {"train/loss_step": "train, each step", "train/loss_epoch": "train, mean of the epoch"}


class CurvesPicture(Callback):
    """Draws ``curves.png`` at the end of training, and after epochs but not more than once in 30 s.

    Args:
        run: its ``metrics.csv`` is read and its ``curves.png`` written.
        monitor: the metric whose best epoch is marked.
        headline: metrics to draw, without their split.
        mode: ``"max"`` or ``"min"``: which value of ``monitor`` is best.
    """

    def __init__(
        self,
        run: RunFolder,
        monitor: str = "val/map",
        headline: Sequence[str] = DETECTION_HEADLINE,
        mode: str = "max",
    ) -> None:
        _check_mode(mode)
        self.run = run
        self.monitor = monitor
        self.headline = tuple(headline)
        self.mode = mode
        self._drawn_at = -_SECONDS_BETWEEN

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if time.monotonic() - self._drawn_at >= _SECONDS_BETWEEN:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or not self.run.metrics.exists():
            return
        try:
            draw_curves(self.run.metrics, self.run.curves, self.monitor, self.headline, self.mode)
        except OSError as error:  # a full disk must not end the training for a picture
            print(f"picture '{self.run.curves}' was not written ({error.strerror}); training goes on.", flush=True)
        self._drawn_at = time.monotonic()


def draw_curves(
    metrics: str | os.PathLike[str],
    path: str | os.PathLike[str],
    monitor: str = "val/map",
    headline: Sequence[str] = DETECTION_HEADLINE,
    mode: str = "max",
) -> None:
    """Draw loss, quality and learning rate over epochs; panels without data are left out.

    Metrics with a unit of their own, such as MAE, have a panel apart from those that end at 1.

    Args:
        metrics: a metrics.csv.
        path: PNG to write.
        monitor: metric whose best epoch is marked.
        headline: metrics to draw, of the validation split unless they begin with another; the first four that were
            measured are.
        mode: ``"max"`` or ``"min"``.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: unknown mode.
    """
    _check_mode(mode)
    rows = [row for row in read_metrics(metrics) if "step" in row and not any(n.startswith("test/") for n in row)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    wanted = [name for name in with_split("val", headline) if name in columns][:_MOST_LINES]
    panels = _panels(columns, [*wanted, monitor])
    per_epoch = _steps_per_epoch(rows)
    figure = new_figure(6.2 * max(1, len(panels)), 4.6)
    for position, (title, names) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), position)
        alone = all(name.startswith("val/") for name in names)
        axes.set_title(title if alone else title.removesuffix(_OF_VALIDATION), fontsize=15)
        axes.set_xlabel("epoch", fontsize=13)
        axes.tick_params(labelsize=12)
        axes.grid(alpha=0.3)
        for name in names:
            _line(axes, rows, name)
        _limit(axes, title, [row[name] for row in rows for name in names if name in row])
        _mark_best(axes, rows, monitor, mode, at_point=monitor in names)
        axes.set_xlim(0, 1.02 * max(1.0, *((row["step"] + 1) / per_epoch for row in rows)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=11)
    if not panels:
        figure.text(0.5, 0.5, "no metrics yet", ha="center", va="center")
    save_figure(figure, path)


def _panels(columns: Sequence[str], metrics: Sequence[str]) -> dict[str, list[str]]:
    """What is drawn where: panel title -> metrics."""
    drawn = [name for name in dict.fromkeys(metrics) if name in columns and name not in _LOSSES]
    panels = {
        _LOSS: [name for name in ("train/loss_step", *_LOSSES) if name in columns],
        _ERROR: [name for name in drawn if panel_of(name) == "error"],
        _QUALITY: [name for name in drawn if panel_of(name) == "quality"],
        _RATE: [name for name in columns if name == "lr" or name.startswith(("lr-", "lr/"))],
    }
    return {title: names for title, names in panels.items() if names}


def _limit(axes: Any, title: str, values: Sequence[float]) -> None:
    """Axes that do not jump from run to run; R² may be far below 0 at first, and a metric of the user's above 1."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    if title == _RATE:
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    elif title == _ERROR:
        axes.set_ylim(bottom=0 if min(finite) >= 0 else None)
    elif title == _QUALITY and max(finite) <= 1:
        axes.set_ylim(0 if min(finite) >= 0 else max(-1.0, min(finite) - 0.05), 1)


def best_row(rows: Sequence[Row], monitor: str, mode: str = "max") -> Row | None:
    """The row with the best value of a metric; the earliest of equals; None if no row has it.

    >>> best_row([{"epoch": 0, "val/map": 0.25}, {"epoch": 1, "val/map": 0.5}], "val/map")
    {'epoch': 1, 'val/map': 0.5}
    """
    _check_mode(mode)
    known = [row for row in rows if row.get(monitor, float("nan")) == row.get(monitor)]  # NaN differs from itself
    if not known:
        return None
    return (max if mode == "max" else min)(known, key=lambda row: row[monitor])


def new_figure(width: float, height: float) -> Figure:
    """A figure outside pyplot's global list, in inches, with an Agg canvas: nothing leaks, any thread may draw."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, replacing an older file in one go. Texts are what they say: no ``$`` begins a formula."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.tmp")
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        other = font_for(text.get_text())
        if other is not None:
            text.set_fontfamily([*text.get_fontfamily(), other.name])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # no font has it: a box is drawn
        figure.savefig(temporary, format="png")
    os.replace(temporary, target)


def _line(axes: Any, rows: Sequence[Row], name: str) -> None:
    per_epoch = _steps_per_epoch(rows)
    points = [((row["step"] + 1) / per_epoch, row[name]) for row in rows if name in row]
    x, y = [p[0] for p in points], [p[1] for p in points]
    if name == "train/loss_step":
        axes.plot(x, y, color="0.75", linewidth=1, label=_NAMES[name], zorder=1)
    else:
        marker = "o" if len(x) <= 30 else None
        axes.plot(x, y, linewidth=2, marker=marker, markersize=4, label=_NAMES.get(name, name))


def _mark_best(axes: Any, rows: Sequence[Row], monitor: str, mode: str, at_point: bool) -> None:
    best = best_row(rows, monitor, mode)
    if best is None:
        return
    x = (best["step"] + 1) / _steps_per_epoch(rows)
    label = f"best {monitor} {format_value(best[monitor])}, epoch {x:g}" if at_point else None
    axes.axvline(x, color="crimson", linewidth=1, linestyle="--", alpha=0.7, label=label)
    if at_point:
        axes.plot([x], [best[monitor]], marker="*", markersize=15, color="crimson", zorder=5)


def _steps_per_epoch(rows: Sequence[Row]) -> float:
    """Steps are counted from 0 over the whole run; the last row tells how many make an epoch."""
    known = [row for row in rows if "epoch" in row]
    if not known:
        return 1.0
    last = max(known, key=lambda row: row["step"])
    ends = [row for row in known if any(n.startswith("val/") or n.endswith("_epoch") for n in row)]
    if ends:  # an epoch's last step: exact, while a row in mid-epoch would make the epochs look too short
        last = max(ends, key=lambda row: row["step"])
    return max(1.0, (last["step"] + 1) / (last["epoch"] + 1))


def _check_mode(mode: str) -> None:
    if mode not in ("max", "min"):
        raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
