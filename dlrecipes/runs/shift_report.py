"""What ``dlrecipes shift`` found, as pictures, Markdown, JSON and one HTML file that holds its pictures itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dlrecipes.functional.words import in_markdown, visible
from dlrecipes.runs.pictures.curves import new_figure, save_figure
from dlrecipes.runs.pictures.tiles import draw_image_tile, save_grid
from dlrecipes.shift.harm import HARM_CAVEAT
from dlrecipes.shift.report import ShiftReport

__all__ = ["Distribution", "ShiftPicture", "ShiftResults", "draw_distributions", "draw_effects", "draw_most_shifted"]

_OLD, _NEW = "#1f77b4", "#d62728"
_BARS = 16
_TILE = 150
_ACROSS = 4  # images of each side in a row
_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:62em;margin:2em auto;padding:0 1em;color:#222}"
    "img{max-width:100%}table{border-collapse:collapse}td,th{padding:.25em .9em;border-bottom:1px solid #ddd;"
    "text-align:right}td:first-child,th:first-child{text-align:left}.ok{color:#1a7f37}.advice{color:#9a6700}"
    ".warning{color:#c00}"
)


@dataclass(frozen=True)
class Distribution:
    """Values of one property on both sides, float [n] and [m]."""

    name: str
    reference: NDArray[np.floating]
    new: NDArray[np.floating]


@dataclass(frozen=True)
class ShiftPicture:
    """An image with its file name and what to write under that: uint8 [3, H, W]."""

    image: Tensor
    title: str
    note: str


def draw_distributions(distributions: Sequence[Distribution], path: Path) -> None:
    """Histograms of both sides over one another, one panel for each property.

    Args:
        distributions: at least one.
        path: PNG to write.
    """
    columns = min(3, len(distributions))
    rows = -(-len(distributions) // columns)
    figure = new_figure(max(5.0, 4.2 * columns), 0.5 + 2.9 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, found in zip(panels, distributions, strict=False):
        both = np.concatenate((found.reference, found.new))
        low, high = (float(value) for value in np.quantile(both, (0.002, 0.998)))
        bars = int(min(40, max(10, len(both) ** 0.5)))
        edges = np.linspace(low, high if high > low else low + 1e-6, bars + 1)
        for values, color, label in ((found.reference, _OLD, "reference"), (found.new, _NEW, "new")):
            inside = values.clip(edges[0], edges[-1])
            panel.hist(
                inside, edges, weights=np.full(len(values), 1 / len(values)), color=color, alpha=0.5, label=label
            )
            panel.axvline(float(np.median(values)), color=color, linewidth=1.5)
        panel.set_title(found.name, fontsize=13)
        panel.tick_params(labelsize=10)
    for panel in panels[len(distributions) :]:
        panel.axis("off")
    panels[0].legend(fontsize=11)
    figure.supylabel("share of the images (line: median)", fontsize=11)
    save_figure(figure, path)


def draw_effects(report: ShiftReport, path: Path) -> None:
    """Distance D of each property and feature, the largest first; what the test found is red.

    Args:
        report: of ``compare``.
        path: PNG to write.
    """
    shown = next(test for test in report.tests if test.test == "KS").features[:_BARS]
    found = {culprit.name for culprit in report.culprits}
    figure = new_figure(7.5, 1.3 + 0.36 * len(shown))
    panel = figure.add_subplot()
    colors = [_NEW if feature.name in found else "#9aa5b1" for feature in shown]
    panel.barh([feature.name for feature in shown], [feature.effect for feature in shown], color=colors)
    for row, feature in enumerate(shown):
        panel.text(feature.effect + 0.01, row, f"p {_p(feature.p_value)}", va="center", fontsize=10)
    panel.invert_yaxis()
    panel.set_xlim(0, 1.18)
    panel.set_xticks(np.linspace(0, 1, 6))
    panel.set_xlabel("Kolmogorov-Smirnov distance D: 0 the same, 1 nothing in common (p: corrected)", fontsize=11)
    panel.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_most_shifted(new: Sequence[ShiftPicture], reference: Sequence[ShiftPicture], path: Path) -> None:
    """The most shifted new images on the left, in red frames, reference images on the right.

    Args:
        new, reference: as many of each.
        path: PNG to write.
    """
    tiles = []
    for start in range(0, len(new), _ACROSS):
        for side, color in ((new, (214, 39, 40)), (reference, (31, 119, 180))):
            part = side[start : start + _ACROSS]
            tiles += [draw_image_tile(picture.image, [picture.title, picture.note], _TILE, color) for picture in part]
    save_grid(tiles, 2 * min(_ACROSS, len(new)), path)


@dataclass(frozen=True, kw_only=True)
class ShiftResults:
    """Everything that is written.

    Attributes:
        report: of ``compare``.
        reference, new: what was compared: paths.
        steps: what to do now, a sentence each.
        most_shifted: files of the most shifted new images.
        pictures: PNG files in the folder, each with its heading.
        notes: what was decided while reading.
    """

    report: ShiftReport
    reference: str
    new: str
    steps: Sequence[str]
    most_shifted: Sequence[str]
    pictures: Sequence[tuple[str, Path]]
    notes: Sequence[str] = ()

    def rows(self) -> list[tuple[str, str, str]]:
        """Test, p and effect, as text."""
        return [(test.test, _p(test.p_value), f"{test.effect:.3g} ({test.effect_name})") for test in self.report.tests]

    def write(self, folder: Path) -> tuple[Path, Path, Path]:
        """``shift.html``, ``shift.md`` and ``shift.json``.

        Raises:
            OSError: they cannot be written.
        """
        html, markdown, numbers = (folder / f"shift.{suffix}" for suffix in ("html", "md", "json"))
        html.write_text(self._html(), encoding="utf-8")
        markdown.write_text(self._markdown(), encoding="utf-8")
        values = self.report.to_dict() | {
            "verdict": str(self.report),
            "reference": self.reference,
            "new": self.new,
            "steps": list(self.steps),
            "most_shifted_files": list(self.most_shifted),
            "notes": list(self.notes),
        }
        numbers.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        return html, markdown, numbers

    def _sections(self) -> list[tuple[str, list[str]]]:
        """Headings with sentences, for both kinds of text."""
        report = self.report
        sections = [("What do I do now?", list(self.steps))]
        if report.culprits:
            sections.append(("What moved", [f"{culprit.kind}: {culprit}" for culprit in report.culprits[:10]]))
        if report.harm is not None:
            sections.append(("What it costs", [f"{str(report.harm)[0].upper()}{str(report.harm)[1:]}.", HARM_CAVEAT]))
        sections.append(("How this was found", [*self.notes, _METHOD.format(alpha=report.alpha)]))
        return sections

    def _markdown(self) -> str:
        verdict = self.report.verdict
        lines = [
            "# Is the new data different?",
            "",
            f"**{in_markdown(verdict.title)}**: {in_markdown(verdict.evidence)}",
            "",
        ]
        lines += [f"Reference: {in_markdown(self.reference)}  ", f"New: {in_markdown(self.new)}", ""]
        lines += ["| test | p | effect |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in self.rows()), ""]
        for heading, sentences in self._sections():
            lines += [f"## {heading}", "", *(f"- {in_markdown(sentence)}" for sentence in sentences), ""]
        for heading, picture in self.pictures:
            lines += [f"## {heading}", "", f"![{heading}]({picture.name})", ""]
        return "\n".join(lines)

    def _html(self) -> str:
        verdict = self.report.verdict
        head = "".join(f"<th>{name}</th>" for name in ("test", "p", "effect"))
        body = "".join(f"<tr>{''.join(f'<td>{_html(cell)}</td>' for cell in row)}</tr>" for row in self.rows())
        parts = [
            "<h1>Is the new data different?</h1>",
            f'<p><strong class="{verdict.level}">{_html(verdict.title)}</strong>: {_html(verdict.evidence)}</p>',
            f"<p>Reference: <code>{_html(self.reference)}</code><br>New: <code>{_html(self.new)}</code></p>",
            f"<table><tr>{head}</tr>{body}</table>",
        ]
        for heading, sentences in self._sections():
            items = "".join(f"<li>{_html(sentence)}</li>" for sentence in sentences)
            parts.append(f"<h2>{_html(heading)}</h2><ul>{items}</ul>")
        for heading, picture in self.pictures:
            data = base64.b64encode(picture.read_bytes()).decode()
            image = f'<img alt="{_html(heading)}" src="data:image/png;base64,{data}">'
            parts.append(f"<h2>{_html(heading)}</h2><p>{image}</p>")
        title = f"<title>{_html(verdict.title)}</title>"
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{title}<style>{_STYLE}</style></head>\n'
            f"<body>{chr(10).join(parts)}</body></html>\n"
        )


_METHOD = (
    "The verdict rests on KS (each property and component, Bonferroni) and MMD (permutations), at half the level "
    "{alpha:g} each; the other tests explain and have no part in it."
)


def _html(text: str) -> str:
    return escape(visible(text))


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
