"""What callbacks found out about a run: kept in its folder, shown in its report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from rich.console import Console

from dlrecipes.contracts import Verdict
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted, visible
from dlrecipes.runs.folder import RunFolder

__all__ = ["gather_verdicts", "print_verdicts", "read_verdicts", "write_verdicts"]

_STYLE = {"ok": "green", "advice": "yellow", "warning": "bold red"}
_RANK = {"warning": 0, "advice": 1, "ok": 2}


def gather_verdicts(callbacks: Iterable[object]) -> list[Verdict]:
    """What all callbacks that judge have found, the gravest first.

    Args:
        callbacks: of a Trainer; those with a list ``verdicts`` are asked.

    Example:
        >>> gather_verdicts([object()])
        []
    """
    found = [verdict for callback in callbacks for verdict in getattr(callback, "verdicts", ())]
    return sorted(found, key=lambda verdict: _RANK[verdict.level])


def write_verdicts(run: RunFolder, verdicts: Sequence[Verdict]) -> None:
    """Keep them as ``verdicts.json``; nothing is written where nothing was judged.

    Args:
        run: the folder.
        verdicts: see :func:`gather_verdicts`.

    Raises:
        UserError: the file cannot be written.
    """
    if not verdicts:
        return
    try:
        run.verdicts.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write '{run.verdicts}' ({error.strerror}): check the disk.") from error


def read_verdicts(run: RunFolder) -> list[Verdict]:
    """Those of ``verdicts.json``; none without the file.

    Args:
        run: the folder.

    Raises:
        UserError: the file is damaged.
    """
    if not run.verdicts.exists():
        return []
    try:
        return [Verdict(**values) for values in json.loads(run.verdicts.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"'{run.verdicts}' cannot be read ({error}): delete it.") from error


def print_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    """A line for each finding, its evidence and advice; of what is in order only how much was looked at.

    Args:
        verdicts: the gravest first.
        console: where to print.
    """
    grave = [verdict for verdict in verdicts if verdict.level != "ok"]
    if not verdicts:
        return
    console.print("findings:" if grave else f"findings: none, {counted(len(verdicts), 'check')} passed.")
    for verdict in grave:
        console.print(f"  {verdict.level.ljust(7)}", style=_STYLE[verdict.level], end="  ")
        advice = f" {verdict.advice}" if verdict.advice else ""
        console.print(visible(f"{verdict.source}: {verdict.title}: {verdict.evidence}{advice}"), markup=False)
