"""Image classification: one label an image, or several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from torch import Tensor, nn
from torchmetrics import MetricCollection

from dlrecipes.contracts import DataInfo, ImageBatch
from dlrecipes.errors import UserError
from dlrecipes.functional.links import class_probabilities
from dlrecipes.losses.base import link_of
from dlrecipes.nn import CosineLinear
from dlrecipes.tasks.images import ImageTask
from dlrecipes.tasks.metrics import classification_metrics, multilabel_metrics

__all__ = ["ClassificationTask"]


class ClassificationTask(ImageTask):
    """Train a classifier; the data says whether an image has one label (softmax) or several (a sigmoid each).

    Logs ``accuracy``, ``balanced_accuracy``, ``f1``, ``g_mean``, ``auprc``, ``ece``, ``class_ece``, ``nll``,
    ``balanced_nll`` and ``recall_class/NAME``, in a long tail ``accuracy_many``, ``_medium`` and ``_few``, with several
    labels ``map``, ``f1``, ``subset_accuracy`` and ``ap_class/NAME``. Macro-F1, which both kinds have and a long tail
    cannot hide in, chooses the best checkpoint. What early stopping and ``best_loss.ckpt`` watch as
    the loss is ``balanced_nll``, the same quantity under every loss and remedy, and with several labels ``loss``.

    Arguments: see ``ImageTask``. The default loss is ``dlrecipes.losses.CrossEntropyLoss``, with several labels
    ``BCELoss``.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        >>> task = ClassificationTask(network, nn.CrossEntropyLoss(label_smoothing=0.1), optimizer="sgd", lr=0.05)
    """

    monitor: str = "val/f1"
    monitor_mode: str = "max"
    headline: tuple[str, ...] = (
        "accuracy",
        "map",
        "balanced_accuracy",
        "f1",
        "subset_accuracy",
        "auprc",
        "ece",
        "nll",
        "balanced_nll",
    )
    overfit_goal: ClassVar[Mapping[str, float]] = {"accuracy": 1.0, "subset_accuracy": 1.0}

    @property
    def loss_monitor(self) -> str:
        """``val/loss`` has the weights, margins and smoothing of its loss in it, where there is one label."""
        return "val/loss" if self._multilabel else "val/balanced_nll"

    def configure_loss(self, info: DataInfo) -> nn.Module:
        """Cross entropy over softmax, or over a sigmoid each."""
        from dlrecipes.losses import BCELoss, CrossEntropyLoss

        loss: nn.Module = BCELoss() if info.task == "multilabel" else CrossEntropyLoss()
        return loss

    def configure_metrics(self, info: DataInfo) -> MetricCollection:
        """Those of the class's description."""
        if info.task == "multilabel":
            return multilabel_metrics(info.classes)
        return classification_metrics(info.classes, info.class_counts)

    def bind(self, info: DataInfo) -> None:
        """Also refuse data of another kind, and note what the loss makes of the logits.

        Raises:
            UserError: no classes.
        """
        if info.task not in ("classification", "multilabel") or not info.classes:
            raise UserError(
                f"ClassificationTask needs data with classes, and this is for {info.task} with {len(info.classes)} "
                f"classes: take dlrecipes.tasks.RegressionTask for numbers and DetectionTask for boxes"
            )
        if self.loss is None:
            self.loss = self.configure_loss(info)
        super().bind(replace(info, link=link_of(self.loss)))

    def on_train_start(self) -> None:
        """Also say if loss and last layer do not belong together."""
        super().on_train_start()
        advice = _advice(self.model, self.loss)
        if advice is not None:
            self._say(advice)

    def targets_for_loss(self, targets: Tensor) -> Tensor:
        """Labels as they are; 0 and 1 of several labels as float."""
        return targets.float() if targets.dim() == 2 else targets

    def logits(self, outputs: Tensor) -> Tensor:
        """Outputs times the loss's ``logit_scale``, if it has one: a loss on cosines says by it what they are to be
        multiplied by. Bare, they would be almost the same for all classes."""
        return outputs * float(getattr(self.loss, "logit_scale", 1.0))

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities: with several labels a sigmoid each, with one what the loss was learning.

        That is softmax, unless its ``link`` says otherwise, as those of ``BCELoss`` and ``BiTemperedLoss`` do: see
        ``dlrecipes.functional.links``.
        """
        logits = self.logits(outputs.float())
        return logits.sigmoid() if self._multilabel else class_probabilities(logits, link_of(self.loss))

    @property
    def _multilabel(self) -> bool:
        return self.info is not None and self.info.task == "multilabel"

    def targets_for_metrics(self, targets: Tensor) -> Tensor:
        """int64 labels: [B], or [B, C] with several."""
        if self._multilabel:
            return targets.long()
        return targets.argmax(1) if targets.dim() == 2 else targets

    def log_training(self, outputs: Tensor, batch: ImageBatch) -> None:
        """``train/accuracy`` where each image has its one label, unmixed."""
        if batch["targets"].dim() == 1:
            accuracy = (outputs.argmax(1) == batch["targets"]).float().mean()
            self.log_each_epoch({"train/accuracy": accuracy}, len(outputs))


def _advice(model: nn.Module, loss: nn.Module | None) -> str | None:
    """Cosines are for losses that scale them, and LDAM's margins are for cosines."""
    from dlrecipes.losses import LDAMLoss

    last = next((module for module in reversed(list(model.modules())) if isinstance(module, nn.Linear)), None)
    name = type(loss).__name__
    if isinstance(loss, LDAMLoss) and last is not None and not isinstance(last, CosineLinear):
        return f"advice: the margins of {name} are made for cosines: add --model.model.head cosine"
    if isinstance(last, CosineLinear) and last.scale == 1 and not hasattr(loss, "scale"):
        return (
            f"advice: the last layer gives cosines within −1 and 1, from which {name} cannot learn much: take "
            f"--loss dlrecipes.losses.LDAMLoss, or --model.model.head linear"
        )
    return None
