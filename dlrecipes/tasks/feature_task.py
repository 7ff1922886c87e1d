"""A task that may train on features: what it keeps, when it is bound, compiled, saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import CheckpointError, UserError
from dlrecipes.parts import build_part
from dlrecipes.tasks.base import BaseTask
from dlrecipes.tasks.compiling import CompiledNetwork
from dlrecipes.tasks.feature_space import (
    FeatureBody,
    check_split,
    check_width,
    classify,
    features_of,
    has_split,
    loss_of_embeddings,
    projection_head,
    run_part,
)

__all__ = ["FeatureSpaceTask"]

_PART_EPOCH = "feature_part_epoch"  # in a checkpoint
_AUXILIARY = ("auxiliary_loss", "auxiliary_miner", "projection", "projection_dim")
_TRAINING_ONLY = ("feature_part", "auxiliary_loss", "auxiliary_miner", "projection", "projection_head")


class FeatureSpaceTask(BaseTask):
    """A task that may train on features. ``ImageTask`` says what its arguments are; see there."""

    def keep_feature_parts(
        self,
        feature_part: nn.Module | None,
        auxiliary_loss: nn.Module | None,
        auxiliary_weight: float,
        auxiliary_miner: nn.Module | None,
        projection: nn.Module | None,
        projection_dim: int | None,
    ) -> None:
        """Check the arguments and keep them.

        Raises:
            ValueError: a weight below 0, both projections, or what does nothing without an auxiliary loss.
        """
        if not 0 <= auxiliary_weight < math.inf:
            raise ValueError(f"auxiliary_weight={auxiliary_weight}: a finite number, not below 0, is needed")
        if projection_dim is not None and (projection is not None or projection_dim < 1):
            raise ValueError(f"projection_dim={projection_dim}: at least 1, and not together with projection")
        for name, value in (
            ("auxiliary_miner", auxiliary_miner),
            ("projection", projection),
            ("projection_dim", projection_dim),
        ):
            if value is not None and auxiliary_loss is None:
                raise ValueError(f"{name} does nothing without auxiliary_loss: give both")
        self.feature_part = feature_part
        self.auxiliary_loss, self.auxiliary_weight = auxiliary_loss, auxiliary_weight
        self.auxiliary_miner = auxiliary_miner
        self.projection, self.projection_dim = projection, projection_dim
        self.train_auxiliary_loss = MeanMetric(nan_strategy="disable")
        self.projection_head: nn.Module | None = None  # made when the length of features is known
        self._compiled_features: CompiledNetwork | None = None
        self._lost: tuple[str, ...] | None = None  # arguments that a checkpoint cannot bring back
        self._part_epoch: int | None = None  # the epoch of the features that the part has seen last
        self._auxiliary: Tensor | None = None  # the auxiliary loss of the step under way, without its weight

    @property
    def trains_on_features(self) -> bool:
        """Whether features are asked for in training."""
        return self.feature_part is not None or self.auxiliary_loss is not None

    def bind_features(self, info: DataInfo) -> None:
        """Where features are asked for, make the projection; the model has met the data already.

        Raises:
            UserError: a model without features, or parts that are made for features of another length.
        """
        if not self.trains_on_features:
            return
        width = check_split(self.model, info)
        check_width("feature_part", self.feature_part, width)
        if self.projection_dim is not None and self.projection_head is None:
            self.projection_head = projection_head(width, self.projection_dim).to(next(self.model.parameters()))
        if self.projection is None:
            check_width("auxiliary_loss", self.auxiliary_loss, self.projection_dim or width)

    def through_features(
        self, images: Tensor, targets: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """A training batch through body, feature part and classifier.

        Args:
            images: float [B, 3, S, S], normalised.
            targets: as the loss wants them.
            weights: float [B] or None.

        Returns:
            Outputs, targets and weights of the batch's samples and of those that the part has added, and the auxiliary
            loss, weighted.

        Raises:
            UserError: mixed labels with an auxiliary loss.
        """
        run = self._compiled_features
        features = features_of(self.model, images) if run is None else run(images)
        extra = None
        if self.auxiliary_loss is not None:
            if self.info is not None and self.info.task == "classification" and targets.dim() == 2:
                raise UserError(
                    f"{type(self.auxiliary_loss).__name__}, the auxiliary loss, needs one label an image, and the "
                    f"batch's are mixed: set --data.mix none"
                )
            project = self.projection_head if self.projection is None else self.projection
            embeddings = features if project is None else project(features)
            loss = loss_of_embeddings(
                self.auxiliary_loss, embeddings, targets, miner=self.auxiliary_miner, weights=weights
            )
            self._auxiliary = loss.detach()
            extra = self.auxiliary_weight * loss
        if self.feature_part is not None:
            self._end_epoch_of_part()
            features, targets, weights = run_part(self.feature_part, features, targets, weights)
        return classify(self.model, features), targets, weights, extra

    def _end_epoch_of_part(self) -> None:
        """At the first batch of the next epoch, and not at the end of one: a run that is resumed from a checkpoint of
        the last step would miss that."""
        end = getattr(self.feature_part, "end_epoch", None)
        if callable(end) and self._part_epoch not in (None, self.current_epoch):
            end()
        self._part_epoch = self.current_epoch

    def log_auxiliary(self, loss: Tensor, batch_size: int) -> Tensor:
        """Log ``train/auxiliary_loss``, without its weight, if the step had one; the loss without it."""
        found, self._auxiliary = self._auxiliary, None
        if found is None:
            return loss
        self.log_each_step("train/auxiliary_loss", self.train_auxiliary_loss, found, batch_size)
        return loss - self.auxiliary_weight * found

    def on_train_start(self) -> None:
        """Also compile ``model.features`` where the network would be compiled."""
        super().on_train_start()
        if not self.compiled or not self.trains_on_features:
            return
        if not has_split(self.model):
            self._say(f"{type(self.model).__name__} is not compiled, since its features are asked for by a hook.")
            return
        mode = "default" if self.compile_mode == "auto" else self.compile_mode
        self._compiled_features = CompiledNetwork(FeatureBody(self.model), mode)

    def on_train_end(self) -> None:
        """Let go of the compiled network."""
        super().on_train_end()
        self._compiled_features = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also note which epoch the feature part has gathered, and leave out what the file could not bring back: many
        losses of others do not keep their arguments, and a network predicts without them."""
        super().on_save_checkpoint(checkpoint)
        if self._part_epoch is not None:
            checkpoint[_PART_EPOCH] = self._part_epoch
        args = checkpoint["dlrecipes"]["task"]["init_args"]
        if self._lost is None:
            self._lost = _lost_parts(args)
        args |= dict.fromkeys(self._lost)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As always, but for weights of parts that are for training only and not there."""
        absent = tuple(f"{name}." for name in _TRAINING_ONLY if getattr(self, name) is None)
        kept = {name: value for name, value in state_dict.items() if not name.startswith(absent)}
        return super().load_state_dict(kept, strict=strict, assign=assign)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the feature part's epoch."""
        super().on_load_checkpoint(checkpoint)
        self._part_epoch = checkpoint.get(_PART_EPOCH)


def _lost_parts(args: Mapping[str, Any]) -> tuple[str, ...]:
    """Which of the auxiliary loss and what belongs to it cannot be made again from a checkpoint's record."""
    if not _comes_back(args.get("auxiliary_loss")):  # a task of one's own may have no such argument
        return _AUXILIARY
    return () if _comes_back(args.get("auxiliary_miner")) else ("auxiliary_miner",)


def _comes_back(spec: dict[str, Any] | None) -> bool:
    if spec is None:
        return True
    with torch.random.fork_rng(devices=[]):  # nothing that follows may depend on a checkpoint having been written
        try:
            build_part(spec)
        except (CheckpointError, KeyError, TypeError, ValueError):
            return False
    return True
