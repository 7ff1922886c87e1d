"""What an init audit found, drawn: size of signal and gradient from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from dlrecipes.nn.init.audit import AuditRow, InitAudit
from dlrecipes.runs.pictures.curves import new_figure, save_figure

__all__ = ["draw_init_audit"]

_LEAST, _MOST = 1e-12, 1e12  # a network of 50 layers can leave float32's range, and the rest of the picture with it


def draw_init_audit(audits: Mapping[str, InitAudit], path: str | Path) -> None:
    """Draw audits of one network, or of several, side by side: signal between samples, and gradient, by layer.

    The band is what the first audit allows; a cross marks the layer that an audit names. What is 0, not finite or
    beyond 1e±12 is drawn at the border.

    Args:
        audits: name for the legend -> audit.
        path: PNG to write.

    Raises:
        ValueError: no audit.
        OSError: the file cannot be written.
    """
    if not audits:
        raise ValueError("audits is empty: at least one is needed")
    limit = next(iter(audits.values())).limit
    figure = new_figure(11.0, 4.6)
    panels = figure.subplots(1, 2)
    titles = ("forward: what samples differ by", "backward: norm of the gradient")
    values: list[float] = [1 / limit, limit]
    for axes, title, kind in zip(panels, titles, ("signal", "gradient"), strict=True):
        for name, audit in audits.items():
            heights = [_shown(_value(row, kind)) for row in audit.rows]
            values += heights
            (line,) = axes.plot(range(1, len(heights) + 1), heights, linewidth=2, label=name)
            for index, row in enumerate(audit.rows):
                if row.name == audit.first and kind in audit.verdict.title:
                    axes.plot([index + 1], [heights[index]], marker="X", markersize=13, color=line.get_color())
        axes.axhspan(1 / limit, limit, color="tab:green", alpha=0.1, label="passes")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # no formulas in our pictures
        axes.set_title(title, fontsize=14)
        axes.set_xlabel("layer, in the order of the forward pass", fontsize=13)
        axes.tick_params(labelsize=11)
        axes.grid(alpha=0.3)
    for axes in panels:
        axes.set_ylim(max(_LEAST, min(values) / 3), min(_MOST, max(values) * 3))
    panels[0].set_ylabel("relative to the input", fontsize=13)
    panels[1].set_ylabel("relative to the last layer", fontsize=13)
    panels[0].legend(fontsize=11, loc="best")
    save_figure(figure, path)


def _value(row: AuditRow, kind: str) -> float:
    return row.gradient if kind == "gradient" else row.differs


def _shown(value: float) -> float:
    return min(max(value, _LEAST), _MOST) if math.isfinite(value) else _MOST
