"""What is wrong with a training, told from its curves while and after it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from dlrecipes.contracts import Verdict
from dlrecipes.errors import NonFiniteError
from dlrecipes.functional.fit_curves import Curves, slashed
from dlrecipes.functional.fit_rules import diagnose
from dlrecipes.functional.metric_mode import metric_mode

__all__ = ["FitDoctor"]

_SOURCE = "fit doctor"
_URGENT = ("diverged", "learning rate too high", "label noise suspected", "over-fitting")
_FEWEST = 8  # epochs before anything is said of a run that goes on
_JUDGED = 5  # epochs that a run needs to be called healthy
_KEPT = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/ece", "val/nll")


class FitDoctor(pl.Callback):
    """Diagnoses a training from curves that it draws anyway, with evidence and advice; says nothing of a healthy one.

    ====================================  ================================================================
    finding                               in short (all rules: `dlrecipes.functional.fit_rules`)
    ====================================  ================================================================
    diverged, learning rate too high      the training loss ends, or once was, above the first step's
    learning rate too low                 it goes down in every epoch, and hardly
    noisy                                 validation jumps from epoch to epoch
    label noise suspected                 validation accuracy falls while training accuracy still climbs
    over-fitting                          validation loss rises, and the score does not
    over-confident                        validation loss rises, and the score holds or rises
    unfinished                            both losses still fall at the end
    under-fitting                         both losses stand still, high
    ====================================  ================================================================

    A validation loss can rise while the accuracy still improves: no finding rests on one of the two alone. Training
    loss and accuracy are taken for what they are, measured under augmentation, mixing and dropout, and so worse than on
    clean images. Rules that need what a task does not measure (accuracy, for detection and regression) do not apply.

    When training ends there is one verdict. While it goes on, a grave one (divergence, a learning rate too high,
    over-fitting, label noise) is said once it has held for ``patience`` epochs, and not before the eighth epoch.

    Needs ``train/loss`` and ``val/loss``, also as ``train_loss`` and ``val_loss``, one value an epoch; the score is the
    task's ``monitor``, or the validation accuracy. Nothing is computed in a training step. The curves are in
    checkpoints, so a resumed run is judged as a whole; a fit that begins with step 0 begins a new record. Rank zero
    judges, by what it logs.

    Args:
        patience: epochs for which a finding must hold, in a row, before it is said within a run; 1 or more.

    Attributes:
        rows: what was measured, one dict an epoch.
        verdicts: the diagnosis; of a run that goes on, what was said so far.

    Raises:
        ValueError: ``patience`` below 1.

    Example:
        >>> trainer = pl.Trainer(callbacks=[FitDoctor()], logger=False)
    """

    def __init__(self, patience: int = 3) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        self.patience = patience
        self._forget()

    def _forget(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.verdicts: list[Verdict] = []
        self._start: float | Tensor | None = None  # loss of the first step, left on its device until an epoch ends
        self._validated = False
        self._suspected, self._held = "", 0
        self._said: list[str] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0:  # of a resume, what was loaded stays
            self._forget()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._start is not None:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            # Lightning hands out the part of it that an accumulated gradient gets
            self._start = loss.detach().clone() * trainer.accumulate_grad_batches

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.rows.append(self._row(trainer, pl_module))
        self._validated = False
        if not trainer.is_global_zero or len(self.rows) < _FEWEST:
            return
        verdict = diagnose(self.curves(pl_module))
        title = verdict.title if verdict is not None and verdict.title in _URGENT else ""
        self._held = self._held + 1 if title == self._suspected else 1
        self._suspected = title
        if verdict is not None and title and self._held >= self.patience:
            self._say(verdict)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or not self.rows:
            return
        verdict = diagnose(self.curves(pl_module))
        if verdict is not None:
            self._say(verdict)
        elif len(self.rows) >= _JUDGED and any("val/loss" in row for row in self.rows):
            evidence = f"{len(self.rows)} epochs show none of the illnesses that curves can tell."
            self.verdicts = [Verdict(source=_SOURCE, title="healthy", level="ok", evidence=evidence)]

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, NonFiniteError):  # which says so itself
            advice = "Lower the learning rate ten times, warm it up, or clip gradients."
            self.verdicts = [
                Verdict(source=_SOURCE, title="diverged", level="warning", evidence=str(exception), advice=advice)
            ]

    def curves(self, pl_module: pl.LightningModule) -> Curves:
        """Of the epochs so far.

        Args:
            pl_module: its ``monitor`` and ``monitor_mode`` name the score; without a direction it is not taken for one.
        """
        monitor = next(iter(_monitor(pl_module)), None)
        if monitor is None or not any(monitor in row for row in self.rows):
            return Curves.from_rows(self.rows)
        mode = getattr(pl_module, "monitor_mode", None) or metric_mode(monitor)
        return Curves.from_rows(self.rows, monitor if mode else None, mode)

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": [dict(row) for row in self.rows],
            "start": None if self._start is None else float(self._start),
            "suspected": self._suspected,
            "held": self._held,
            "said": list(self._said),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._forget()
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._start = state_dict["start"]
        self._suspected, self._held = state_dict["suspected"], state_dict["held"]
        self._said = list(state_dict["said"])

    def _row(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        measured = slashed(trainer.callback_metrics)
        names = {*_KEPT, *_monitor(pl_module)}
        names = {name for name in names if self._validated or not name.startswith("val/")}
        row = {"epoch": float(trainer.current_epoch)}
        row |= {name: float(measured[name]) for name in sorted(names) if name in measured}
        rates = [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
        row |= {"lr": max(rates)} if rates else {}
        if not self.rows and self._start is not None:
            self._start = float(self._start)
            row |= {"step": 0.0, "train/loss_step": self._start}
        return row

    def _say(self, verdict: Verdict) -> None:
        self.verdicts = [verdict]
        if verdict.title not in self._said:
            self._said.append(verdict.title)
            print(verdict, flush=True)


def _monitor(pl_module: pl.LightningModule) -> list[str]:
    """The name of the score as rows have it, if the module names one."""
    monitor = getattr(pl_module, "monitor", None)
    return [] if monitor is None else list(slashed({str(monitor): None}))
