"""Optimizers on one's own data by the same budget: the same epochs, the same number of learning rates, a picture."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table

from dlrecipes.errors import NonFiniteError, UserError
from dlrecipes.optim import default_lr
from dlrecipes.runs import read_metrics
from dlrecipes.runs.metric_names import format_value
from dlrecipes.runs.pictures.curves import best_row, new_figure, save_figure
from dlrecipes.trainer import fresh_trainer_args, make_trainer, own_randomness

__all__ = ["OptimizerComparison", "OptimizerRun", "compare_optimizers"]


@dataclass(frozen=True, kw_only=True)
class OptimizerRun:
    """One training.

    Attributes:
        optimizer, lr, seed: what was trained with.
        curve: the monitored metric after each epoch that measured it.
        value: the best of them; NaN if the loss became NaN or infinite.
        seconds: from start to end.
        folder: of the run.
    """

    optimizer: str
    lr: float
    seed: int
    curve: tuple[float, ...]
    value: float
    seconds: float
    folder: Path


@dataclass(frozen=True, kw_only=True)
class OptimizerComparison:
    """All trainings of a comparison.

    Attributes:
        runs: in the order in which they were made.
        monitor, mode: what they are judged by.
        csv, picture: the files.
    """

    runs: tuple[OptimizerRun, ...]
    monitor: str
    mode: str
    csv: Path
    picture: Path

    def mean(self, optimizer: str, lr: float) -> float:
        """Mean value over the seeds; NaN if one of them diverged."""
        return fmean(run.value for run in self.runs if run.optimizer == optimizer and run.lr == lr)

    def best_lr(self, optimizer: str) -> float | None:
        """The learning rate with the best mean; None where all diverged."""
        rates = dict.fromkeys(run.lr for run in self.runs if run.optimizer == optimizer)
        known = [lr for lr in rates if not math.isnan(self.mean(optimizer, lr))]
        if not known:
            return None
        return (max if self.mode == "max" else min)(known, key=lambda lr: self.mean(optimizer, lr))

    @property
    def ranking(self) -> list[str]:
        """Optimizers, the best at its best learning rate first; diverged ones last."""
        names = list(dict.fromkeys(run.optimizer for run in self.runs))
        rated = [name for name in names if self.best_lr(name) is not None]
        rated.sort(key=lambda name: self.mean(name, self.best_lr(name) or 0.0), reverse=self.mode == "max")
        return rated + [name for name in names if name not in rated]

    def print(self, console: Console | None = None) -> None:
        """A row for each optimizer at its best learning rate, and a warning where that is an end of those tried."""
        console = console or Console(highlight=False, soft_wrap=True)
        table = Table(title=f"{self.monitor}, best of {len(self.runs)} runs with the same epochs", title_justify="left")
        for name in ("optimizer", "learning rate", self.monitor, "spread", "seconds"):
            table.add_column(name, justify="left" if name == "optimizer" else "right")
        for name in self.ranking:
            lr = self.best_lr(name)
            if lr is None:
                table.add_row(name, "all", "diverged", "", "")
                continue
            runs = [run for run in self.runs if run.optimizer == name and run.lr == lr]
            values = [run.value for run in runs]
            spread = f"{format_value(min(values))} to {format_value(max(values))}" if len(values) > 1 else "one seed"
            seconds = f"{fmean(run.seconds for run in runs):.0f}"
            table.add_row(name, f"{lr:.2g}", format_value(fmean(values)), spread, seconds)
        console.print(table)
        for name in self.ranking:
            lr, rates = self.best_lr(name), sorted({run.lr for run in self.runs if run.optimizer == name})
            if lr is not None and len(rates) > 2 and lr in (rates[0], rates[-1]):
                end, towards = ("least", "lower") if lr == rates[0] else ("greatest", "higher")
                console.print(f"{name} is best at the {end} rate that was tried, {lr:.2g}: try {towards} ones, too.")


def compare_optimizers(
    make_task: Callable[[str, float], LightningModule],
    make_data: Callable[[int], LightningDataModule],
    optimizers: Sequence[str] = ("sgd", "rmsprop", "adamw", "lion"),
    *,
    max_epochs: int,
    lr_factors: Sequence[float] = (1 / 3, 1.0, 3.0),
    rates: Mapping[str, Sequence[float]] | None = None,
    seeds: Sequence[int] = (0,),
    output: str | os.PathLike[str] = "runs",
    name: str = "optimizers",
    trainer_args: Mapping[str, Any] | None = None,
) -> OptimizerComparison:
    """Train with each optimizer at several learning rates, each for the same epochs, and draw what came of it.

    An optimizer at one learning rate says little: what looks like a better optimizer is often a better rate. So each
    gets as many rates as the others, around its usual one, and is judged at its best; that the best of several is
    taken on the validation split flatters all alike.

    Args:
        make_task: (optimizer, learning rate) → a fresh task.
        make_data: seed → its data; may give the same each time.
        optimizers: names of ``dlrecipes.optim.OPTIMIZERS``, or import paths.
        max_epochs: of each training.
        lr_factors: times the optimizer's usual learning rate.
        rates: optimizer → learning rates, in the place of the former.
        seeds: each is a training of its own, and the mean counts; first weights follow from it, so that all optimizers
            begin with the same.
        output, name: the folder is ``OUTPUT/NAME``; it gets ``comparison.csv``, ``comparison.png`` and a run folder for
            each training.
        trainer_args: of Lightning's Trainer; each training gets copies of the ``callbacks``.

    Raises:
        UserError: nothing to compare, an optimizer that is not known, a ``logger`` in ``trainer_args``, or a callback
            that cannot be copied.

    Example:
        ::

            compare_optimizers(
                lambda optimizer, lr: ClassificationTask(EfficientNet("b0"), optimizer=optimizer, lr=lr),
                lambda seed: ClassificationData("photos", seed=seed),
                max_epochs=10,
            ).print()
    """
    plan = [
        (optimizer, lr, seed)
        for optimizer in optimizers
        for lr in (rates or {}).get(optimizer, [factor * default_lr(optimizer) for factor in lr_factors])
        for seed in seeds
    ]
    if not plan or max_epochs < 1:
        raise UserError(f"{len(plan)} trainings of {max_epochs} epochs are nothing to compare")
    fresh_trainer_args(trainer_args)  # refused before anything is trained
    folder = Path(output) / name
    runs: list[OptimizerRun] = []
    monitor, mode = "val/loss", "min"
    for number, (optimizer, lr, seed) in enumerate(plan, 1):
        with own_randomness(seed):
            task = make_task(optimizer, lr)
            monitor, mode = getattr(task, "monitor", monitor), getattr(task, "monitor_mode", mode)
            print(f"{number} of {len(plan)}: {optimizer}, learning rate {lr:.2g}, seed {seed}", flush=True)
            fresh = fresh_trainer_args(trainer_args)
            runs.append(_train(task, make_data(seed), optimizer, lr, seed, max_epochs, folder, fresh))
    found = OptimizerComparison(
        runs=tuple(runs), monitor=monitor, mode=mode, csv=folder / "comparison.csv", picture=folder / "comparison.png"
    )
    _write(found)
    _draw(found)
    return found


def _train(
    task: LightningModule,
    data: LightningDataModule,
    optimizer: str,
    lr: float,
    seed: int,
    max_epochs: int,
    folder: Path,
    trainer_args: Mapping[str, Any] | None,
) -> OptimizerRun:
    monitor, mode = getattr(task, "monitor", "val/loss"), getattr(task, "monitor_mode", "min")
    short = optimizer.rpartition(".")[2].lower()
    trainer = make_trainer(
        task,
        max_epochs=max_epochs,
        output=folder,
        name=f"{short}-{lr:.2g}-seed{seed}",
        seed=seed,
        trainer_args=trainer_args,
    )
    start, diverged = time.perf_counter(), False
    try:
        trainer.fit(task, data)
    except NonFiniteError:
        diverged = True
    run = Path(trainer.default_root_dir)
    metrics = run / "metrics.csv"
    rows = read_metrics(metrics) if metrics.exists() else []
    best = best_row(rows, monitor, mode)
    return OptimizerRun(
        optimizer=optimizer,
        lr=lr,
        seed=seed,
        curve=tuple(row[monitor] for row in rows if monitor in row),
        value=math.nan if diverged or best is None else best[monitor],
        seconds=time.perf_counter() - start,
        folder=run,
    )


def _write(found: OptimizerComparison) -> None:
    with found.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("optimizer", "lr", "seed", found.monitor, "seconds", "folder"))
        for run in found.runs:
            value = "diverged" if math.isnan(run.value) else run.value
            writer.writerow((run.optimizer, run.lr, run.seed, value, round(run.seconds, 1), run.folder))


def _draw(found: OptimizerComparison) -> None:
    """Left: value over learning rate; right: the curve of each optimizer's best learning rate, mean of the seeds."""
    figure = new_figure(12.0, 5.0)
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(found.ranking):
        color = f"C{number}"
        rates = sorted({run.lr for run in found.runs if run.optimizer == name})
        left.plot(rates, [found.mean(name, lr) for lr in rates], marker="o", color=color, label=name)
        lr = found.best_lr(name)
        curves = [run.curve for run in found.runs if run.optimizer == name and run.lr == lr]
        if lr is None or not curves:
            continue
        epochs = min(map(len, curves))
        mean = [fmean(curve[epoch] for curve in curves) for epoch in range(epochs)]
        right.plot(range(1, epochs + 1), mean, marker=".", color=color, label=f"{name}, lr {lr:.2g}")
    left.set_xscale("log")
    left.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # no formulas in our pictures
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel="learning rate", ylabel=found.monitor, title=f"best {found.monitor} of each run")
    right.set(xlabel="validation", title="each at its best learning rate")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, found.picture)
