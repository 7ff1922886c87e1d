"""A diagnosis of a run from its metrics.csv."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from dlrecipes.checkpoint_io import load_checkpoint_file
from dlrecipes.contracts import Verdict
from dlrecipes.errors import UserError
from dlrecipes.functional.fit_curves import Curves, measured, slashed
from dlrecipes.functional.fit_rules import RULES, diagnose
from dlrecipes.functional.words import counted, say
from dlrecipes.runs import RunFolder, read_metrics

__all__ = ["examine"]


def examine(
    path: str | os.PathLike[str], *, monitor: str | None = None, mode: str | None = None, everything: bool = False
) -> list[Verdict]:
    """Print what the curves of a run say, and give it back; nothing is wrong: an empty list.

    Args:
        path: run folder, or a metrics.csv; without a column ``epoch`` each of its rows is one.
        monitor: metric that counts; None: the first known one of the validation split.
        mode: ``"max"`` or ``"min"``; None: by the metric's name.
        everything: all rules that apply, not only the first.

    Raises:
        UserError: no such file, no epochs in it, no such metric, or one whose name does not tell its ``mode``.
    """
    file = Path(path) / "metrics.csv" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(f"'{file}' does not exist: give a run folder, or the metrics.csv in it.")
    rows = [slashed(row) for row in read_metrics(file)]
    monitor = next(iter(slashed({monitor: None}))) if monitor is not None else None
    if not any("epoch" in row for row in rows):
        rows = [{**row, "epoch": float(number)} for number, row in enumerate(rows)]
    known = sorted({name for row in rows for name in row if name.startswith("val/")})
    if monitor is not None and monitor not in known:
        raise UserError(f"'{file}' has no {monitor}: choose one of {', '.join(known)}.")
    curves = Curves.from_rows([*_first_step(Path(path)), *rows], monitor, mode)
    if not len(curves):
        raise UserError(f"'{file}' holds no epoch with train/loss: train for an epoch first.")
    judged = f", judged by {curves.score_name}" if curves.score_name else ""
    say(f"{file}: {counted(len(curves), 'epoch')}, {len(measured(curves.val_loss)[0])} validated{judged}")
    if everything:
        found = [verdict for rule in RULES if (verdict := rule(curves)) is not None]
    else:
        found = [verdict for verdict in [diagnose(curves)] if verdict is not None]
    for verdict in found:
        say(verdict)
    if not found:
        few = np.isfinite(curves.val_loss).sum() < 5
        print(
            "too few validations to judge: five are needed." if few else "ok: none of the illnesses that curves tell."
        )
    return found


def _first_step(path: Path) -> list[dict[str, float]]:
    """A row with the loss of the first step, which ``FitDoctor`` keeps in checkpoints: metrics.csv has every tenth step
    only. None of a mere file, or without that callback."""
    try:
        content = load_checkpoint_file(RunFolder(path).resume_checkpoint) if path.is_dir() else {}
        start = content["callbacks"]["FitDoctor"]["start"]
        return [] if start is None else [{"step": 0.0, "epoch": 0.0, "train/loss_step": float(start)}]
    except (UserError, KeyError, TypeError):
        return []
