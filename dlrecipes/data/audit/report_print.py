"""How reports about data are printed: tables of at most 100 columns, plain text where the output is no terminal."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlrecipes.data.formats.records import Finding
from dlrecipes.functional.words import visible

__all__ = ["PrintedReport", "class_table", "foreign", "grouped", "make_table", "remarks"]

_WIDTH = 100
_EXAMPLES = 5
_CLASSES_SHOWN = 24


class PrintedReport:
    """A report that consists of tables and lines of text."""

    @abstractmethod
    def parts(self) -> Iterable[Table | Text]:
        """Tables and lines, in order."""

    def print(self, console: Console | None = None) -> None:
        """Print the tables: at most 100 columns, plain text where the output is not a terminal."""
        if console is None:
            console = Console(highlight=False)
            if not console.is_terminal:
                console = Console(highlight=False, width=_WIDTH)
        width = min(_WIDTH, console.width)
        for part in self.parts():
            console.print(part, width=width, crop=False)

    def __str__(self) -> str:
        text = io.StringIO()
        # force_jupyter=False: in a notebook rich would display the table instead of writing it
        console = Console(
            file=text, width=_WIDTH, highlight=False, force_terminal=False, force_jupyter=False, color_system=None
        )
        self.print(console)
        return text.getvalue()


def foreign(text: object, style: str = "") -> Text:
    """Text with names out of the data in it: none of their characters acts, and no bracket is markup."""
    return Text(visible(text), style=style, overflow="fold")


def make_table(first: str, *others: str) -> Table:
    """An empty table: the first column is text, the others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(foreign(name), justify="right")
    return table


def class_table(title: str, classes: Sequence[str], counts: Mapping[str, Sequence[int]]) -> Table:
    """Counts of each class, most frequent first; of many classes, the most and the least frequent.

    Args:
        title: of the first column.
        classes: names.
        counts: by column, the last of which orders the rows.
    """
    table = make_table(title, *counts)
    columns = list(counts.values())
    order = sorted(range(len(classes)), key=lambda k: -columns[-1][k])
    half = _CLASSES_SHOWN // 2
    shown = order if len(order) <= _CLASSES_SHOWN else [*order[:half], *order[-half:]]
    for position, k in enumerate(shown):
        if len(shown) < len(order) and position == half:
            rest = order[half:-half]
            sums = [sum(column[i] for i in rest) for column in columns]
            table.add_row(f"({len(rest)} classes between)", *map(str, sums))
        table.add_row(foreign(classes[k]), *(str(column[k]) for column in columns))
    return table


def grouped(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Findings by kind, in the order of first occurrence."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.kind, []).append(finding)
    return groups


def remarks(findings: Sequence[Finding], warnings: Sequence[str], notes: Sequence[str]) -> Iterable[Text]:
    """What was found, counted with examples; warnings; notes; or the word that all is well."""
    for kind, found in grouped(findings).items():
        yield Text(f"{len(found)} x {kind}", style="yellow")
        yield from (foreign(f"    {f}") for f in found[:_EXAMPLES])
        if len(found) > _EXAMPLES:
            yield Text(f"    ... and {len(found) - _EXAMPLES} more")
    yield from (foreign(f"Warning: {w}", "yellow") for w in warnings)
    yield from (foreign(f"Note: {n}") for n in notes)
    if not findings and not warnings:
        yield Text("No problems found.", style="green")
