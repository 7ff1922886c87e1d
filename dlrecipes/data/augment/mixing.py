"""Mixup, CutMix and Remix on the device, with soft targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.stats import beta
from torch import Tensor
from torch.nn import functional as F

from dlrecipes.contracts import DataInfo, ImageBatch
from dlrecipes.data.augment.device_ops import inside, rectangle
from dlrecipes.data.augment.stateless_random import uniform
from dlrecipes.errors import UserError

__all__ = ["MIXES", "MixSamples", "remix_share"]

MIXES = ("none", "mixup", "cutmix", "both", "remix")

_ALPHAS = {"mixup": 0.2, "cutmix": 1.0, "remix": 1.0}  # of the papers, the first two on ImageNet
_QUANTILES = 1024
_SEED_OFFSET = 0x6D697821  # so that mixing and augmentation draw other numbers from one seed


def remix_share(share: Tensor, own: Tensor, other: Tensor, *, kappa: float = 3.0, tau: float = 0.5) -> Tensor:
    r"""How much of a mixed picture's label is its own, by Remix (Chou et al., 2020, arXiv:2007.03943).

    With λ the part of the picture that is its own, and n₁, n₂ the training samples of its class and of its partner's:

    .. math::
        λ_y = 0 \text{ if } n_1 \ge κ\, n_2 \text{ and } λ < τ, \qquad
        λ_y = 1 \text{ if } κ\, n_1 \le n_2 \text{ and } 1 - λ < τ, \qquad
        λ_y = λ \text{ otherwise}

    A mixture of a frequent and a rare class is labelled as the rare one alone where it shows enough of that, so that
    the border moves towards the frequent class. (Code in circulation takes one λ for the batch and multiplies a loss
    that has been averaged already by each sample's λ_y, which does not give any sample its own label.)

    Args:
        share: λ in 0..1, float [B].
        own, other: n₁ and n₂, [B].
        kappa: κ > 1, how many times as frequent a class must be; the paper's 3.
        tau: τ in 0..1, the paper's .5; 0 is mixup.

    Returns:
        λ_y, float [B].

    Example:
        >>> share, ten = torch.tensor([0.4, 0.6, 0.4]), torch.tensor([10, 10, 10])
        >>> remix_share(share, ten * 3, ten).tolist() == [0.0, share[1].item(), 0.0]
        True
        >>> remix_share(share, ten, ten * 3).tolist() == [share[0].item(), 1.0, share[2].item()]
        True
    """
    given = torch.where((own >= kappa * other) & (share < tau), torch.zeros_like(share), share)
    return torch.where((kappa * own <= other) & (1.0 - share < tau), torch.ones_like(share), given)


class MixSamples:
    """Mix each picture of a batch, and its target, with the one before it.

    With λ ~ Beta(α, α), drawn for each sample:

    - mixup (Zhang et al. 2018): x = λ x₁ + (1 − λ) x₂;
    - CutMix (Yun et al. 2019): a rectangle of 1 − λ of the area is taken from x₂, and λ becomes the part that is really
      left of x₁. The rectangle lies inside the picture, so that λ keeps its distribution;
    - Remix (Chou et al. 2020): pictures as mixup does, labels by `remix_share`. With balanced classes it is mixup.

    Targets are λ t₁ + (1 − λ) t₂, and so are sample weights. λ, the rectangle and the choice between the two are
    functions of (seed, epoch, draw); the partner depends on the batch.

    Args:
        mix: ``"mixup"``, ``"cutmix"``, ``"both"`` (one of the two for each sample, equally likely), or ``"remix"``, for
            rare classes among frequent ones with one label an image; not together with what balances them otherwise.
        num_classes: labels become rows of that width; None: targets are rows already (several labels, numbers).
        alpha: of the Beta distribution; None: 0.2 for mixup, 1 for CutMix and Remix.
        probability: of mixing a sample at all.
        seed: of the run.
        class_counts: training samples of each class, for Remix; None: ``bind`` brings them.
        kappa, tau: of Remix, see `remix_share`.

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
        class_counts: Sequence[int] | None = None,
        kappa: float = 3.0,
        tau: float = 0.5,
    ) -> None:
        if mix not in MIXES[1:]:
            raise ValueError(f"mix must be one of {', '.join(MIXES[1:])}, got {mix!r}")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if alpha is not None and not alpha > 0.0:
            raise ValueError(f"alpha must be greater than 0, got {alpha}")
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"probability must be in 0..1, got {probability}")
        if not kappa > 1.0:
            raise ValueError(f"kappa must be greater than 1, got {kappa}")
        if not 0.0 <= tau <= 1.0:
            raise ValueError(f"tau must be in 0..1, got {tau}")
        if mix == "remix" and num_classes is None:
            raise ValueError("mix='remix' chooses between two labels: give num_classes, of one label an image")
        self.mix = mix
        self.num_classes = num_classes
        self.alpha = alpha
        self.probability = probability
        self.seed = seed
        self.class_counts = None if class_counts is None else tuple(class_counts)
        self.kappa = kappa
        self.tau = tau

    def bind(self, info: DataInfo) -> None:
        """Learn how often each class occurs, unless that was given."""
        if self.class_counts is None:
            self.class_counts = tuple(info.class_counts)

    def __call__(self, batch: ImageBatch) -> ImageBatch:
        """The mixed batch: images float32 [B, 3, S, S] in 0..255, targets float32 [B, C].

        Raises:
            UserError: Remix without the classes' counts.
        """
        images, targets = batch["images"].float(), batch["targets"]
        labels = targets
        if self.num_classes is not None and targets.ndim == 1:
            targets = F.one_hot(targets, self.num_classes)
        targets = targets.float()
        if len(images) > 0:
            u = uniform(self.seed + _SEED_OFFSET, batch["epoch"], batch.get("draw", batch["index"]), 5)
            images, share = self._mixed(images, u)
            if self.mix == "remix":
                share = self._relabelled(share, labels)
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
        cut = mixed & (u[:, 1] < {"cutmix": 1.0, "both": 0.5}.get(self.mix, 0.0))
        share = torch.ones_like(u[:, 2])
        if self.mix != "cutmix":
            blend = torch.where(mixed & ~cut, self._quantile("remix" if self.mix == "remix" else "mixup", u[:, 2]), 1.0)
            images = torch.lerp(other, images, blend[:, None, None, None])
            share = blend
        if self.mix in ("cutmix", "both"):
            size = (images.shape[-2], images.shape[-1])
            area = torch.where(cut, 1.0 - self._quantile("cutmix", u[:, 2]), 0.0)
            boxes = rectangle(area, torch.ones_like(area), u[:, 3], u[:, 4], size)
            images = torch.where(inside(boxes, size), other, images)
            share = torch.where(cut, 1.0 - boxes[:, 2:].prod(1) / (size[0] * size[1]), share)
        return images, share

    def _relabelled(self, share: Tensor, labels: Tensor) -> Tensor:
        """How much of each label is its own, float32 [B], where ``share`` of the picture is."""
        if self.class_counts is None:
            raise UserError("Remix must see the training data first: call bind(info), or give class_counts.")
        own = _counts(self.class_counts, share.device)[labels]
        return remix_share(share, own, own.roll(1, 0), kappa=self.kappa, tau=self.tau)

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


@lru_cache
def _counts(class_counts: tuple[int, ...], device: torch.device) -> Tensor:
    """On the device, copied there once."""
    return torch.tensor(class_counts, dtype=torch.float32, device=device)
