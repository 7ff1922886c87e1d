"""The questions of `SanityChecks` to one module, each answered by a sentence."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from dlrecipes.callbacks.agreement import RankAgreement
from dlrecipes.callbacks.sample_batches import sample_batches
from dlrecipes.callbacks.sanity_probes import (
    Learnt,
    batch_mixing,
    equal_scores_loss,
    first_loss,
    inputs_place,
    learn,
    make_twin,
    with_inputs,
)
from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.imbalance import last_linear

__all__ = ["Answer", "Examination"]

_TOLERANCE = 0.25
_MARGIN = 0.9  # of the blind copy's loss
_RATES = (1e-3, 1e-2, 1e-4)
_NAMED = 4


@dataclass(frozen=True)
class Answer:
    """To one question; ``passed`` is None where it was skipped."""

    title: str
    passed: bool | None
    evidence: str
    advice: str = ""


class Examination:
    """The questions to one module, in an order in which later ones use what earlier ones made.

    Args:
        trainer, pl_module: in ``on_train_start``.
        agreement: of the ranks, which ask together.
        samples, steps, seconds: see `SanityChecks`.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        agreement: RankAgreement,
        *,
        samples: int,
        steps: int,
        seconds: float,
    ) -> None:
        self.trainer, self.module, self.agreement = trainer, pl_module, agreement
        self.samples, self.steps, self.seconds = samples, steps, seconds
        self.deadline = time.monotonic() + seconds
        self.learnt: Learnt | None = None
        self.twin: pl.LightningModule | None = None
        self.lr, self.level = _RATES[0], math.inf

    def answers(self) -> list[Answer]:
        """To all questions; none raises."""
        questions: list[tuple[str, Callable[[Any], Answer]]] = [
            ("loss at init", self.loss_at_init),
            ("learns one batch", self.learns),
            ("sees its inputs", self.sees),
            ("gradients", self.gradients),
            ("samples apart", self.samples_apart),
        ]
        try:
            if not self.module.automatic_optimization:
                raise UserError("it optimises by hand, and its steps would not stay on a copy")
            batch = next(sample_batches(self.trainer, self.module, 1, samples=self.samples, augmented=False))
        except (UserError, StopIteration) as error:
            return [Answer(title, None, str(error) or "there is no batch") for title, _ in questions]
        found = []
        for title, question in questions:
            try:
                found.append(question(batch))
            except UserError as error:
                found.append(Answer(title, None, str(error)))
        return found

    def loss_at_init(self, batch: Any) -> Answer:
        """Is the first loss that of equal scores?"""
        title = "loss at init"
        info, head = self._info(), self._head()
        twin = make_twin(self.trainer, self.module)
        with torch.no_grad():
            loss = float(first_loss(self.trainer, twin, batch))
        self.level = expected = equal_scores_loss(self.trainer, twin, twin.get_submodule(head), batch)
        classes = info.num_classes
        name = f", which is -log 1/{classes}" if abs(expected - math.log(classes)) < 1e-3 else ""
        least = min(expected, _entropy(info)) if info.task == "classification" else expected
        return Answer(
            title,
            (1 - _TOLERANCE) * least <= loss <= (1 + _TOLERANCE) * expected,
            f"{loss:.3g}, and {expected:.3g} with equal scores for all classes{name}.",
            "Start the last layer with small weights and no bias; a loss below that knows the labels beforehand.",
        )

    def learns(self, batch: Any) -> Answer:
        """Can the network learn a few samples?"""
        for self.lr in _RATES:
            self.twin = make_twin(self.trainer, self.module)
            self.learnt = result = self._learn(self.twin, batch, self.steps, until_goal=True)
            if self._all(result.passed) or not result.in_time:
                break
        if not result.passed and not result.in_time:
            raise UserError(f"{result.steps} steps took {self.seconds:g} s, too few to tell")
        return Answer(
            "learns one batch",
            result.passed,
            f"The loss of {_size(batch)} samples went from {result.first:.3g} to {result.last:.3g} in "
            f"{result.steps} steps.",
            "Look at labels and loss: a network that cannot learn a few images by heart learns nothing (--overfit 8).",
        )

    def sees(self, batch: Any) -> Answer:
        """Does it learn more than from nothing?"""
        if self.learnt is None or not self._all(self.learnt.passed):
            raise UserError("there is nothing to compare with: the batch was not learnt")
        if getattr(getattr(self.module, "info", None), "task", "") == "detection":
            raise UserError("a detector learns the usual layout of boxes first; ConstantPredictions watches it later")
        place = inputs_place(batch)
        inputs = batch if place is None else batch[place]
        blind_twin = make_twin(self.trainer, self.module)
        blind = self._learn(
            blind_twin, with_inputs(batch, torch.zeros_like(inputs)), self.learnt.steps, until_goal=False
        )
        if not blind.in_time:
            raise UserError("there was no time left")
        return Answer(
            "sees its inputs",
            self.learnt.last <= _MARGIN * blind.last,
            f"In {self.learnt.steps} steps the loss reached {self.learnt.last:.3g}, and {blind.last:.3g} with inputs "
            "set to zero.",
            "The network learns as much from nothing: see whether its inputs reach it, and whether the batch holds "
            "more than one label.",
        )

    def gradients(self, batch: Any) -> Answer:
        """Does a gradient reach every parameter?"""
        if self.learnt is None:
            raise UserError("no step was taken")
        missing = self.learnt.untouched
        names = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
        many = f"{len(missing)} parameter{'s' if len(missing) > 1 else ''}"
        return Answer(
            "gradients",
            not missing,
            f"No gradient reached {many} in {self.learnt.steps} steps: {names}."
            if missing
            else f"They reached all parameters in {self.learnt.steps} steps.",
            "What is not used should not be trained: take it out, or set its requires_grad to False.",
        )

    def samples_apart(self, batch: Any) -> Answer:
        """Do samples of a batch leave one another alone?"""
        twin = self.twin if self.twin is not None else make_twin(self.trainer, self.module)
        in_evaluation, in_training, norms = batch_mixing(twin, batch)
        by_design = f"; in training {norms} layers of batch norm mix, as they should" if norms else ""
        where = "evaluation" if in_evaluation else "training, and not by batch norm"
        mixes = in_evaluation or bool(in_training)
        return Answer(
            "samples apart",
            not mixes,
            f"A sample's outputs depend on other samples of its batch in {where}."
            if mixes
            else f"No sample's outputs depend on another's{by_design}.",
            "Look for a view, reshape, softmax or normalisation over the first dimension.",
        )

    def _learn(self, twin: pl.LightningModule, batch: Any, steps: int, *, until_goal: bool) -> Learnt:
        return learn(
            self.trainer,
            twin,
            batch,
            lr=self.lr,
            steps=steps,
            until_goal=until_goal,
            level=self.level,
            deadline=self.deadline,
            agree=self._all,
        )

    def _all(self, here: bool) -> bool:
        return bool(self.agreement.minimum(int(here)))

    def _info(self) -> DataInfo:
        info = getattr(self.module, "info", None) or getattr(getattr(self.trainer, "datamodule", None), "info", None)
        if not isinstance(info, DataInfo) or info.task not in ("classification", "multilabel"):
            raise UserError("the data has no classes to give equal scores to")
        network: Any = getattr(self.module, "model", None)
        if getattr(self.module, "init", None) is not None or getattr(network, "weights_from", None) is not None:
            raise UserError("the network begins with weights from elsewhere")
        return info

    def _head(self) -> str:
        """Name of the part whose output are the scores."""
        if isinstance(getattr(self.module, "model", None), nn.Module):
            return "model"
        return last_linear(self.module)[0]


def _size(batch: Any) -> str:
    try:
        place = inputs_place(batch)
    except UserError:
        return "the"
    return str(len(batch if place is None else batch[place]))


def _entropy(info: DataInfo) -> float:
    """Of the class frequencies: the loss of a network that knows no more than these."""
    counts = [count for count in info.class_counts if count > 0]
    total = sum(counts)
    return -sum(count / total * math.log(count / total) for count in counts) if total else math.inf
