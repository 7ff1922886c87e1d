"""Tasks on whole images: a network, any loss, any metrics; one number or a row of them for each image."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from dlrecipes.contracts import DataInfo, ImageBatch, ImageOutput
from dlrecipes.errors import UserError
from dlrecipes.tasks.base import check_batch
from dlrecipes.tasks.feature_task import FeatureSpaceTask

__all__ = ["ImageTask"]


class ImageTask(FeatureSpaceTask):
    """Base of classification and regression on ``ImageBatch``es. A task of your own overrides what it changes:

    ``configure_loss`` (the loss where none is given), ``configure_metrics``, ``outputs_for_loss``,
    ``targets_for_loss``, ``targets_for_metrics``, ``predictions``, ``step``.

    Args:
        model: float [B, 3, S, S] → [B, num_outputs]; told the number by ``bind(info)``, if it has that.
        loss: any ``nn.Module`` called as ``loss(outputs, targets)`` → scalar, with ``sample_weight=`` for batches that
            have weights. Default: ``configure_loss()``.
        feature_part: between features and classifier in training, called as ``part(features [B, D], targets)`` →
            features, or features and targets, of which any number may follow the batch's own: ``FeatureSMOTE``,
            ``FeatureDistributionSmoothing``, or your own. Its ``end_epoch()``, if it has that, is called between
            epochs. It sees the targets that the loss sees: standardised ones in regression, soft ones after mixing.
        auxiliary_loss: of features and labels, in training, beside ``loss``, called as ``loss(embeddings, labels)``:
            ``SupConLoss``, ``BalancedContrastiveLoss``, any of pytorch-metric-learning's. It sees one view of each
            image, so that positives must be in the batch: draw classes equally often, and take large batches.
        auxiliary_weight: what it is multiplied by.
        auxiliary_miner: chooses pairs or triplets for it, as those of pytorch-metric-learning: called as
            ``miner(embeddings, labels)``; what it returns is the loss's third argument.
        projection: features → embeddings of the auxiliary loss; None: the features themselves.
        projection_dim: instead of ``projection``: a small network with as many outputs is made and trained.
        init, optimizer, optimizer_args, lr, backbone_lr, weight_decay, decay_all, layer_decay, schedule, schedule_args,
            min_lr_factor, warmup_steps, channels_last, compile_mode: as in ``BaseTask``. With a feature part or an
            auxiliary loss, ``model.features`` is what is compiled; a model without that method is not.

    Raises:
        ValueError: a negative ``auxiliary_weight``, both projections, or one without a loss to project for; a class
            instead of a loss.
    """

    val_metrics: MetricCollection
    test_metrics: MetricCollection

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module | None = None,
        *,
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
        if isinstance(loss, type):
            raise ValueError(f"loss is the class {loss.__name__}: make it, {loss.__name__}()")
        self.loss = loss
        self.keep_feature_parts(
            feature_part, auxiliary_loss, auxiliary_weight, auxiliary_miner, projection, projection_dim
        )

    # ---- hooks ----------------------------------------------------------------------------------------------------

    def configure_loss(self, info: DataInfo) -> nn.Module:
        """The loss where none is given."""
        raise NotImplementedError

    def configure_metrics(self, info: DataInfo) -> MetricCollection:
        """Metrics with ``update(predictions, targets)``: what ``predictions`` and ``targets_for_metrics`` give.

        What ``compute`` returns is logged under its names, numbers and dicts of numbers.
        """
        raise NotImplementedError

    def outputs_for_loss(self, outputs: Tensor) -> Tensor:
        """The network's outputs as the loss wants them."""
        return outputs

    def targets_for_loss(self, targets: Tensor) -> Tensor:
        """The batch's targets as the loss wants them."""
        return targets

    def targets_for_metrics(self, targets: Tensor) -> Tensor:
        """The batch's targets as the metrics want them."""
        return targets

    def predictions(self, outputs: Tensor) -> Tensor:
        """The network's outputs as float32 probabilities, or values in the data's own units."""
        raise NotImplementedError

    def bind(self, info: DataInfo) -> None:
        """Also make the loss, the projection and the metrics.

        Raises:
            UserError: data for another kind of task, a model without features where they are needed, or parts that are
                made for features of another length.
        """
        if self.loss is None:
            self.loss = self.configure_loss(info)
        super().bind(info)
        self.bind_features(info)
        self.val_metrics, self.test_metrics = self.configure_metrics(info), self.configure_metrics(info)

    # ---- steps ----------------------------------------------------------------------------------------------------

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images [B, 3, S, S], or float ones in 0..255, to the network's outputs [B, num_outputs]."""
        outputs: Tensor = self.network(self.normalise(images))
        return outputs

    def step(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Outputs of the batch's images, and the loss to minimise.

        Raises:
            UserError: a batch that is no dict, outputs of another shape than the data needs, labels outside the
                classes, or a loss that is not one number.
        """
        check_batch(batch, "ImageBatch")
        targets, weights = self.targets_for_loss(batch["targets"]), batch.get("weights")
        extra: Tensor | None = None
        if self.training and self.trains_on_features:
            outputs, targets, weights, extra = self.through_features(self.normalise(batch["images"]), targets, weights)
        else:
            outputs = self(batch["images"])
        self._check_outputs(outputs, targets)
        try:
            loss = self._call_loss(self.outputs_for_loss(outputs), targets, weights)
        except (IndexError, RuntimeError) as error:  # looking at the labels of each batch would wait for the device
            self._check_labels(targets)
            raise error
        if not isinstance(loss, Tensor) or loss.dim():
            found = f"a loss of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise UserError(
                f"{type(self.loss).__name__} gives {found} instead of one number: return their mean, or set "
                f"its reduction to 'mean'"
            )
        return outputs[: len(batch["images"])], loss if extra is None else loss + extra

    def _call_loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        if self.loss is None:
            raise UserError("the loss is made when the task meets its data: fit it, or call task.configure_model()")
        loss: Tensor
        if weights is None:
            loss = self.loss(outputs, targets)
        elif "sample_weight" in inspect.signature(self.loss.forward).parameters:
            loss = self.loss(outputs, targets, sample_weight=weights)
        else:
            raise UserError(
                f"the data has sample weights, and {type(self.loss).__name__}.forward takes no sample_weight: "
                f"add that argument, or take another loss"
            )
        return loss

    def _check_outputs(self, outputs: Tensor, samples: Tensor) -> None:
        """One sentence instead of an index error on the device; shapes are known without waiting for it."""
        if self.info is None:
            return
        wanted = (len(samples), self.info.num_outputs)
        if tuple(outputs.shape) != wanted:
            raise UserError(
                f"{type(self.model).__name__} gives outputs of shape {tuple(outputs.shape)} where the data needs "
                f"{wanted} (images, {'numbers' if self.info.task == 'regression' else 'classes'}): change its last "
                f"layer, or give it a method bind(info) that does so"
            )

    def _check_labels(self, targets: Tensor) -> None:
        """One sentence where a loss did not find its class; a GPU says nothing of the labels after that."""
        if self.info is None or targets.is_cuda or targets.is_floating_point() or not targets.numel():
            return
        kept = targets[targets != getattr(self.loss, "ignore_index", -100)]
        outside = kept[(kept < 0) | (kept >= self.info.num_classes)]
        if len(outside):
            raise UserError(
                f"a batch has the label {int(outside[0])}, and the {self.info.num_classes} classes are numbered from 0 "
                f"to {self.info.num_classes - 1}: number the labels so, or name all classes in DataInfo"
            )

    def training_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """One step; logs ``train/loss``, without the auxiliary loss, so that it compares with ``val/loss``."""
        outputs, loss = self.step(batch)
        shown = self.log_auxiliary(loss.detach(), len(outputs))
        self.log_each_step("train/loss", self.train_loss, shown, len(outputs))
        self.log_training(outputs.detach(), batch)
        return {"loss": loss}

    def log_training(self, outputs: Tensor, batch: ImageBatch) -> None:
        """Log more of a training step; must not wait for the device."""

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> ImageOutput:
        """Loss and outputs of one validation batch."""
        return self._evaluate(batch, self.val_loss, self.val_metrics)

    def test_step(self, batch: ImageBatch, batch_idx: int) -> ImageOutput:
        """Loss and outputs of one test batch."""
        return self._evaluate(batch, self.test_loss, self.test_metrics)

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """float32 probabilities [B, C], or values [B, T] in the data's own units."""
        check_batch(batch, "ImageBatch")
        return self.predictions(self(batch["images"]))

    # ---- evaluation -----------------------------------------------------------------------------------------------

    def _evaluate(self, batch: ImageBatch, mean_loss: MeanMetric, metrics: MetricCollection) -> ImageOutput:
        outputs, loss = self.step(batch)
        mean_loss.update(loss.expand(len(outputs)))  # each image counts: MeanMetric without its NaN check drops weights
        found = self.predictions(outputs)
        metrics.update(found, self.targets_for_metrics(batch["targets"]))
        return {"loss": loss, "outputs": found}

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation split."""
        self._log_metrics("val", self.val_loss, self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test split."""
        self._log_metrics("test", self.test_loss, self.test_metrics)

    def _log_metrics(self, stage: str, mean_loss: MeanMetric, metrics: MetricCollection) -> None:
        values = {"loss": mean_loss.compute()} | metrics.compute()
        mean_loss.reset()
        metrics.reset()
        # every rank has computed the same numbers: nothing to reduce
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, rank_zero_only=False)
