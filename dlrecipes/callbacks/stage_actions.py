"""What can change when a stage of a training begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import lightning.pytorch as pl
from torch.optim import Optimizer

from dlrecipes.callbacks.batch_norm_switch import calibrate, held_names, switchable_norms
from dlrecipes.errors import UserError

__all__ = ["Augment", "BatchNorms", "LabelSmoothing", "LearningRate", "StageAction", "StageRun", "Train", "WeightDecay"]


@dataclass
class StageRun:
    """What actions work on, and what of it must be remembered.

    Attributes:
        trainer, module: of the run.
        patterns: names of the parameters that learn, with wildcards.
        norms_off: batch norm is held in evaluation mode.
        held: parameters of batch norm that do not learn meanwhile; kept in checkpoints.
        rates: factor on the learning rate of each parameter group, in the order of the optimizers; kept in checkpoints.
        decayed: whether each group had weight decay when the run began; kept in checkpoints.
    """

    trainer: pl.Trainer
    module: pl.LightningModule
    patterns: tuple[str, ...] = ("*",)
    norms_off: bool = False
    held: list[str] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    decayed: list[bool] = field(default_factory=list)

    def learns(self, name: str) -> bool:
        """Whether a parameter changes in the present stage."""
        return any(fnmatchcase(name, pattern) for pattern in self.patterns) and name not in self.held

    def groups(self) -> Iterator[tuple[int, Optimizer, int, dict[str, Any]]]:
        """Number over all optimizers, the optimizer, number in it, the group."""
        total = 0
        for optimizer in self.trainer.optimizers:
            for number, group in enumerate(optimizer.param_groups):
                yield total, optimizer, number, group
                total += 1


class StageAction:
    """One change. Subclasses keep their arguments as attributes, and ``str`` says in words what they do."""

    def check(self, run: StageRun) -> None:
        """Raise a UserError where it cannot be done; called for all stages before the first step."""

    def apply(self, run: StageRun) -> None:
        """What no checkpoint holds. Called when its stage begins, and after a resume for every stage up to the present
        one, in order: so it sets values, and changes none by what they are."""

    def begin(self, run: StageRun) -> None:
        """What a checkpoint holds, such as weights and optimizers: done once, when the stage begins, after the
        ``apply`` of all its actions."""


class Augment(StageAction):
    """Switch the datamodule's augmentation and mixing, by its ``set_augmentation(augment=, mix=)``.

    `dlrecipes.data.ClassificationData` has that. With a datamodule that does not, such as that of detection, whose
    mosaic ends by itself, nothing happens, and a sentence says so.

    Args:
        augment, mix: on, off, or None: as it was.
    """

    def __init__(self, augment: bool | None = None, mix: bool | None = None) -> None:
        self.augment, self.mix = augment, mix

    def apply(self, run: StageRun) -> None:
        datamodule: Any = getattr(run.trainer, "datamodule", None)
        switch = getattr(datamodule, "set_augmentation", None)
        if callable(switch):
            switch(augment=self.augment, mix=self.mix)

    def begin(self, run: StageRun) -> None:
        datamodule: Any = getattr(run.trainer, "datamodule", None)
        if not callable(getattr(datamodule, "set_augmentation", None)) and run.trainer.is_global_zero:
            what = "There is no datamodule with a" if datamodule is None else f"{type(datamodule).__name__} has no"
            print(f"{what} set_augmentation: the augmentation stays as it is.", flush=True)

    def __str__(self) -> str:
        parts = [("augmentation", self.augment), ("mixing", self.mix)]
        return ", ".join(f"{name} {'on' if on else 'off'}" for name, on in parts if on is not None)


class BatchNorms(StageAction):
    """Switch batch norm on or off.

    Off: layers are held in evaluation mode and their parameters do not learn. A new one is the identity then; a
    pretrained one is frozen. On: layers that are still new get the statistics of their inputs and parameters with which
    they go on computing the same (`dlrecipes.callbacks.batch_norm_switch`), then all learn and normalise. An average of
    the weights (``--ema``) mixes both for as long as it remembers.

    Args:
        on: see above.
        batches: to measure the statistics on.

    Raises:
        ValueError: ``batches`` below 1.
    """

    def __init__(self, on: bool, batches: int = 16) -> None:
        if batches < 1:
            raise ValueError(f"batches must be at least 1, got {batches}")
        self.on, self.batches = on, batches

    def apply(self, run: StageRun) -> None:
        run.norms_off = not self.on
        for layer in switchable_norms(run.module).values():
            layer.train(self.on)

    def begin(self, run: StageRun) -> None:
        run.held = [] if self.on else held_names(run.module)
        if self.on:
            calibrate(run.trainer, run.module, self.batches)

    def __str__(self) -> str:
        return f"batch norm {'on' if self.on else 'off'}"


class Train(StageAction):
    """Let only some parameters learn, by name; the others lose their gradient before each optimizer step.

    They stay in the optimizer and in the backward pass, so nothing has to be built anew, all ranks stay alike, and
    neither momentum nor weight decay moves them; a step costs what it did.

    Args:
        names: patterns of parameter names such as ``"model.net.classifier*"``; ``"*"``: all.

    Raises:
        ValueError: none is given.
        UserError: before the first step, a pattern that no parameter has.
    """

    def __init__(self, names: Sequence[str] = ("*",)) -> None:
        if not names:
            raise ValueError("names must not be empty")
        self.names = list(names)

    def check(self, run: StageRun) -> None:
        known = [name for name, _ in run.module.named_parameters()]
        for pattern in self.names:
            if not any(fnmatchcase(name, pattern) for name in known):
                raise UserError(f"no parameter is called {pattern!r}: the first ones are {', '.join(known[:4])}.")

    def apply(self, run: StageRun) -> None:
        run.patterns = tuple(self.names)

    def __str__(self) -> str:
        return "all layers learn" if self.names == ["*"] else f"only {', '.join(self.names)} learn"


class LearningRate(StageAction):
    """Multiply the learning rate that the run has by its own schedule, from its beginning, by a factor.

    Layer-wise rates follow from a pattern of groups, whose names are the task's: ``"main/layer_0*"`` with
    ``--model.layer_decay``, ``"backbone*"`` with ``--model.backbone_lr``.

    Args:
        factor: above 0; 1: as the schedule says.
        groups: pattern of the parameter groups' names; ``"*"``: all.

    Raises:
        ValueError: a factor that is not above 0.
        UserError: before the first step, a pattern that no group has.
    """

    def __init__(self, factor: float, groups: str = "*") -> None:
        if not factor > 0:
            raise ValueError(f"factor must be above 0, got {factor}")
        self.factor, self.groups = factor, groups

    def check(self, run: StageRun) -> None:
        if not self._chosen(run):
            names = ", ".join(str(group.get("name", "without a name")) for *_, group in run.groups())
            raise UserError(f"no parameter group is called {self.groups!r}: there are {names}.")

    def begin(self, run: StageRun) -> None:
        for total, optimizer, number, group in self._chosen(run):
            change = self.factor / run.rates[total]
            run.rates[total] = self.factor
            group["lr"] = group["lr"] * change
            for config in run.trainer.lr_scheduler_configs:
                if config.scheduler.optimizer is optimizer and hasattr(config.scheduler, "base_lrs"):
                    config.scheduler.base_lrs[number] *= change

    def _chosen(self, run: StageRun) -> list[tuple[int, Optimizer, int, dict[str, Any]]]:
        return [entry for entry in run.groups() if fnmatchcase(str(entry[3].get("name", "")), self.groups)]

    def __str__(self) -> str:
        return f"learning rate x {self.factor:g}" + ("" if self.groups == "*" else f" of {self.groups}")


class WeightDecay(StageAction):
    """Set the weight decay of the parameter groups that had one when the run began.

    Args:
        value: 0 or more.

    Raises:
        ValueError: a negative one.
    """

    def __init__(self, value: float) -> None:
        if value < 0:
            raise ValueError(f"value must not be negative, got {value}")
        self.value = value

    def begin(self, run: StageRun) -> None:
        for total, _, _, group in run.groups():
            if run.decayed[total]:
                group["weight_decay"] = self.value

    def __str__(self) -> str:
        return f"weight decay {self.value:g}"


class LabelSmoothing(StageAction):
    """Set ``label_smoothing`` of the task's loss.

    Args:
        value: 0..1, 1 excluded.

    Raises:
        ValueError: another value.
        UserError: before the first step, a task whose ``loss`` or ``criterion`` has none.
    """

    def __init__(self, value: float) -> None:
        if not 0 <= value < 1:
            raise ValueError(f"value must be at least 0 and below 1, got {value}")
        self.value = value

    def check(self, run: StageRun) -> None:
        if self._smoothed(run) is None:
            raise UserError("the task's loss has no label_smoothing: take dlrecipes.losses.CrossEntropyLoss.")

    def apply(self, run: StageRun) -> None:
        loss = self._smoothed(run)
        if loss is not None:
            loss.label_smoothing = self.value

    @staticmethod
    def _smoothed(run: StageRun) -> Any:
        losses: list[Any] = [getattr(run.module, name, None) for name in ("loss", "criterion")]
        return next((loss for loss in losses if hasattr(loss, "label_smoothing")), None)

    def __str__(self) -> str:
        return f"label smoothing {self.value:g}"
