"""Nearest class mean: a classifier without training, on the features of a network."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.functional.prototypes import PrototypeMetric, class_means, prototype_logits

__all__ = ["NearestClassMean"]


class NearestClassMean(nn.Module):
    """The class whose mean feature is nearest (Kang et al., 2020, arXiv:1910.09217: NCM).

    Frequent and rare classes have one mean each, so the answer does not lean towards the frequent ones. When: a quick
    second stage on a trained network, or classes that are added later. With few samples a mean is noisy; a trained
    classifier (cRT, τ-normalisation) is usually better.

    Args:
        dim: D of the features.
        num_classes: C.
        metric: ``"euclidean"`` or ``"cosine"``: of unit vectors, their means too.
        temperature: T > 0, of the scores.

    Attributes:
        means: float32 [C, D]; counts: int64 [C]. Both are part of the state.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> ncm = NearestClassMean(1, 2)
        >>> ncm.update(torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([0, 0, 1]))
        >>> ncm(torch.tensor([[3.0], [7.0]])).argmax(1)
        tensor([0, 1])
    """

    means: Tensor
    counts: Tensor

    def __init__(
        self, dim: int, num_classes: int, *, metric: PrototypeMetric = "euclidean", temperature: float = 1.0
    ) -> None:
        super().__init__()
        prototype_logits(torch.zeros(0, 1), torch.zeros(1, 1), metric=metric, temperature=temperature)
        if dim < 1 or num_classes < 1:
            raise ValueError(f"dim={dim} and num_classes={num_classes}: 1 or more is needed")
        self.dim, self.num_classes, self.metric, self.temperature = dim, num_classes, metric, temperature
        self.register_buffer("means", torch.zeros(num_classes, dim))
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add samples: features [N, D], labels [N]; on several ranks, each one's own. Batches may come in any order.

        Raises:
            ValueError: shapes that do not fit.
        """
        features = features.to(self.means.dtype)
        if self.metric == "cosine":
            features = nn.functional.normalize(features, dim=-1)
        new, count = class_means(features, labels, self.num_classes)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            total = new * count[:, None]
            dist.all_reduce(total)
            dist.all_reduce(count)
            new = total / count.clamp(min=1)[:, None]
        self.counts += count
        self.means += (new - self.means) * (count / self.counts.clamp(min=1))[:, None]

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, D] → scores [B, C]; −inf for classes of which no sample was seen.

        Raises:
            UserError: features of another width.
        """
        if features.shape[-1] != self.dim:
            raise UserError(f"NearestClassMean(dim={self.dim}) was given features of width {features.shape[-1]}")
        scores = prototype_logits(features, self.means, metric=self.metric, temperature=self.temperature)
        return scores.masked_fill(self.counts == 0, -torch.inf)
