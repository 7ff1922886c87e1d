"""Learn first, then add batch norm and augmentation, then adjust: a training in stages, with the gain of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from dlrecipes.callbacks.batch_norm_switch import switchable_norms
from dlrecipes.callbacks.stage_actions import Augment, BatchNorms, LearningRate, StageRun
from dlrecipes.callbacks.stages import AnyOf, Epochs, Plateau, Stage
from dlrecipes.contracts import Verdict
from dlrecipes.errors import UserError
from dlrecipes.functional.metric_mode import metric_mode

__all__ = ["StagedRecipe"]

_SOURCE = "staged recipe"


class StagedRecipe(pl.Callback):
    """Trains in stages: each has a condition that ends it and actions that begin it, and is judged by its gain.

    After each epoch the condition of the stage is asked, by rank zero's numbers for all ranks; the next stage begins
    with the next epoch, and says so. The last stage's condition ends the run. The gain of a stage is the task's
    ``monitor`` at its end against that at the end of the stage before, or against the first one measured.

    A resume within a stage is exact: conditions are functions of what the stage's epochs measured, which is in the
    checkpoint, as are the effects on weights, optimizers and schedules; what else actions have set is set again.

    Args:
        stages: at least one; None: those of `default`. Conditions are in `dlrecipes.callbacks.stages`: ``Epochs``,
            ``Plateau``, ``Reached``, ``AnyOf``; actions in `dlrecipes.callbacks.stage_actions`: ``Train``,
            ``BatchNorms``, ``Augment``, ``LearningRate``, ``WeightDecay``, ``LabelSmoothing``, or your own.

    Attributes:
        verdicts: one for each stage that is over.

    Raises:
        ValueError: no stages, two of one name, or one before the last that has no condition.
        UserError: before the first step, an action that the task or its data cannot take; after the first epoch, a
            metric of a condition that is not logged.

    Example:
        One line for the usual three stages, and one's own:

        >>> trainer = pl.Trainer(max_epochs=30, callbacks=[StagedRecipe.default()], logger=False)
        >>> from dlrecipes.callbacks.stage_actions import Train
        >>> warm = Stage("head", until=Epochs(3), actions=[Train(["model.net.classifier*"])])
        >>> recipe = StagedRecipe([warm, Stage("all", actions=[Train(["*"]), LearningRate(0.1)])])
    """

    def __init__(self, stages: Sequence[Stage] | None = None) -> None:
        self.stages = _default_stages() if stages is None else list(stages)
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"stages must be there and have names of their own, got {names}")
        endless = [stage.name for stage in self.stages[:-1] if stage.until is None]
        if endless:
            raise ValueError(f"stage {endless[0]!r} has no condition, so the ones behind it never come: give it until")
        self.verdicts: list[Verdict] = []
        self._stage = -1  # not begun
        self._rows: list[dict[str, float]] = []  # of the stage
        self._over: list[dict[str, Any]] = []  # stages that are over
        self._memory: dict[str, list[Any]] = {}
        self._run: StageRun | None = None
        self._frozen: list[nn.Parameter] = []
        self._norms: list[nn.Module] = []
        self._validated = False

    @classmethod
    def default(cls, *, batch_norm: bool = True) -> Self:
        """Three stages, by shares of ``max_epochs``.

        ==========  ========================================  ====================================================
        stage       what begins                               until
        ==========  ========================================  ====================================================
        learn       no augmentation, no mixing, no batch norm  training loss stands still for 3 epochs; 20 % of the run
        harden      all three                                  validation loss stands still for 5; 60 % of the run
        adjust      no mixing, a tenth of the learning rate    the end
        ==========  ========================================  ====================================================

        Args:
            batch_norm: whether it is off in the first stage, where it is new: see `BatchNorms`. The stage then shows
                what the network learns by itself, and costs time: in 12 steps on 16 images, EfficientNet-b0 came from
                a loss of 2.30 to 1.83 without batch norm, and to 0.00 with it. False: on from the start.
        """
        return cls(_default_stages(batch_norm=batch_norm))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        run = self._run = StageRun(trainer, pl_module)
        groups = [group for *_, group in run.groups()]
        run.rates = list(self._memory.get("rates", [1.0] * len(groups)))
        run.decayed = list(self._memory.get("decayed", [group.get("weight_decay", 0) > 0 for group in groups]))
        run.held = list(self._memory.get("held", []))
        if len(run.rates) != len(groups):
            raise UserError(f"the checkpoint has {len(run.rates)} parameter groups and the task {len(groups)}.")
        for stage in self.stages:
            for action in stage.actions:
                action.check(run)
        if self._stage < 0:
            self._begin(run, 0, "")
            return
        for stage in self.stages[: self._stage + 1]:
            for action in stage.actions:
                action.apply(run)
        self._look(run)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for layer in self._norms:  # Lightning puts modules back into training after a validation
            layer.training = False

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        for parameter in self._frozen:
            parameter.grad = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._run is None:
            return
        stage = self.stages[self._stage]
        row = trainer.strategy.broadcast(self._row(trainer, pl_module))
        self._rows = [known for known in self._rows if known["epoch"] != row["epoch"]] + [row]
        if stage.until is None:
            return
        epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else None
        why = stage.until.met(self._rows, epochs)
        if not why:
            return
        if self._stage + 1 == len(self.stages):
            trainer.should_stop = True
            self._say(trainer, f"The last stage, {stage.name}, is over: {why}.")
        else:
            self._end(pl_module)
            self._begin(self._run, self._stage + 1, why)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._run is None:
            return
        self._end(pl_module)
        if trainer.is_global_zero:
            self._print(pl_module)
        self._forget()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        run, memory = self._run, self._memory
        if run is not None:
            memory = {"rates": list(run.rates), "decayed": list(run.decayed), "held": list(run.held)}
        return {
            "stage": self._stage,
            "rows": [dict(row) for row in self._rows],
            "over": [dict(stage) for stage in self._over],
            "memory": memory,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._stage = state_dict["stage"]
        self._rows = [dict(row) for row in state_dict["rows"]]
        self._over = [dict(stage) for stage in state_dict["over"]]
        self._memory = state_dict["memory"]
        if self._stage >= len(self.stages):
            raise UserError(f"the checkpoint is in stage {self._stage + 1}, and there are {len(self.stages)} now.")

    def _begin(self, run: StageRun, number: int, why: str) -> None:
        self._stage, self._rows = number, []
        stage = self.stages[number]
        for action in stage.actions:
            action.apply(run)
        for action in stage.actions:
            action.begin(run)
        self._look(run)
        actions = "; ".join(str(action) for action in stage.actions) or "nothing changes"
        reason = f" ({why})" if why else ""
        self._say(run.trainer, f"Stage {number + 1} of {len(self.stages)}, {stage.name}{reason}: {actions}.")

    def _look(self, run: StageRun) -> None:
        """Remember what the steps of this stage must know."""
        self._frozen = [p for name, p in run.module.named_parameters() if not run.learns(name)]
        self._norms = list(switchable_norms(run.module).values()) if run.norms_off else []

    def _row(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        until, measured = self.stages[self._stage].until, trainer.callback_metrics
        needed = until.metrics if until is not None else ()
        missing = [name for name in needed if name not in measured and (self._validated or name.startswith("train/"))]
        if missing:
            known = ", ".join(sorted(measured))
            raise UserError(f"a stage waits for {missing[0]}, which is not logged: choose one of {known}.")
        names = [name for name in (*needed, _monitor(pl_module), "val/loss") if name in measured]
        fresh = [name for name in names if self._validated or not name.startswith("val/")]
        self._validated = False
        return {"epoch": float(trainer.current_epoch), **{name: float(measured[name]) for name in fresh}}

    def _end(self, pl_module: pl.LightningModule) -> None:
        """Note the gain of the stage."""
        wanted = _monitor(pl_module)
        metric = wanted if any(wanted in row for row in self._rows) or self._over else "val/loss"
        values = [row[metric] for row in self._rows if metric in row]
        before = [stage["end"] for stage in self._over if not math.isnan(stage["end"])]
        start = before[-1] if before else (values[0] if values else math.nan)
        end = values[-1] if values else math.nan
        name = self.stages[self._stage].name
        self._over.append({"name": name, "metric": metric, "epochs": len(self._rows), "start": start, "end": end})
        self._rows = []
        self.verdicts = [self._verdict(stage, pl_module) for stage in self._over]

    def _verdict(self, stage: Mapping[str, Any], pl_module: pl.LightningModule) -> Verdict:
        gain = _gain(stage, pl_module)
        lost = gain < 0
        evidence = (
            f"{stage['metric']} went from {stage['start']:.4g} to {stage['end']:.4g} in {stage['epochs']} epochs."
            if not math.isnan(gain)
            else f"{stage['metric']} was not measured in its {stage['epochs']} epochs."
        )
        return Verdict(
            source=_SOURCE,
            title=f"stage {stage['name']}",
            level="advice" if lost else "ok",
            evidence=evidence,
            advice="It cost more than it brought: shorten it, or take out one of its actions." if lost else "",
        )

    def _print(self, pl_module: pl.LightningModule) -> None:
        table = Table(title="stages", title_justify="left")
        table.add_column("stage")
        for column in ("epochs", "metric", "start", "end", "gain"):
            table.add_column(column, justify="left" if column == "metric" else "right")
        for stage in self._over:
            numbers = (f"{value:.4g}" for value in (stage["start"], stage["end"], _gain(stage, pl_module)))
            table.add_row(stage["name"], str(stage["epochs"]), stage["metric"], *numbers)
        Console(highlight=False).print(table)

    @staticmethod
    def _say(trainer: pl.Trainer, sentence: str) -> None:
        if trainer.is_global_zero:
            print(sentence, flush=True)

    def _forget(self) -> None:
        """Nothing of a run is kept that cannot be pickled."""
        if self._run is not None:
            self._memory = self.state_dict()["memory"]
        self._run, self._frozen, self._norms = None, [], []


def _default_stages(*, batch_norm: bool = True) -> list[Stage]:
    first = [BatchNorms(on=False)] if batch_norm else []
    second = [BatchNorms(on=True)] if batch_norm else []
    return [
        Stage("learn", AnyOf([Plateau("train/loss", 3), Epochs(0.2)]), [*first, Augment(augment=False, mix=False)]),
        Stage("harden", AnyOf([Plateau("val/loss", 5), Epochs(0.6)]), [*second, Augment(augment=True, mix=True)]),
        Stage("adjust", actions=[Augment(mix=False), LearningRate(0.1)]),
    ]


def _monitor(pl_module: pl.LightningModule) -> str:
    return str(getattr(pl_module, "monitor", "val/loss"))


def _gain(stage: Mapping[str, Any], pl_module: pl.LightningModule) -> float:
    """By how much the metric got better; NaN where it was not measured."""
    metric = stage["metric"]
    own = getattr(pl_module, "monitor_mode", None) if metric == _monitor(pl_module) else None
    sign = 1 if (own or metric_mode(metric)) == "max" else -1
    return float(sign * (stage["end"] - stage["start"]))
