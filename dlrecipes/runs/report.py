"""The end of a run: what it reached, where its files are, what to type next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlrecipes.contracts import DataInfo
from dlrecipes.functional.words import counted, visible
from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.metric_names import DETECTION_HEADLINE, format_value, summarise
from dlrecipes.runs.metrics_csv import read_metrics
from dlrecipes.runs.pictures.curves import best_row
from dlrecipes.runs.verdicts import print_verdicts, read_verdicts

__all__ = ["final_block", "split_facts"]

_MANY_CLASSES = 30
_PER_CLASS = {"map_class": "AP", "ap_class": "AP", "recall_class": "recall", "f1_class": "F1", "mae_target": "MAE"}


def final_block(
    run: RunFolder,
    info: DataInfo,
    *,
    test: Mapping[str, float] | None = None,
    monitor: str = "val/map",
    mode: str = "max",
    headline: Sequence[str] = DETECTION_HEADLINE,
    resume_command: str | None = None,
    sync_command: str | None = None,
    console: Console | None = None,
) -> None:
    """Print the best metric and its epoch, a table of classes or targets, findings, files, and the next commands.

    Args:
        run: a finished run, with its metrics.csv.
        info: classes and how often each occurs in training.
        test: metrics of the test split, names beginning with ``test/``; the table is then of the test split.
        monitor: metric that chose the best checkpoint.
        mode: ``"max"`` or ``"min"``.
        headline: the task's metrics without their split, most important first.
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
        trained = [row for row in rows if monitor in row or any(name.startswith("train/") for name in row)]
        epochs = int(max(row.get("epoch", 0) for row in trained)) + 1
        reached = f"best {monitor} {format_value(best[monitor])} in epoch {int(best['epoch']) + 1} of {epochs}"
        summary = summarise(best, monitor.split("/")[0], headline)
        console.print(f"{reached}  ({summary})" if summary else reached)
    values, split = (test, "test") if test else (best or {}, monitor.split("/")[0])
    facts = split_facts(run, split)
    if test and (summary := summarise(test, "test", headline)):
        of = f"  ({counted(facts['images'], 'image')})" if "images" in facts else ""
        console.print(f"test: {summary}{of}")
    if values and (blind := _blind_guess(info, facts.get("class_counts", {}))):
        console.print(visible(f"for comparison, {blind}"), markup=False)
    table = _class_table(values, split, info, facts.get("class_counts", {}))
    if table is not None:
        console.print(table)
    print_verdicts(read_verdicts(run), console)
    console.print("files:")
    for path, what in _files(run):
        console.print(visible(f"  {path}  {what}"), markup=False)
    console.print("next:")
    for command in _commands(run, resume_command, sync_command):
        console.print(visible(f"  {command}"), markup=False)


def _blind_guess(info: DataInfo, measured_on: Mapping[str, int]) -> str:
    """What an answer without a look at the image has, where each has one label; "" elsewhere."""
    total = sum(measured_on.values())
    if info.task != "classification" or not total or not info.class_counts:
        return ""
    name = info.classes[max(range(len(info.classes)), key=info.class_counts.__getitem__)]
    share = format_value(measured_on.get(name, 0) / total)
    return f"{name!r}, the most frequent class in training, for every image: accuracy {share}"


def split_facts(run: RunFolder, split: str) -> Mapping[str, Any]:
    """``images`` and ``class_counts`` of a split, as the run's folder has them; empty where it does not.

    Args:
        run: its ``data_report.json`` and ``config.yaml``.
        split: ``"val"`` or ``"test"``, whatever the data's own name is.
    """
    try:
        splits = json.loads((run.path / "data_report.json").read_text(encoding="utf-8"))["splits"]
        config = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
        facts: Mapping[str, Any] = splits[config["data"]["init_args"].get(f"{split}_split", split)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return {}  # the user's own data, or a folder of an older version
    return facts


def _class_table(
    values: Mapping[str, float], split: str, info: DataInfo, measured_on: Mapping[str, int]
) -> Table | None:
    """The metric of each class with how many it was learned from, or of each target with how much it varies.

    Of many classes the best and the worst. With ``measured_on``, how many of each class the split has, a class that it
    lacks has a row, too.
    """
    measures = [m for m in _PER_CLASS if any(name.startswith(f"{split}/{m}/") for name in values)]
    if not measures:
        return None
    measure, metric = measures[0], _PER_CLASS[measures[0]]
    row, column = ("target", "deviation in training") if measure == "mae_target" else ("class", "in training")
    beside = (
        [(name, format_value(std)) for name, std in zip(info.target_names, info.target_std, strict=True)]
        if measure == "mae_target"
        else [(name, str(count)) for name, count in zip(info.classes, info.class_counts, strict=True)]
    )
    found = [
        (name, known, values[f"{split}/{measure}/{name}"])
        for name, known in beside
        if values.get(f"{split}/{measure}/{name}", -1) >= 0  # -1 and NaN: no such objects
    ]
    if not found:
        return None
    absent = [(name, known) for name, known in beside if measured_on.get(name) == 0]
    title = f"{metric} by {row}, {split} split"
    if len(found) > _MANY_CLASSES:
        half = _MANY_CLASSES // 2
        ordered = sorted(found, key=lambda entry: entry[2], reverse=measure != "mae_target")
        found = ordered[:half] + ordered[-half:]
        title += f" (best and worst {half} of {len(ordered)})"
    table = Table(title=title, title_justify="left")
    table.add_column(row)
    table.add_column(column, justify="right")
    table.add_column(metric, justify="right")
    if measured_on:
        table.add_column(f"in {split}", justify="right")
    for name, known, value in found:
        numbers = [str(measured_on.get(name, ""))] if measured_on else []
        table.add_row(Text(visible(name)), known, format_value(value), *numbers)
    for name, known in absent if len(found) <= _MANY_CLASSES else []:
        table.add_row(Text(visible(name)), known, "-", "0")
    return table


def _files(run: RunFolder) -> list[tuple[str, str]]:
    listed = [
        (run.best_checkpoint, "best checkpoint"),
        (run.best_loss_checkpoint, "best checkpoint by validation loss"),
        (run.last_checkpoint, "last checkpoint, to resume"),
        (run.best_weights, "weights alone"),
        (run.metrics, "all numbers"),
        (run.verdicts, "what was found out about the run"),
        (run.curves, "loss and metrics"),
        (run.batch_picture, "first training batch"),
        (run.confusion_picture, "confusion matrix"),
        (run.precision_recall_picture, "precision over recall"),
        (run.per_class_picture, "quality of each class"),
        (run.reliability_picture, "how far probabilities can be trusted"),
        (run.scatter_picture, "predicted over true values"),
        (run.mistakes_picture, "worst mistakes"),
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
