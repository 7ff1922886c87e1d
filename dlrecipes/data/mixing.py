"""Mixup and CutMix on the device, with soft targets."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.stats import beta
from torch import Tensor
from torch.nn import functional as F

from dlrecipes.contracts import ImageBatch
from dlrecipes.data.device_ops import inside, rectangle
from dlrecipes.data.stateless_random import uniform

__all__ = ["MIXES", "MixSamples"]

MIXES = ("none", "mixup", "cutmix", "both")

_ALPHAS = {"mixup": 0.2, "cutmix": 1.0}  # of the papers, on ImageNet
_QUANTILES = 1024
_SEED_OFFSET = 0x6D697821  # so that mixing and augmentation draw other numbers from one seed


class MixSamples:
    """Mix each picture of a batch, and its target, with the one before it.

    With λ ~ Beta(α, α), drawn for each sample:

    - mixup (Zhang et al. 2018): x = λ x₁ + (1 − λ) x₂;
    - CutMix (Yun et al. 2019): a rectangle of 1 − λ of the area is taken from x₂, and λ becomes the part that is really
      left of x₁. The rectangle lies inside the picture, so that λ keeps its distribution.

    Targets are λ t₁ + (1 − λ) t₂, and so are sample weights. λ, the rectangle and the choice between the two are
    functions of (seed, epoch, draw); the partner depends on the batch.

    Args:
        mix: ``"mixup"``, ``"cutmix"``, or ``"both"`` (one of them for each sample, equally likely).
        num_classes: labels become rows of that width; None: targets are rows already (several labels, numbers).
        alpha: of the Beta distribution; None: 0.2 for mixup and 1 for CutMix.
        probability: of mixing a sample at all.
        seed: of the run.

    Raises:
        ValueError: for a value outside these.

    Example:
        >>> batch = {"images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "targets": torch.tensor([0, 2]),
        ...          "weights": None, "index": torch.tensor([0, 1]), "epoch": 0, "paths": ["a", "b"]}
        >>> mixed = MixSamples("both", num_classes=3)(batch)
        >>> mixed["images"].dtype, mixed["targets"].shape, mixed["targets"].sum(1).tolist()
        (torch.float32, torch.Size([2, 3]), [1.0, 1.0])
    """

    def __init__(
        self,
        mix: str,
        *,
        num_classes: int | None = None,
        alpha: float | None = None,
        probability: float = 1.0,
        seed: int = 0,
    ) -> None:
        if mix not in MIXES[1:]:
            raise ValueError(f"mix must be one of {', '.join(MIXES[1:])}, got {mix!r}")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if alpha is not None and not alpha > 0.0:
            raise ValueError(f"alpha must be greater than 0, got {alpha}")
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"probability must be in 0..1, got {probability}")
        self.mix = mix
        self.num_classes = num_classes
        self.alpha = alpha
        self.probability = probability
        self.seed = seed

    def __call__(self, batch: ImageBatch) -> ImageBatch:
        """The mixed batch: images float32 [B, 3, S, S] in 0..255, targets float32 [B, C]."""
        images, targets = batch["images"].float(), batch["targets"]
        if self.num_classes is not None and targets.ndim == 1:
            targets = F.one_hot(targets, self.num_classes)
        targets = targets.float()
        if len(images) > 0:
            u = uniform(self.seed + _SEED_OFFSET, batch["epoch"], batch.get("draw", batch["index"]), 5)
            images, share = self._mixed(images, u)
            targets = torch.lerp(targets.roll(1, 0), targets, share[:, None])
            weights = batch["weights"]
            if weights is not None:
                weights = torch.lerp(weights.roll(1, 0), weights, share)
                batch = {**batch, "weights": weights}
        return {**batch, "images": images, "targets": targets}

    def _mixed(self, images: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed images, and how much of each is its own, float32 [B]."""
        other = images.roll(1, 0)
        mixed = u[:, 0] < self.probability
        cut = mixed & (u[:, 1] < {"mixup": 0.0, "cutmix": 1.0, "both": 0.5}[self.mix])
        share = torch.ones_like(u[:, 2])
        if self.mix != "cutmix":
            blend = torch.where(mixed & ~cut, self._quantile("mixup", u[:, 2]), 1.0)
            images = torch.lerp(other, images, blend[:, None, None, None])
            share = blend
        if self.mix != "mixup":
            size = (images.shape[-2], images.shape[-1])
            area = torch.where(cut, 1.0 - self._quantile("cutmix", u[:, 2]), 0.0)
            boxes = rectangle(area, torch.ones_like(area), u[:, 3], u[:, 4], size)
            images = torch.where(inside(boxes, size), other, images)
            share = torch.where(cut, 1.0 - boxes[:, 2:].prod(1) / (size[0] * size[1]), share)
        return images, share

    def _quantile(self, kind: str, u: Tensor) -> Tensor:
        """λ of a uniform number, from a table: rejection sampling would wait for the device."""
        alpha = _ALPHAS[kind] if self.alpha is None else self.alpha
        if alpha == 1.0:
            return u
        table = _table(alpha, u.device)
        place = u * _QUANTILES
        low = place.long()
        return torch.lerp(table[low], table[low + 1], place - low)


@lru_cache
def _table(alpha: float, device: torch.device) -> Tensor:
    quantiles = beta(alpha, alpha).ppf(np.linspace(0.0, 1.0, _QUANTILES + 1))
    return torch.tensor(quantiles, dtype=torch.float32, device=device)
