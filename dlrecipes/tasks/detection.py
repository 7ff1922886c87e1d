"""Object detection as a task: any model, any criterion, COCO metrics."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from dlrecipes.contracts import DataInfo, DetectionBatch, DetectionOutput, Prediction
from dlrecipes.errors import UserError
from dlrecipes.functional.boxes import cxcywh_to_xyxy
from dlrecipes.models.detr import DETR, SetCriterion
from dlrecipes.ranks import gather_in_order
from dlrecipes.tasks.base import BaseTask, check_batch
from dlrecipes.tasks.coco_metric import coco_metric, named_metrics

__all__ = ["DetectionTask", "longest_prefix"]

_OF_OBJECTS = ("train/class_error", "train/matched_iou")  # a batch's means over its objects, not over its images


class DetectionTask(BaseTask):
    """Train a detector on ``DetectionBatch``es.

    Args:
        model: called as ``model(images, mask)`` → outputs for the criterion, with ``model.postprocess(outputs,
            orig_sizes)`` → predictions. While its ``wants_targets`` is true, as with denoising queries in training, it
            is called as ``model(images, mask, targets)``. Default: the paper's DETR-R50.
        criterion: called as ``criterion(outputs, targets)`` → a scalar, or a dict of unweighted losses whose weights
            are in ``criterion.weights``: see ``weigh``. Default: the paper's.
        init: a checkpoint to take weights from, ours or the DETR authors'; what does not fit is left as it is, and rows
            of the class head are copied by class name. To go on with a run is another thing: ``--resume``.
        optimizer, optimizer_args, lr, backbone_lr, weight_decay, decay_all, layer_decay, schedule, schedule_args,
            min_lr_factor, warmup_steps, channels_last, compile_mode: as in ``BaseTask``. Compiling pays where all
            batches have one shape: each further shape is compiled anew.

    Example:
        >>> from dlrecipes.models import DETR
        >>> task = DetectionTask(DETR("test_resnet", pretrained_backbone=False), lr=1e-3)
    """

    monitor: str = "val/map"
    monitor_mode: str = "max"
    headline: tuple[str, ...] = ("map", "map_50", "map_75", "train/matched_iou")
    overfit_goal: ClassVar[Mapping[str, float]] = {"map_50": 0.9}

    def __init__(
        self,
        model: nn.Module | None = None,
        criterion: nn.Module | None = None,
        *,
        init: str | None = None,
        optimizer: str = "torch.optim.AdamW",
        optimizer_args: dict[str, Any] | None = None,
        lr: float | None = 1e-4,
        backbone_lr: float | None = None,
        weight_decay: float = 1e-4,
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
            DETR() if model is None else model,
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
        if not callable(getattr(self.model, "postprocess", None)):
            raise ValueError(f"{type(self.model).__name__} has no postprocess(outputs, orig_sizes): add one")
        self.criterion = criterion if criterion is not None else self.configure_loss()
        self.val_metric, self.test_metric = self.configure_metrics(), self.configure_metrics()
        self._evaluated: list[tuple[Prediction, dict[str, Tensor]]] = []  # of this rank, in the running evaluation

    # ---- hooks ----------------------------------------------------------------------------------------------------

    def configure_loss(self) -> nn.Module:
        """The criterion where none is given."""
        return SetCriterion()

    def configure_metrics(self) -> Metric:
        """A metric with ``update(predictions, targets)`` in pixels, torchmetrics' format.

        It is given all ranks' images in the order of the data set, so make it with ``sync_on_compute=False``.
        """
        return coco_metric()

    def default_info(self) -> DataInfo:
        """Class names ``class_0`` ... as many as the model has."""
        classes = int(getattr(self.model, "num_classes", 0))
        if not classes:
            raise UserError("the model has no num_classes and there is no datamodule to ask: set task.info")
        names = tuple(f"class_{i}" for i in range(classes))
        return DataInfo(
            task="detection",
            classes=names,
            category_ids=tuple(range(classes)),
            class_counts=(0,) * classes,
            num_train=0,
            max_objects=0,
            image_size=0,
        )

    def bind(self, info: DataInfo) -> None:
        """Also check that model and criterion mean the same by a logit.

        Raises:
            UserError: a softmax head with a sigmoid loss, or the other way round.
        """
        super().bind(info)
        heads = [getattr(part, "sigmoid", None) for part in (self.model, self.criterion)]
        if None not in heads and heads[0] != heads[1]:
            raise UserError(
                "the model's class head and the criterion's class loss do not fit: class_head='softmax' goes with "
                "class_loss='ce', class_head='sigmoid' with 'focal', 'varifocal', 'mal' or 'ia_bce'"
            )

    # ---- steps ----------------------------------------------------------------------------------------------------

    def forward(
        self, images: Tensor, mask: Tensor | None = None, targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> Any:
        """uint8 images to the model's outputs; the targets reach a model that wants them now."""
        given = (targets,) if targets is not None and getattr(self.model, "wants_targets", False) else ()
        return self.network(self.normalise(images, mask), mask, *given)

    def step(self, batch: DetectionBatch) -> tuple[Any, Tensor, dict[str, Tensor]]:
        """Outputs, the loss to minimise, and its unweighted terms."""
        check_batch(batch, "DetectionBatch")
        outputs = self(batch["images"], batch["mask"], batch["targets"])
        losses = self.criterion(outputs, batch["targets"])
        if isinstance(losses, Tensor):
            return outputs, losses, {}
        return outputs, self.weigh(losses), losses

    def weigh(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Σ weight · loss, where ``loss_bbox_3``, ``loss_bbox_enc`` and ``loss_bbox_dn_0`` weigh what ``loss_bbox``
        does.

        The weight is that of the longest name in ``criterion.weights`` which the loss's name equals, or begins with
        followed by ``_``: with ``loss_ce_dn`` in it, too, ``loss_ce_dn_0`` weighs what that does. A loss without such a
        name is only logged.

        Raises:
            ValueError: no loss has a weight.
        """
        weights: Mapping[str, float] | None = getattr(self.criterion, "weights", None)
        if weights is None:
            return torch.stack(list(losses.values())).sum()
        named = ((longest_prefix(name, weights), value) for name, value in losses.items())
        terms = [weights[name] * value for name, value in named if name is not None]
        if not terms:
            raise ValueError(f"criterion.weights has none of {', '.join(losses)}: nothing to minimise")
        return torch.stack(terms).sum()

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> dict[str, Tensor]:
        """One step; logs ``train/loss`` and the terms of the last layer. Returns every term, for who wants to look.

        An epoch's ``train/matched_iou`` and ``train/class_error`` are means over its objects.
        """
        _, loss, terms = self.step(batch)
        size = len(batch["targets"])
        self.log_each_step("train/loss", self.train_loss, loss.detach(), size)
        shown = {
            f"train/{name}": value.detach()
            for name, value in terms.items()
            if not name.rpartition("_")[2].isdigit() and not name.endswith("_enc")
        }
        of_objects = {name: shown.pop(name) for name in _OF_OBJECTS if name in shown}
        self.log_each_epoch(shown, size)
        if objects := sum(len(target["labels"]) for target in batch["targets"]):
            self.log_each_epoch(of_objects, objects)
        return {name: value.detach() for name, value in terms.items()} | {"loss": loss}

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> DetectionOutput:
        """Loss and predictions of one validation batch."""
        return self._evaluate(batch, self.val_loss)

    def test_step(self, batch: DetectionBatch, batch_idx: int) -> DetectionOutput:
        """Loss and predictions of one test batch."""
        return self._evaluate(batch, self.test_loss)

    def predict_step(self, batch: DetectionBatch, batch_idx: int) -> list[Prediction]:
        """Predictions in pixels of the original images."""
        check_batch(batch, "DetectionBatch")
        return self._predictions(self(batch["images"], batch["mask"]), batch)

    def _predictions(self, outputs: Any, batch: DetectionBatch) -> list[Prediction]:
        postprocess: Any = self.model.postprocess
        found: list[Prediction] = postprocess(outputs, batch["orig_sizes"])
        return found

    def _evaluate(self, batch: DetectionBatch, mean_loss: MeanMetric) -> DetectionOutput:
        check_batch(batch, "DetectionBatch")
        # crowd regions are ground truth to be ignored, not to be matched by the loss
        training_targets = [
            {"labels": t["labels"][~t["iscrowd"]], "boxes": t["boxes"][~t["iscrowd"]]} for t in batch["targets"]
        ]
        outputs = self(batch["images"], batch["mask"])
        losses = self.criterion(outputs, training_targets)
        loss = losses if isinstance(losses, Tensor) else self.weigh(losses)
        mean_loss.update(loss.expand(len(training_targets)))  # as in ImageTask: MeanMetric would drop a weight here
        predictions = [
            Prediction(scores=p["scores"].cpu(), labels=p["labels"].cpu(), boxes=p["boxes"].cpu())
            for p in self._predictions(outputs, batch)
        ]
        self._evaluated += zip(predictions, self._truth(batch), strict=True)
        return {"loss": loss, "predictions": predictions}

    @staticmethod
    def _truth(batch: DetectionBatch) -> list[dict[str, Tensor]]:
        truth = []
        for target, size in zip(batch["targets"], batch["orig_sizes"].cpu(), strict=True):
            height, width = size.tolist()
            scale = torch.tensor([width, height, width, height], dtype=torch.float64)
            boxes = cxcywh_to_xyxy(target["boxes"].cpu().double()) * scale
            truth.append(
                {
                    "boxes": boxes.float(),
                    "labels": target["labels"].cpu(),
                    "area": target["area"].cpu(),
                    "iscrowd": target["iscrowd"].cpu().long(),
                }
            )
        return truth

    # ---- evaluation -----------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin with no images."""
        self._evaluated = []

    def on_test_epoch_start(self) -> None:
        """Begin with no images."""
        self._evaluated = []

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation split."""
        self._log_metrics("val", self.val_loss, self.val_metric)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test split."""
        self._log_metrics("test", self.test_loss, self.test_metric)

    def _log_metrics(self, stage: str, mean_loss: MeanMetric, metric: Metric) -> None:
        evaluated = gather_in_order(self._evaluated)
        self._evaluated = []
        metric.update([prediction for prediction, _ in evaluated], [truth for _, truth in evaluated])
        values = metric.compute()
        metric.reset()
        # every rank has computed the same numbers: nothing to reduce
        self.log(f"{stage}/loss", mean_loss.compute(), rank_zero_only=False)
        mean_loss.reset()
        found = named_metrics(values, () if self.info is None else self.info.classes)
        self.log_dict({f"{stage}/{name}": value for name, value in found.items()}, rank_zero_only=False)


def longest_prefix(name: str, names: Container[str]) -> str | None:
    """The longest of ``names`` that ``name`` equals, or begins with followed by ``_``; None if there is none.

    >>> longest_prefix("loss_ce_dn_0", {"loss_ce", "loss_ce_dn"}), longest_prefix("loss_center", {"loss_ce"})
    ('loss_ce_dn', None)
    """
    while name and name not in names:
        name = name.rpartition("_")[0]
    return name or None
