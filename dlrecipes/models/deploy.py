"""A trained network as others run it: uint8 images in, answers out, nothing to know about normalisation or logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.functional.links import class_probabilities

__all__ = ["DeployedDetector", "DeployedModel", "deploy"]


class _Deployed(nn.Module):
    """What both have: the network and the normalisation of images."""

    input_names = ("images",)
    output_names: tuple[str, ...] = ()

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, info: DataInfo) -> None:
        super().__init__()
        self.model = model
        self.info = info
        mean, std = getattr(model, "normalisation", None) or (info.mean, info.std)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] → float32, (x / 255 − mean) / std."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def describe(self) -> dict[str, str]:
        """What each output is."""
        raise NotImplementedError


class DeployedModel(_Deployed):
    """Classifier, multi-label classifier or regressor: uint8 [B, 3, S, S] → float32 [B, C] or [B, T].

    Args:
        model: normalised images → outputs [B, ``info.num_outputs``].
        info: of the data that it was trained on.
        answer: outputs → answers, such as a task's ``predictions``. Default: by ``info.link`` (classification), sigmoid
            (multilabel), the first of each target's numbers in the data's own units (regression).

    Example:
        >>> info = DataInfo(task="classification", classes=("cat", "dog"), category_ids=(0, 1), class_counts=(1, 1),
        ...                 num_train=2, max_objects=0, image_size=8)
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        >>> probabilities = DeployedModel(network, info)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
        >>> tuple(probabilities.shape), round(probabilities.sum().item(), 5)
        ((1, 2), 1.0)
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(self, model: nn.Module, info: DataInfo, *, answer: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__(model, info)
        self.answer = self._default_answer if answer is None else answer
        self.output_names = ("values",) if info.task == "regression" else ("probabilities",)
        count = len(info.target_names)
        self.register_buffer("target_mean", torch.tensor(info.target_mean or (0.0,) * count), persistent=False)
        spread = torch.tensor(info.target_std or (1.0,) * count)
        self.register_buffer("target_std", spread.where(spread > 0, 1.0), persistent=False)

    def _default_answer(self, outputs: Tensor) -> Tensor:
        if self.info.task == "classification":
            return class_probabilities(outputs, self.info.link)
        if self.info.task == "multilabel":
            return outputs.sigmoid()
        # not len(outputs), which an export takes for a constant
        values = outputs.reshape(outputs.shape[0], -1, self.info.outputs_per_target)[..., 0]
        return values * self.target_std + self.target_mean

    def describe(self) -> dict[str, str]:
        """What the output is."""
        if self.info.task == "regression":
            return {"values": f"float32 [batch, {len(self.info.target_names)}]: target_names, in the data's own units"}
        kind = "they sum to 1" if self.info.task == "classification" else "of each class on its own"
        return {"probabilities": f"float32 [batch, {self.info.num_classes}]: of classes, in 0..1, {kind}"}

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S], RGB → float32 [B, C] probabilities or [B, T] values."""
        return self.answer(self.model(self.normalise(images)).float())


class DeployedDetector(_Deployed):
    """Detector: uint8 [B, 3, H, W] → ``scores`` [B, k], ``labels`` [B, k] and ``boxes`` [B, k, 4], best first.

    Args:
        model: normalised images → outputs, with ``detections(outputs)`` as ``DETR`` has.
        info: of the data that it was trained on.

    Raises:
        UserError: the model has no ``detections``.
    """

    output_names = ("scores", "labels", "boxes")

    def __init__(self, model: nn.Module, info: DataInfo) -> None:
        super().__init__(model, info)
        if not callable(getattr(model, "detections", None)):
            raise UserError(
                f"{type(model).__name__} has no detections(outputs) → scores, labels and boxes as tensors: add it, as "
                "dlrecipes.models.DETR has it"
            )

    def describe(self) -> dict[str, str]:
        """What each output is."""
        return {
            "scores": "float32 [batch, detections]: in 0..1, best first",
            "labels": "int64 [batch, detections]: positions in classes",
            "boxes": "float32 [batch, detections, 4]: left, top, right, bottom as shares of the image, in 0..1",
        }

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 [B, 3, H, W], RGB, without padding → scores, labels and boxes."""
        model: Any = self.model
        found: tuple[Tensor, Tensor, Tensor] = model.detections(model(self.normalise(images)))
        return found


def deploy(
    model: nn.Module, info: DataInfo, *, answer: Callable[[Tensor], Tensor] | None = None
) -> DeployedDetector | DeployedModel:
    """The wrapper that fits ``info.task``.

    Args:
        model: the trained network.
        info: of the data that it was trained on.
        answer: of ``DeployedModel``.
    """
    return DeployedDetector(model, info) if info.task == "detection" else DeployedModel(model, info, answer=answer)
