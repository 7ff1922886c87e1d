"""A run that ends by the clock, with a learning rate that ends with it."""

from __future__ import annotations

import math
import time
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn

from dlrecipes.callbacks.agreement import RankAgreement

__all__ = ["TimeBudget"]

_WARM = 5  # steps before the pace is measured: the first ones wait for workers, memory and the choice of kernels


class TimeBudget(pl.Callback):
    r"""Trains for so many minutes and lets the learning-rate schedule fit them.

    Lightning's ``max_time`` stops a run, too, but its schedule does not know: it was made for ``max_epochs``. Here
    ``trainer.max_steps``, which ``estimated_stepping_batches`` and so the schedules of this project follow, is after
    each step what the run will reach at its pace:

    .. math:: \text{steps} = s + \frac{T - t}{(t - t_5) / (s - s_5)}

    with the budget T, the time t and the steps s so far, and :math:`t_5, s_5` after the first five steps.

    The clock runs from the first step to the last, without validations and what comes before the next step. When it has
    run out, there is a last validation, whatever the interval of validations is. Ranks go by the slowest clock and take
    the same steps. What remains of the time is in the checkpoint, so that a resumed run ends when it would have; which
    weights it ends with depends on the machine, as in every run that ends by the clock.

    After each epoch a datamodule with ``expect_epochs(epoch, epochs)`` hears which is the next and how many there will
    be, as far as that is known: that of detection ends mosaic and mixup by it.

    Give ``max_epochs=-1`` to the Trainer; with a number of epochs or steps the run ends with what comes first.

    Args:
        minutes: T, above 0.
        free_steps: the clock starts after so many steps of a new run. A first step waits for CUDA's start, for memory
            and for the choice of kernels, which on a busy host takes up to a minute: comparisons of short runs need it.
        clock: ``"wall"``, or ``"processor"``: what the process's threads have computed on CPUs, which other programs do
            not change; for comparisons on a busy CPU, without loader workers (they are processes of their own).

    Attributes:
        seconds: of training so far; also logged with each validation, as ``budget/seconds``.

    Raises:
        ValueError: ``minutes`` not above 0, ``free_steps`` below 0, an unknown clock.

    Example:
        ``python recipes/train_detr.py --epochs -1 --trainer.callbacks
        '[{class_path: dlrecipes.callbacks.TimeBudget, init_args: {minutes: 4}}]'``, and in Python:

        >>> trainer = pl.Trainer(max_epochs=-1, callbacks=[TimeBudget(minutes=4)], logger=False)
    """

    def __init__(self, minutes: float, *, free_steps: int = 0, clock: Literal["wall", "processor"] = "wall") -> None:
        if not 0 < minutes < math.inf:
            raise ValueError(f"minutes={minutes}: must be above 0")
        if free_steps < 0:
            raise ValueError(f"free_steps={free_steps}: at least 0")
        if clock not in ("wall", "processor"):
            raise ValueError(f"clock={clock!r}: 'wall' or 'processor'")
        self.minutes = minutes
        self.free_steps = free_steps
        self.clock = clock
        self._before = 0.0  # seconds until the clock was last stopped
        self._running_since: float | None = None
        self._pace_from: tuple[int, float] | None = None  # (step, seconds) from which on the pace is measured
        self._first_step = 0
        self._expected = -1  # steps of the whole run; -1: not known yet
        self._wanted = -1  # the user's own max_steps
        self._interval: int | None = None  # the user's own check_val_every_n_epoch, while it is changed
        self._agreement: RankAgreement | None = None

    @property
    def seconds(self) -> float:
        """What the clock shows: seconds of this training, and of those that it resumes."""
        return self._before + (0.0 if self._running_since is None else self._now() - self._running_since)

    def _now(self) -> float:
        return time.monotonic() if self.clock == "wall" else time.process_time()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._agreement = RankAgreement()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._wanted = trainer.max_steps
        self._first_step, self._pace_from = trainer.global_step, None
        self._expect(trainer)  # a resumed run goes on with the steps that were expected, until it knows its pace

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._running_since is None:
            self._running_since = self._now()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step <= self.free_steps:
            self._pause(pl_module.device)
            self._before, self._first_step = 0.0, trainer.global_step
            return
        # In microseconds: all ranks get the same number, and with it the same learning rate and the same last step.
        agreed = self._agreement.exchange(round(1e6 * self.seconds)) if self._agreement is not None else -1
        if agreed < 0:  # nobody's clock has been read yet
            return
        if agreed >= 60e6 * self.minutes:
            self._stop(trainer)
        else:
            self._measure(trainer.global_step, agreed / 1e6)
            self._expect(trainer)
            if trainer.is_last_batch:  # not when the next epoch starts: a resumed run has asked for its samples by then
                self._tell(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._pause(pl_module.device)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            # in float32 as Lightning keeps it; each rank's own, rank 0's is written
            pl_module.log("budget/seconds", self.seconds, rank_zero_only=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "expected_steps": self._expected}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before, self._expected = state_dict["seconds"], state_dict["expected_steps"]

    def _measure(self, step: int, seconds: float) -> None:
        if self._pace_from is None:
            if step >= self._first_step + _WARM:
                self._pace_from = (step, seconds)
            return
        first, since = self._pace_from
        if step > first and seconds > since:
            left = (60 * self.minutes - seconds) * (step - first) / (seconds - since)
            self._expected = step + max(1, round(left))

    def _expect(self, trainer: pl.Trainer) -> None:
        """Tell the loop, and through it the schedule, how many steps there will be."""
        if self._expected < 0:
            return
        # never the step that has just been taken: the clock ends the run, so that a last validation follows
        expected = max(self._expected, trainer.global_step + 1)
        trainer.fit_loop.epoch_loop.max_steps = expected if self._wanted == -1 else min(self._wanted, expected)

    def _tell(self, trainer: pl.Trainer) -> None:
        tell = getattr(getattr(trainer, "datamodule", None), "expect_epochs", None)
        if not callable(tell) or self._expected < 0:
            return
        following, steps = trainer.current_epoch + 1, trainer.num_training_batches / trainer.accumulate_grad_batches
        epochs = following + (trainer.max_steps - trainer.global_step) / math.ceil(steps)
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            epochs = min(epochs, trainer.max_epochs)
        if following < epochs:
            tell(following, epochs)

    def _stop(self, trainer: pl.Trainer) -> None:
        trainer.should_stop = True
        if (trainer.check_val_every_n_epoch or 1) > 1:
            self._interval, trainer.check_val_every_n_epoch = trainer.check_val_every_n_epoch, 1

    def _pause(self, device: torch.device) -> None:
        if self._running_since is not None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # steps that the host has asked for belong to training
            self._before, self._running_since = self.seconds, None

    def _end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """For a ``Trainer`` that is used again."""
        self._pause(pl_module.device)
        trainer.fit_loop.epoch_loop.max_steps = self._wanted
        if self._interval is not None:
            self._interval, trainer.check_val_every_n_epoch = None, self._interval
