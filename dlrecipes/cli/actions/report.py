"""``dlrecipes report RUN``: the last block of a run again, from its folder alone."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from dlrecipes.cli.actions.predict import find_checkpoint, load_task
from dlrecipes.errors import UserError
from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.metrics_csv import read_metrics
from dlrecipes.runs.report import final_block

__all__ = ["report"]


def report(run: str | Path) -> None:
    """Print what a run reached, its table of classes, what was found out about it, its files and the next commands.

    Args:
        run: run folder, or one of its checkpoints.

    Raises:
        UserError: no such run, or one that was saved before it knew its data.
    """
    import torch

    folder = RunFolder.open(run)
    checkpoint, _ = find_checkpoint(folder.path)
    task: Any = load_task(checkpoint, torch.device("cpu"))
    if task.info is None:
        raise UserError(f"{checkpoint} does not know its classes: it was saved before training began.")
    rows = read_metrics(folder.metrics) if folder.metrics.exists() else []
    tested = [row for row in rows if any(name.startswith("test/") for name in row)]
    test = {name: value for name, value in tested[-1].items() if name.startswith("test/")} if tested else None
    facts = folder.read_info()
    command = facts.get("command")
    words = [word for word in command if isinstance(word, str)] if isinstance(command, list) else []
    script = next((word for word in words if word.endswith(".py")), None)
    final_block(
        folder,
        task.info,
        test=test,
        monitor=task.monitor,
        mode=task.monitor_mode,
        headline=task.headline,
        resume_command=None if script is None else f"python {shlex.quote(script)} --resume {shlex.quote(str(run))}",
    )
