"""Other statistics for the batch norms of a network that is being tested or used, and the old ones back afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.shift.adapt import adapt_bn, batch_norms, mean_entropy

__all__ = ["LentStatistics", "adapted_statistics"]

_COUNTS_AS = 16.0  # images that the statistics of training count as


class LentStatistics:
    """Running means and variances put into a network until ``put_back``.

    Args:
        network: with batch norms.
        values: as `adapted_statistics` gives them.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> lent = LentStatistics(norm, [torch.tensor([3.0]), torch.tensor([4.0])])
        >>> while_lent = norm.running_mean.item()
        >>> lent.put_back()
        >>> while_lent, norm.running_mean.item()
        (3.0, 0.0)
    """

    def __init__(self, network: nn.Module, values: Sequence[Tensor]) -> None:
        self._own = [(tensor, tensor.detach().clone()) for tensor in _statistics(network)]
        with torch.no_grad():
            for (tensor, _), value in zip(self._own, values, strict=True):
                tensor.copy_(value)

    @torch.no_grad()
    def put_back(self) -> None:
        """The network's own."""
        for tensor, value in self._own:
            tensor.copy_(value)


@torch.no_grad()
def adapted_statistics(
    batches: Iterable[Any], pl_module: pl.LightningModule, network: nn.Module
) -> tuple[str, list[Tensor]]:
    """What to say, and the statistics for these images; none where they would not help.

    They help if the network is surer of the images with them: if `dlrecipes.shift.mean_entropy` falls.

    Args:
        batches: from `ready_batches`.
        pl_module: whose ``normalise``, if it has that, makes of images what the network takes.
        network: is left as it is.
    """
    normalise = getattr(pl_module, "normalise", None)
    images = [normalise(batch["images"]) if callable(normalise) else batch["images"] for batch in batches]
    try:
        adapted = adapt_bn(network, images, source_samples=_COUNTS_AS)
    except UserError as error:
        return f"Nothing was adapted: {error}.", []
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    link = getattr(getattr(pl_module, "info", None), "link", "softmax")
    before, after = (mean_entropy(torch.cat([model(part) for part in images]), link) for model in (network, adapted))
    for module, training in modes:
        module.training = training
    count = sum(map(len, images))
    if not after < before:
        return f"Nothing was adapted: the network would be less sure of the images ({before:.3g} → {after:.3g}).", []
    sentence = (
        f"For them the batch norms have the statistics of {count} of these images, and mean entropy falls from "
        f"{before:.3g} to {after:.3g}: results are those of the adapted network, which no checkpoint holds."
    )
    return sentence, [tensor.cpu() for tensor in _statistics(adapted)]


def _statistics(network: nn.Module) -> list[Tensor]:
    pairs = [(norm.running_mean, norm.running_var) for norm in batch_norms(network).values()]
    return [tensor for pair in pairs for tensor in pair if tensor is not None]
