"""Five questions to a network, its loss and its data before a run, answered in seconds and without a trace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console
from rich.table import Table
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
from dlrecipes.contracts import DataInfo, Verdict
from dlrecipes.errors import UserError
from dlrecipes.imbalance import last_linear

__all__ = ["SanityChecks"]

_SOURCE = "sanity checks"
_TOLERANCE = 0.25
_MARGIN = 0.9  # of the blind copy's loss
_RATES = (1e-3, 1e-2, 1e-4)
_NAMED = 4


@dataclass(frozen=True)
class _Answer:
    title: str
    passed: bool | None  # None: skipped
    evidence: str
    advice: str = ""


class SanityChecks(pl.Callback):
    r"""Asks before the first step what else shows after hours, and prints a table (after Karpathy, "A recipe for
    training neural networks", 2019).

    ========================  ======================================================================================
    question                  passed if
    ========================  ======================================================================================
    loss at init              the first loss is that of equal scores for all K classes, :math:`-\log 1/K` for cross
                              entropy, within 25 %; from below within 25 % of the class frequencies' entropy too.
                              Only where the data has classes and the network no weights from elsewhere
    learns one batch          the loss of a few training samples halves within ``steps`` steps of AdamW, with a rate of
                              1e-3, 1e-2 or 1e-4 (half of what equal scores have, where that is known and less)
    sees its inputs           the copy that learnt has a loss below .9 of one that took the same steps on inputs that
                              were set to zero; not asked of a detector, which learns the layout of boxes first
    gradients                 every trainable parameter had a gradient in one of those steps; the others are named
    samples apart             the gradient of the first sample's outputs by the other samples is exactly 0, in
                              evaluation, and in training with batch norm set to evaluation: that one mixes by design
    ========================  ======================================================================================

    All is done on copies, with the images as they are in evaluation (nothing is mixed), from a copy of the order of
    training. Afterwards weights, optimizers, loaders and generators of random numbers are as they were, to the bit: a
    run with the checks and one without are the same. A data set that counts its own calls would notice.

    What does not apply is skipped and says why: a stream of data, optimisation by hand, a network that cannot be copied
    or that is too slow. Nothing is asked of a run that is resumed. Several ranks ask together, and what fails on one
    has failed.

    Args:
        stop: end the run where a check failed, before its first step.
        samples: of the batch.
        steps: to learn it, at most.
        seconds: for learning, at most; what is not learnt by then is skipped.

    Attributes:
        verdicts: one for each check that was not skipped.

    Raises:
        ValueError: a number outside its range.
        UserError: in ``on_train_start``, with ``stop``, where a check failed; exit code 2.

    Example:
        >>> trainer = pl.Trainer(callbacks=[SanityChecks()], logger=False)
    """

    def __init__(self, stop: bool = False, samples: int = 8, steps: int = 60, seconds: float = 60.0) -> None:
        if samples < 2:
            raise ValueError(f"samples must be at least 2, got {samples}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds must be above 0, got {seconds}")
        self.stop = stop
        self.samples = samples
        self.steps = steps
        self.seconds = seconds
        self.verdicts: list[Verdict] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > 0:
            return
        agreement = RankAgreement()
        with isolate_rng(), torch.enable_grad():
            answers = _Examination(self, trainer, pl_module, agreement).answers()
        answers = [_worst(of_ranks) for of_ranks in zip(*agreement.gather(answers), strict=True)]
        self.verdicts = [
            Verdict(
                source=_SOURCE,
                title=answer.title if answer.passed else f"{answer.title}: failed",
                level="ok" if answer.passed else "warning",
                evidence=answer.evidence,
                advice="" if answer.passed else answer.advice,
            )
            for answer in answers
            if answer.passed is not None
        ]
        if trainer.is_global_zero:
            _print(answers)
        failed = [answer for answer in answers if answer.passed is False]
        if failed and self.stop:
            named = "; ".join(f"{answer.title}: {answer.evidence}" for answer in failed)
            raise UserError(f"the sanity checks failed: {named} Leave stop out to train all the same.")


class _Examination:
    """The questions to one module, in an order in which later ones use what earlier ones made."""

    def __init__(
        self, options: SanityChecks, trainer: pl.Trainer, pl_module: pl.LightningModule, agreement: RankAgreement
    ) -> None:
        self.options, self.trainer, self.module, self.agreement = options, trainer, pl_module, agreement
        self.deadline = time.monotonic() + options.seconds
        self.learnt: Learnt | None = None
        self.twin: pl.LightningModule | None = None
        self.lr, self.level = _RATES[0], math.inf

    def answers(self) -> list[_Answer]:
        questions: list[tuple[str, Callable[[Any], _Answer]]] = [
            ("loss at init", self.loss_at_init),
            ("learns one batch", self.learns),
            ("sees its inputs", self.sees),
            ("gradients", self.gradients),
            ("samples apart", self.samples_apart),
        ]
        try:
            if not self.module.automatic_optimization:
                raise UserError("it optimises by hand, and its steps would not stay on a copy")
            count = self.options.samples
            batch = next(sample_batches(self.trainer, self.module, 1, samples=count, augmented=False))
        except (UserError, StopIteration) as error:
            return [_Answer(title, None, str(error) or "there is no batch") for title, _ in questions]
        found = []
        for title, question in questions:
            try:
                found.append(question(batch))
            except UserError as error:
                found.append(_Answer(title, None, str(error)))
        return found

    def loss_at_init(self, batch: Any) -> _Answer:
        title = "loss at init"
        info, head = self._info(), self._head()
        twin = make_twin(self.trainer, self.module)
        with torch.no_grad():
            loss = float(first_loss(self.trainer, twin, batch))
        self.level = expected = equal_scores_loss(self.trainer, twin, twin.get_submodule(head), batch)
        classes = info.num_classes
        name = f", which is -log 1/{classes}" if abs(expected - math.log(classes)) < 1e-3 else ""
        least = min(expected, _entropy(info)) if info.task == "classification" else expected
        return _Answer(
            title,
            (1 - _TOLERANCE) * least <= loss <= (1 + _TOLERANCE) * expected,
            f"{loss:.3g}, and {expected:.3g} with equal scores for all classes{name}.",
            "Start the last layer with small weights and no bias; a loss below that knows the labels beforehand.",
        )

    def learns(self, batch: Any) -> _Answer:
        for self.lr in _RATES:
            self.twin = make_twin(self.trainer, self.module)
            self.learnt = result = self._learn(self.twin, batch, self.options.steps, until_goal=True)
            if self._all(result.passed) or not result.in_time:
                break
        if not result.passed and not result.in_time:
            raise UserError(f"{result.steps} steps took {self.options.seconds:g} s, too few to tell")
        return _Answer(
            "learns one batch",
            result.passed,
            f"The loss of {_size(batch)} samples went from {result.first:.3g} to {result.last:.3g} in "
            f"{result.steps} steps.",
            "Look at labels and loss: a network that cannot learn a few images by heart learns nothing (--overfit 8).",
        )

    def sees(self, batch: Any) -> _Answer:
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
        return _Answer(
            "sees its inputs",
            self.learnt.last <= _MARGIN * blind.last,
            f"In {self.learnt.steps} steps the loss reached {self.learnt.last:.3g}, and {blind.last:.3g} with inputs "
            "set to zero.",
            "The network learns as much from nothing: see whether its inputs reach it, and whether the batch holds "
            "more than one label.",
        )

    def gradients(self, batch: Any) -> _Answer:
        if self.learnt is None:
            raise UserError("no step was taken")
        missing = self.learnt.untouched
        names = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
        many = f"{len(missing)} parameter{'s' if len(missing) > 1 else ''}"
        return _Answer(
            "gradients",
            not missing,
            f"No gradient reached {many} in {self.learnt.steps} steps: {names}."
            if missing
            else f"They reached all parameters in {self.learnt.steps} steps.",
            "What is not used should not be trained: take it out, or set its requires_grad to False.",
        )

    def samples_apart(self, batch: Any) -> _Answer:
        twin = self.twin if self.twin is not None else make_twin(self.trainer, self.module)
        in_evaluation, in_training, norms = batch_mixing(twin, batch)
        by_design = f"; in training {norms} layers of batch norm mix, as they should" if norms else ""
        where = "evaluation" if in_evaluation else "training, and not by batch norm"
        mixes = in_evaluation or bool(in_training)
        return _Answer(
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


def _worst(answers: tuple[_Answer, ...]) -> _Answer:
    """Of the ranks' answers to one question: a failure, else a pass, else why it was skipped."""
    return min(answers, key=lambda answer: {False: 0, True: 1, None: 2}[answer.passed])


def _print(answers: list[_Answer]) -> None:
    table = Table(title="sanity checks", title_justify="left")
    for column in ("check", "result", "found"):
        table.add_column(column)
    for answer in answers:
        word, style = {True: ("pass", "green"), False: ("FAIL", "bold red"), None: ("skipped", "dim")}[answer.passed]
        advice = f" {answer.advice}" if answer.passed is False and answer.advice else ""
        table.add_row(answer.title, f"[{style}]{word}[/]", (answer.evidence + advice).replace("[", r"\["))
    Console(highlight=False).print(table)
