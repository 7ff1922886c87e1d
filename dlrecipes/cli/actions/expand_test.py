"""``dlrecipes expand-test RUN``: the test set under every corruption, as a table, a CSV file and a picture."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from dlrecipes.cli.actions.run_images import open_run
from dlrecipes.errors import UserError
from dlrecipes.runs.pictures.expanded_plot import draw_expanded
from dlrecipes.shift.corruptions import CORRUPTIONS
from dlrecipes.shift.expanded_test import CLEAN, ExpandedTable, ExpandedTest
from dlrecipes.shift.features import softmax
from dlrecipes.shift.harm import HARM_CAVEAT
from dlrecipes.tasks.images import ImageTask

__all__ = ["expand_test"]

_ALPHA = 0.05


def expand_test(
    run: str | Path,
    *,
    data: str | None = None,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] = (1, 3, 5),
    samples: int = 1000,
    seed: int = 0,
) -> ExpandedTable:
    """Measure, print and write ``expanded_test.csv`` and ``expanded_test.png`` into the run folder.

    Args:
        run: run folder, or a checkpoint in one.
        data: other data with the same classes; None: the run's own. Its test split is used, its validation split where
            there is none.
        corruptions: names; None: all.
        severities: of 1 to 5.
        samples: images to use.
        seed: of draws and corruptions.

    Raises:
        UserError: a run, data or value that cannot be used.
    """
    try:
        names = CORRUPTIONS if corruptions is None else tuple(corruptions)
        expanded = ExpandedTest(names, tuple(severities), samples=samples, seed=seed)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    opened = open_run(run, data)
    split = "test" if opened.data.test_split in opened.data.splits else "val"
    table = expanded(
        opened.task.model,
        opened.batches(split),
        opened.preprocess,
        to_probabilities=opened.task.predictions if isinstance(opened.task, ImageTask) else softmax,
        device=opened.device,
        progress=_progress,
    )
    title = f"{opened.home.name}, {split} split"
    _print(table, title)
    csv_file, picture = opened.home / "expanded_test.csv", opened.home / "expanded_test.png"
    table.to_csv(csv_file)
    try:
        draw_expanded(table, picture, title=title, alpha=_ALPHA)
    except OSError as error:
        raise UserError(f"'{picture}' cannot be written ({error.strerror}): check the disk.") from error
    print(f"  {csv_file}\n  {picture}")
    return table


def _progress(cells: Iterable[Any]) -> Iterable[Any]:
    return track(list(cells), description="Corrupting", disable=not sys.stderr.isatty(), transient=True)


def _print(table: ExpandedTable, title: str) -> None:
    shown = Table(
        title=f"{title}: {table.images} images corrupted, as many others as reference",
        caption=f"lost: accuracy, and its estimates without labels; p of the shift test (· above {_ALPHA}: not seen). "
        f"{HARM_CAVEAT}",
    )
    shown.add_column("corruption", no_wrap=True)
    for heading in ("severity", "accuracy", "lost", "estimated", "p", "MMD²"):
        shown.add_column(heading, justify="right")
    for row in table.rows:
        name = "as they are" if row.corruption == CLEAN else row.corruption
        p_value = f"{row.p_value:.3f}" if row.p_value >= 0.001 else "<.001"
        seen = f"{p_value}{' ·' if row.p_value > _ALPHA else '  '}"
        estimated = f"{row.least_estimated_drop:+.3f} to {row.estimated_drop:+.3f}"
        numbers = (f"{row.accuracy:.3f}", f"{row.drop:+.3f}", estimated, seen, f"{row.effect:.4f}")
        shown.add_row(name, str(row.severity) if row.severity else "", *numbers)
    Console().print(shown)
