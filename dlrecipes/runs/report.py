"""The end of a run: what it reached, where its files are, what to type next; and a card for the model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.runs.curves import best_row
from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.metrics_csv import read_metrics

__all__ = ["final_block", "write_model_card"]

_MANY_CLASSES = 30
_NAMES = {
    "map": "mAP",
    "map_50": "mAP50",
    "map_75": "mAP75",
    "map_small": "mAP small",
    "map_medium": "mAP medium",
    "map_large": "mAP large",
    "mar_100": "AR100",
}


def final_block(
    run: RunFolder,
    info: DataInfo,
    *,
    test: Mapping[str, float] | None = None,
    monitor: str = "val/map",
    mode: str = "max",
    resume_command: str | None = None,
    sync_command: str | None = None,
    console: Console | None = None,
) -> None:
    """Print the best metric and its epoch, a table with a row for each class, the files, and the next commands.

    Args:
        run: a finished run, with its metrics.csv.
        info: classes and how often each occurs in training.
        test: metrics of the test split, names beginning with ``test/``; the table is then of the test split.
        monitor: metric that chose the best checkpoint.
        mode: ``"max"`` or ``"min"``.
        resume_command: such as ``python recipes/train_detr.py --resume RUN``.
        sync_command: how to upload an offline W&B run.
        console: where to print; standard output unless given.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    rows = read_metrics(run.metrics) if run.metrics.exists() else []
    best = best_row(rows, monitor, mode)
    console.rule("done")
    if best is None:
        console.print(f"no {monitor} was measured: the run ended before its first validation.")
    else:
        epochs = int(max(row.get("epoch", 0) for row in rows if monitor in row)) + 1
        summary = _summary(best, monitor.split("/")[0])
        console.print(f"best {monitor} {best[monitor]:.3f} in epoch {int(best['epoch']) + 1} of {epochs}  ({summary})")
    if test:
        console.print(f"test: {_summary(test, 'test')}")
    values, split = (test, "test") if test else (best or {}, monitor.split("/")[0])
    table = _class_table(values, split, info)
    if table is not None:
        console.print(table)
    console.print("files:")
    for path, what in _files(run):
        console.print(f"  {path}  {what}", markup=False)
    console.print("next:")
    for command in _commands(run, resume_command, sync_command):
        console.print(f"  {command}", markup=False)


def write_model_card(
    run: RunFolder,
    info: DataInfo,
    *,
    model: str,
    data: str,
    metrics: Mapping[str, float],
    recipe: str,
) -> None:
    """Write ``MODEL_CARD.md``: data, classes, metrics, versions and how to load the model.

    Args:
        run: its ``run.json`` gives versions, command, seed and device.
        info: of the data.
        model: name and number of parameters in words.
        data: where the data came from, in words.
        metrics: names as logged (``test/map``).
        recipe: the script that made the run.

    Raises:
        UserError: the file cannot be written.
    """
    facts = run.read_info()
    versions: Mapping[str, Any] = facts.get("versions", {})
    lines = [
        "---",
        "library_name: dlrecipes",
        "pipeline_tag: object-detection" if info.task == "detection" else f"tags: [{info.task}]",
        "---",
        f"# {run.name}",
        "",
        f"{model}, trained by `{recipe}` on {facts.get('date', 'an unknown date')}.",
        "",
        "## Data",
        f"{data}: {info.num_train} training images, {sum(info.class_counts)} training objects, "
        f"{info.num_classes} classes, evaluated at {info.image_size} pixels on the longest side.",
        "",
        "| label | class | id in the data | in training |",
        "| ---: | --- | ---: | ---: |",
    ]
    for label, (name, id_, count) in enumerate(zip(info.classes, info.category_ids, info.class_counts, strict=True)):
        lines.append(f"| {label} | {_cell(name)} | {id_} | {count} |")
    lines += ["", "## Metrics", "| metric | value |", "| --- | ---: |"]
    lines += [f"| {_cell(name)} | {value:.4f} |" for name, value in metrics.items()]
    lines += [
        "",
        "## Load it",
        "```python",
        "from dlrecipes.tasks import DetectionTask",
        f'task = DetectionTask.load_from_checkpoint("{run.best_checkpoint.relative_to(run.path)}")',
        "```",
        f"`{run.best_weights.name}` holds the weights alone, in the safetensors format.",
        "",
        "## How it was made",
        f"- command: `{shlex.join(facts.get('command', []))}`",
        f"- seed: {facts.get('seed')}",
        f"- device: {facts.get('device')}",
        f"- git: {facts.get('git')}",
        f"- versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
        "",
    ]
    try:
        run.model_card.write_text("\n".join(lines), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write '{run.model_card}' ({error.strerror}): check the disk.") from error


def _summary(values: Mapping[str, float], split: str) -> str:
    known = [(title, values[f"{split}/{name}"]) for name, title in _NAMES.items() if f"{split}/{name}" in values]
    return "  ".join(f"{title} {value:.3f}" for title, value in known if value >= 0)  # -1: no such objects


def _class_table(values: Mapping[str, float], split: str, info: DataInfo) -> Table | None:
    """AP of each class with how many objects it was learned from; of many classes the best and the worst."""
    found = [
        (name, count, values[f"{split}/map_class/{name}"])
        for name, count in zip(info.classes, info.class_counts, strict=True)
        if values.get(f"{split}/map_class/{name}", -1) >= 0
    ]
    if not found:
        return None
    title = f"AP by class, {split} split"
    if len(found) > _MANY_CLASSES:
        ordered = sorted(found, key=lambda row: -row[2])
        found = ordered[: _MANY_CLASSES // 2] + ordered[-_MANY_CLASSES // 2 :]
        title += f" (best and worst {_MANY_CLASSES // 2} of {len(ordered)})"
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("in training", justify="right")
    table.add_column("AP", justify="right")
    for name, count, value in found:
        table.add_row(name.replace("[", r"\["), str(count), f"{value:.3f}")
    return table


def _files(run: RunFolder) -> list[tuple[str, str]]:
    listed = [
        (run.best_checkpoint, "best checkpoint"),
        (run.last_checkpoint, "last checkpoint, to resume"),
        (run.best_weights, "weights alone"),
        (run.metrics, "all numbers"),
        (run.curves, "loss and metrics"),
        (run.batch_picture, "first training batch"),
        (run.confusion_picture, "confusion matrix"),
        (run.precision_recall_picture, "precision over recall"),
        (run.model_card, "model card"),
    ]
    rows = [(str(path), what) for path, what in listed if path.exists()]
    pictures = sorted(run.predictions.glob("epoch_*.png"))
    if pictures:
        rows.append((str(pictures[-1]), f"predictions, newest of {len(pictures)}"))
    width = max((len(path) for path, _ in rows), default=0)
    return [(path.ljust(width), what) for path, what in rows]


def _commands(run: RunFolder, resume_command: str | None, sync_command: str | None) -> Sequence[str]:
    commands = [f"dlrecipes predict {shlex.quote(str(run.path))} IMAGES"]
    return commands + [command for command in (resume_command, sync_command) if command]


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
