"""Fits of two gloo ranks, one after the other; run by test_two_ranks.py as a script, since Lightning reruns the script.

Writes what each rank saw to ``rank_0.json`` and ``rank_1.json`` and ends with a real Ctrl-C to rank 0 only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch
from toy_fit import SendSignal, Spoil, ToyModule, fit

from dlrecipes.callbacks import LossEarlyStopping, SanityChecks, StagedRecipe, StopRequested, TimeBudget, time_budget
from dlrecipes.callbacks.stage_actions import BatchNorms, LearningRate
from dlrecipes.callbacks.stages import Plateau, Stage
from dlrecipes.errors import NonFiniteError


def same_parameters(a: ToyModule, b: ToyModule) -> bool:
    """Bitwise. Without the buffers, which rank 0 hands to the others only with the next batch."""
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def stop_and_resume(folder: Path, reference: ToyModule, **when: int) -> dict[str, Any]:
    try:
        fit(folder, SendSignal(signal.SIGTERM, **when), devices=2, num_workers=0)
    except StopRequested as stop:
        code = stop.code
    else:
        return {"code": None}
    counter = SendSignal(signal.SIGTERM)
    _, resumed = fit(folder, counter, devices=2, num_workers=0, resume=folder / "stopped.ckpt")
    batches = [counter.seen_batches + 1, counter.seen_validation_batches + 1]
    return {"code": code, "same": same_parameters(resumed, reference), "remaining": batches}


def spoil(folder: Path, what: str, **when: int) -> str:
    try:
        fit(folder, Spoil(what, **when), devices=2, num_workers=0)
    except NonFiniteError as error:
        return str(error)
    return ""


class SlowRank(pl.Callback):
    """A second a step in rank 0 and two in rank 1; keeps how many steps were expected after each."""

    def __init__(self) -> None:
        self.now, self.expected = 0.0, []

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
        self.now += 1.0 + trainer.global_rank

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.expected.append(trainer.max_steps)


def run_by_the_clock(folder: Path) -> dict[str, Any]:
    slow = SlowRank()
    time_budget.time = SimpleNamespace(monotonic=lambda: slow.now)  # type: ignore[assignment]
    options = {"max_epochs": -1, "accumulate_grad_batches": 1, "devices": 2, "num_workers": 0}
    trainer, _ = fit(folder, TimeBudget(minutes=0.5), slow, **options)
    return {"steps": trainer.global_step, "expected": slow.expected}


def train_in_stages(folder: Path) -> dict[str, Any]:
    """The first condition is met by a loss that differs between the ranks."""
    stages = [
        Stage("learn", Plateau("train/loss_error", 1, least=0.5), [BatchNorms(on=False, batches=2)]),
        Stage("harden", None, [BatchNorms(on=True, batches=2), LearningRate(0.5)]),
    ]
    recipe, checks, stop = StagedRecipe(stages), SanityChecks(), LossEarlyStopping(patience=3, min_delta=100.0)
    trainer, module = fit(folder, recipe, checks, stop, devices=2, num_workers=0, max_epochs=6, val_check_interval=1.0)
    layer = module.body[1]
    return {
        "stages": [verdict.evidence for verdict in recipe.verdicts],
        "sanity": [(verdict.title, verdict.level) for verdict in checks.verdicts],
        "stopped": (trainer.current_epoch, stop.best_epoch),
        "weights": float(sum(p.double().sum() for p in module.parameters())),
        "norm": float(layer.weight.double().sum()),
    }


def main(folder: Path) -> None:
    _, reference = fit(folder / "reference", devices=2, num_workers=0)
    seen = {
        "rank 0": stop_and_resume(folder / "a", reference, batch=9, rank=0),
        "rank 1": stop_and_resume(folder / "b", reference, batch=9, rank=1),
        "validation": stop_and_resume(folder / "c", reference, validation=0, rank=1),
        "uneven validation": stop_and_resume(folder / "d", reference, validation=2, rank=0),
        "last batch": stop_and_resume(folder / "e", reference, batch=20, rank=1),
        "nan": spoil(folder / "f", "target", batch=8, rank=1),
        "nan weight": spoil(folder / "g", "weight", batch=9, rank=1),
        "clock": run_by_the_clock(folder / "i"),
        "stages": train_in_stages(folder / "j"),
    }
    (folder / f"rank_{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(seen))
    fit(folder / "h", SendSignal(signal.SIGINT, batch=9, rank=0), devices=2, num_workers=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
