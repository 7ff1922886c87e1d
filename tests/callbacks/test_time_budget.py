from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from toy_fit import ToyLoaders, ToyModule

from dlrecipes.callbacks import TimeBudget, time_budget
from dlrecipes.optim import schedule_factor


class Clock(pl.Callback):
    """Time goes on by itself only where a test says so: a second a step, a minute a validation."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, step: float = 1.0, first: float = 1.0, epoch_end: float = 0.0
    ) -> None:
        self.now, self.step, self.first, self.epoch_end = 1000.0, step, first, epoch_end
        clocks = SimpleNamespace(monotonic=lambda: self.now, process_time=lambda: self.now / 4)
        monkeypatch.setattr(time_budget, "time", clocks)

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
        self.now += self.step if trainer.global_step else self.first

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.now += 60

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.now += self.epoch_end  # as for a checkpoint


class Linear(ToyModule):
    """A learning rate that falls to 0, by the schedules of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        factor = schedule_factor("linear", total_steps=lambda: self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Validated(pl.Callback):
    """(step, seconds trained) at each validation."""

    def __init__(self) -> None:
        self.at: list[tuple[int, float]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.at.append((trainer.global_step, float(trainer.callback_metrics["budget/seconds"])))


def fit(
    *callbacks: pl.Callback, checkpoint: Path | None = None, data: ToyLoaders | None = None, **options: Any
) -> tuple[pl.Trainer, Linear]:
    module = Linear()
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=1,
        **{"max_epochs": -1, "check_val_every_n_epoch": 1000, **options},
    )  # fmt: skip
    trainer.fit(module, datamodule=data or ToyLoaders(0), ckpt_path=checkpoint, weights_only=True)
    return trainer, module


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_a_budget_that_is_none(minutes: float) -> None:
    with pytest.raises(ValueError, match=f"minutes={minutes}: must be above 0"):
        TimeBudget(minutes)


def test_the_run_ends_with_the_clock_and_is_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    validated, budget = Validated(), TimeBudget(0.5)
    trainer, _ = fit(budget, Clock(monkeypatch), validated)
    assert trainer.global_step == 30
    assert budget.seconds == 30
    assert validated.at == [(30, 30.0)]
    assert (trainer.max_steps, trainer.check_val_every_n_epoch) == (-1, 1000)  # for a Trainer that goes on


def test_validations_do_not_count_but_what_comes_between_epochs_does(monkeypatch: pytest.MonkeyPatch) -> None:
    validated, budget = Validated(), TimeBudget(1)
    fit(budget, Clock(monkeypatch, epoch_end=7), validated, check_val_every_n_epoch=2, limit_train_batches=5)
    # two epochs of five seconds and the seven between them; the seven after a validation come before the next step
    assert validated.at == [(10, 17.0), (20, 34.0), (30, 51.0), (36, 64.0)]


def test_free_steps_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step takes 100 seconds, each other one: with three free steps, sixty more are taken in a minute."""
    validated, budget = Validated(), TimeBudget(1, free_steps=3)
    fit(budget, Clock(monkeypatch, first=100.0), validated)
    assert validated.at == [(63, 60.0)]


def test_the_processors_time_counts_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process computes for a quarter of the time: four times as many seconds pass."""
    budget = TimeBudget(0.1, clock="processor")
    trainer, _ = fit(budget, Clock(monkeypatch))
    assert trainer.global_step == 24
    assert budget.seconds == 6
    with pytest.raises(ValueError, match="clock='cpu': 'wall' or 'processor'"):
        TimeBudget(1, clock="cpu")  # type: ignore[arg-type]


def test_the_schedule_ends_with_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A steady pace gives, once it is known, the rates of a run with as many steps; a slow first step is no matter."""
    _, timed = fit(TimeBudget(0.75), Clock(monkeypatch, step=1.0, first=6.0))
    _, counted = fit(max_steps=40)
    assert len(timed.rates) == len(counted.rates) == 40
    assert timed.rates[8:] == pytest.approx(counted.rates[8:])
    assert timed.rates[:6] == pytest.approx([1.0] * 6)  # nothing is known yet
    assert timed.rates[-1] == pytest.approx(1 / 40)


def test_the_datamodule_hears_how_many_epochs_there_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mosaic ends by it. 45 steps of a second, eight an epoch; the pace is known after the first one."""
    heard: list[tuple[int, float]] = []

    class Listens(ToyLoaders):
        def expect_epochs(self, epoch: int, epochs: float) -> None:
            heard.append((epoch, epochs))

    fit(TimeBudget(0.75), Clock(monkeypatch), data=Listens(0), limit_train_batches=8)
    assert heard == [(epoch, 45 / 8) for epoch in range(1, 6)]
    heard.clear()
    fit(TimeBudget(0.75), Clock(monkeypatch), data=Listens(0), limit_train_batches=8, max_epochs=3)
    assert heard == [(1, 3), (2, 3)]


def test_a_change_of_pace_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    class SlowsDown(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            clock.step = 1.0 if trainer.global_step < 20 else 3.0

    trainer, module = fit(TimeBudget(2), clock, SlowsDown())
    assert trainer.global_step == 20 + 34
    assert module.rates[20] == pytest.approx(1 - 20 / 120)
    assert module.rates[-1] < 0.04


def test_steps_of_the_users_own_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, module = fit(TimeBudget(10), Clock(monkeypatch), max_steps=20)
    assert trainer.global_step == trainer.max_steps == 20
    assert module.rates == pytest.approx([1 - step / 20 for step in range(20)])


def test_a_resumed_run_ends_when_it_would_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "middle.ckpt"

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 12:
                trainer.save_checkpoint(file)

    whole = fit(TimeBudget(0.5), Clock(monkeypatch), Save())[1]
    rest = fit(TimeBudget(0.5), Clock(monkeypatch), checkpoint=file)[1]
    assert rest.rates == pytest.approx(whole.rates[12:])
