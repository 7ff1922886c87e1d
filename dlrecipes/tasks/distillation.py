"""Image classification with a teacher: the checkpoint of another run, or the average of the student's own weights."""

from __future__ import annotations

import inspect
import os
from dataclasses import replace
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from dlrecipes.contracts import DataInfo, ImageBatch
from dlrecipes.errors import UserError
from dlrecipes.losses.distillation import KDLoss
from dlrecipes.tasks.classification import ClassificationTask
from dlrecipes.tasks.teachers import EMATeacher, RunTeacher, SharedClasses, load_teacher, shared_classes

__all__ = ["DistillationTask"]

_EMA = "ema"


class DistillationTask(ClassificationTask):
    r"""Train a classifier on labels and on what a teacher says of the same images.

    .. math:: \ell = \text{loss}(s, y) + \text{weight} \cdot \text{distill}(s, t)

    with the student's logits s and the teacher's t (knowledge distillation: Hinton et al., 2015, arXiv:1503.02531).

    The teacher is a run of any network on any image size and normalisation: it sees the same augmented images, scaled
    and normalised as it was trained. Its classes are matched by name. One that knows only some of them, such as the
    frequent ones, teaches the differences among those: both softmaxes are over the classes that both know. It is
    frozen, in evaluation mode, and no part of the student's checkpoint, which needs it only to be trained further.

    ``teacher="ema"`` is the mean teacher (Tarvainen and Valpola, 2017, arXiv:1703.01780): the average of the student's
    own weights, kept in the checkpoint. Give it ``rampup_steps``, since it knows nothing at first.

    When: a large network or long training teaches a small or short one; a network trained on a long tail as it is
    teaches a student that balances (``distill=HeadToTailDistillLoss()``). It hurts where the teacher is worse than the
    student would be. Validation and test measure the loss of the labels alone, so runs with and without a teacher can
    be compared.

    Logs ``train/distill_loss``, without the weight, beside what ``ClassificationTask`` does.

    Args:
        model, loss: as in ``ClassificationTask``.
        teacher: run folder (its best checkpoint) or checkpoint; or ``"ema"``.
        distill: ``distill(student_logits, teacher_logits)`` → scalar; given ``sample_weight=`` for batches that have
            weights, and ``labels=`` if it takes that: int64 [B], −1 for a class that the teacher does not know, or soft
            ones [B, K]. ``bind(info)`` tells it about the teacher's data. Default: ``KDLoss(temperature)``.
        weight: of the teacher, >= 0.
        temperature: T of the default ``distill``.
        ema_decay: of ``teacher="ema"``: the average looks back 1 / (1 − d) steps.
        rampup_steps: steps in which the weight rises linearly from 0.
        feature_part, auxiliary_loss, auxiliary_weight, auxiliary_miner, projection, projection_dim: as in
            ``ImageTask``.
        init, optimizer, optimizer_args, lr, backbone_lr, weight_decay, decay_all, layer_decay, schedule, schedule_args,
            min_lr_factor, warmup_steps, channels_last, compile_mode: as in ``BaseTask``.

    Raises:
        ValueError: an argument outside its range.
        UserError: in ``fit``: a teacher that cannot be used.
    """

    ema: EMATeacher | None

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module | None = None,
        *,
        teacher: str,
        distill: nn.Module | None = None,
        weight: float = 1.0,
        temperature: float = 4.0,
        ema_decay: float = 0.999,
        rampup_steps: int = 0,
        feature_part: nn.Module | None = None,
        auxiliary_loss: nn.Module | None = None,
        auxiliary_weight: float = 1.0,
        auxiliary_miner: nn.Module | None = None,
        projection: nn.Module | None = None,
        projection_dim: int | None = None,
        init: str | None = None,
        optimizer: str = "adamw",
        optimizer_args: dict[str, Any] | None = None,
        lr: float | None = None,
        backbone_lr: float | None = None,
        weight_decay: float = 0.05,
        decay_all: bool = False,
        layer_decay: float | None = None,
        schedule: str = "cosine",
        schedule_args: dict[str, Any] | None = None,
        min_lr_factor: float = 0.0,
        warmup_steps: int = 0,
        channels_last: bool = False,
        compile_mode: str = "auto",
    ) -> None:
        super().__init__(
            model,
            loss,
            feature_part=feature_part,
            auxiliary_loss=auxiliary_loss,
            auxiliary_weight=auxiliary_weight,
            auxiliary_miner=auxiliary_miner,
            projection=projection,
            projection_dim=projection_dim,
            init=init,
            optimizer=optimizer,
            optimizer_args=optimizer_args,
            lr=lr,
            backbone_lr=backbone_lr,
            weight_decay=weight_decay,
            decay_all=decay_all,
            layer_decay=layer_decay,
            schedule=schedule,
            schedule_args=schedule_args,
            min_lr_factor=min_lr_factor,
            warmup_steps=warmup_steps,
            channels_last=channels_last,
            compile_mode=compile_mode,
        )
        for name, value in (("weight", weight), ("rampup_steps", rampup_steps)):
            if value < 0:
                raise ValueError(f"{name}={value}: not below 0")
        if not 0 < ema_decay < 1:
            raise ValueError(f"ema_decay={ema_decay}: must be between 0 and 1")
        self.teacher, self.weight, self.temperature = _named(teacher), weight, temperature
        self.ema_decay, self.rampup_steps = ema_decay, rampup_steps
        self.distill = KDLoss(temperature) if distill is None else distill
        self.ema = None
        self._teacher: RunTeacher | None = None
        self._shared: SharedClasses | None = None
        self._distill_takes: frozenset[str] = frozenset()
        self._distill_loss: Tensor | None = None

    # ---- the teacher ----------------------------------------------------------------------------------------------

    def bind(self, info: DataInfo) -> None:
        """Also refuse data with several labels an image."""
        if info.task == "multilabel":
            raise UserError(
                "DistillationTask is for one label an image, and this data has several: take "
                "dlrecipes.tasks.ClassificationTask"
            )
        super().bind(info)

    def configure_model(self) -> None:
        """Also begin the average of the weights, where that is the teacher."""
        begin = self.teacher == _EMA and not self._bound
        super().configure_model()
        if begin:
            self.ema = EMATeacher(self.model, self.ema_decay)

    def setup(self, stage: str) -> None:
        """Read the teacher before training begins; for anything else it is not needed, and may be gone."""
        if stage == "fit" and self.teacher != _EMA and self._teacher is None:
            self._teacher = load_teacher(self.teacher)

    def on_train_start(self) -> None:
        """Also bring teacher and student together: classes, device, what the loss wants to know."""
        super().on_train_start()
        self._distill_takes = frozenset(inspect.signature(self.distill.forward).parameters)
        if self._teacher is not None:
            self._meet(self._teacher)

    def _meet(self, teacher: RunTeacher) -> None:
        if self.info is None:
            raise UserError("the student does not know its classes: fit it with a datamodule that has .info")
        teacher.task.to(self.device)
        seen, own = teacher.info, self.info
        shared = shared_classes(own.classes, seen.classes)
        bind = getattr(self.distill, "bind", None)
        if callable(bind):  # what corrects a teacher for frequencies needs those that it was trained with
            labels = shared.teacher.tolist()
            ids, counts = (tuple(of[label] for label in labels) for of in (seen.category_ids, seen.class_counts))
            bind(replace(seen, classes=shared.names, category_ids=ids, class_counts=counts))
        self._shared = None if own.classes == seen.classes else shared.to(self.device)
        scaled = "" if seen.image_size == own.image_size else f"; images are scaled to {seen.image_size} pixels for it"
        self._say(
            f"teacher    {type(teacher.task.model).__name__} of {self.teacher}, knows {len(shared.names)} of "
            f"{own.num_classes} classes{scaled}"
        )

    def on_train_end(self) -> None:
        """Also put the average of the weights back into the mode in which Lightning expects what it trains."""
        super().on_train_end()
        if self.ema is not None:
            self.ema.train()

    # ---- steps ----------------------------------------------------------------------------------------------------

    def step(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Outputs and the loss to minimise, in training with the teacher's part."""
        outputs, loss = super().step(batch)
        if not self.training or (self.ema is None and self._teacher is None):
            return outputs, loss
        found = self.distillation(outputs, batch)
        self._distill_loss = found.detach()
        return outputs, loss + self._weight_now() * found

    def distillation(self, outputs: Tensor, batch: ImageBatch) -> Tensor:
        """What the teacher adds to the loss, without its weight.

        Args:
            outputs: the student's [B, C]. Cosines become logits first, as in ``predictions``; the teacher's do so by
                the loss that it was trained with.
            batch: with the images that it saw.
        """
        labels = batch["targets"]
        if self.ema is not None:
            target = self.logits(self.ema(self.normalise(batch["images"])))
        elif self._teacher is not None:
            target = self._teacher(batch["images"])
        else:
            raise UserError("there is no teacher yet: it is read when training begins")
        outputs = self.logits(outputs)
        if self._shared is not None:
            outputs = outputs.index_select(1, self._shared.student)
            target = target.index_select(1, self._shared.teacher)
            soft = labels.dim() == 2
            labels = labels.index_select(1, self._shared.student) if soft else self._shared.position[labels]
        weights = batch.get("weights")
        given: dict[str, Tensor] = {"labels": labels} if "labels" in self._distill_takes else {}
        if weights is not None:
            if "sample_weight" not in self._distill_takes:
                raise UserError(
                    f"the data has sample weights, and {type(self.distill).__name__}.forward takes no sample_weight: "
                    f"add that argument, or take another loss"
                )
            given["sample_weight"] = weights
        loss: Tensor = self.distill(outputs, target, **given)
        return loss

    def _weight_now(self) -> float:
        if self.rampup_steps == 0:
            return self.weight
        return self.weight * min(1.0, self.trainer.global_step / self.rampup_steps)

    def log_training(self, outputs: Tensor, batch: ImageBatch) -> None:
        """Also ``train/distill_loss``."""
        super().log_training(outputs, batch)
        if self._distill_loss is not None:
            self.log_each_epoch({"train/distill_loss": self._distill_loss}, len(outputs))

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Any = None,
    ) -> None:
        """Also move the average of the weights on."""
        step = self.trainer.global_step
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.ema is not None:
            self.ema.update(self.model, step)


def _named(teacher: object) -> str:
    """As text, which a checkpoint keeps."""
    if not isinstance(teacher, str | os.PathLike):
        raise ValueError(f"teacher is a {type(teacher).__name__}: give its run folder or checkpoint, or 'ema'")
    return str(teacher)
