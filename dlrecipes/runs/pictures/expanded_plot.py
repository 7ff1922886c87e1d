"""A picture of an expanded test set: corruptions down, severities across, coloured by the accuracy that is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dlrecipes.runs.pictures.curves import new_figure, save_figure
from dlrecipes.shift.expanded_test import ExpandedTable

__all__ = ["draw_expanded"]


def draw_expanded(table: ExpandedTable, path: str | Path, *, title: str, alpha: float = 0.05) -> None:
    """Draw accuracies as a heat map; a dot marks cells where the shift test saw nothing.

    Args:
        table: from ``ExpandedTest``.
        path: PNG to write.
        title: text.
        alpha: level of the shift test.
    """
    names, levels = table.corruptions, table.severities
    drops = np.array([[table.cell(name, level).drop for level in levels] for name in names])
    figure = new_figure(max(6.4, 3.6 + 1.05 * len(levels)), 2.4 + 0.52 * len(names))
    axes = figure.add_subplot()
    most = max(0.1, float(drops.max()))
    image = axes.imshow(drops, cmap="OrRd", vmin=0, vmax=most, aspect="auto")
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label("accuracy lost", fontsize=12)
    unseen = False
    for i, name in enumerate(names):
        for j, level in enumerate(levels):
            cell = table.cell(name, level)
            ink = "white" if cell.drop > 0.6 * most else "black"
            mark = " ·" if cell.p_value > alpha else ""
            unseen = unseen or bool(mark)
            weight = "bold" if mark else "normal"
            axes.text(j, i, f"{cell.accuracy:.3f}{mark}", ha="center", va="center", color=ink, weight=weight)
    axes.set_xticks(range(len(levels)), [str(level) for level in levels], fontsize=12)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=12)
    note = f"\n· and bold: the shift is not seen (p > {alpha:g})" if unseen else ""
    axes.set_xlabel(f"severity{note}", fontsize=12)
    figure.suptitle(
        f"{title}\naccuracy {table.clean_accuracy:.3f} as they are, {table.mean_accuracy:.3f} corrupted, "
        f"{table.images} images",
        fontsize=13,
    )
    save_figure(figure, path)
