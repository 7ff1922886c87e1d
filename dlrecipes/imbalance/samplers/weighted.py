"""Samples drawn as often as their weights say, such as the density ratios that make old data stand for new data."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from dlrecipes.imbalance.samplers.order import fixed_sum_counts, generator
from dlrecipes.imbalance.samplers.sharding import ShardedSampler

__all__ = ["WeightedDistributedSampler"]

_COUNTS, _ORDER = 0x77656967, 0x776F7264


class WeightedDistributedSampler(ShardedSampler):
    r"""Draws each sample in proportion to its weight: importance sampling in the place of a weighted loss.

    .. math:: E[\text{times that i comes in an epoch}] = E\, w_i / \sum_j w_j

    with E samples in an epoch. An epoch takes the floor or the ceiling of that, in random order. The sum of losses is
    what weights in the loss give on average, with less noise than the independent draws of ``WeightedRandomSampler``.
    Sharing out to ranks, epochs and going on in mid-epoch: see `ShardedSampler`.

    When to use: weights of `dlrecipes.shift.importance_weights` that differ so much that most samples of a batch would
    hardly count. Leave the weights out of the loss then: they would count twice. Samples of large weight come several
    times an epoch, so augment them; where few carry all the weight, they are learned by heart.

    Args:
        weights: float [N], finite and not below 0: a sequence, an array or a tensor. Their scale does not matter.
        epoch_size: E, over all ranks; None: N.
        seed, rank, world_size: as in `ShardedSampler`.

    Raises:
        ValueError: weights that are not one number a sample, negative, not finite or all 0.

    Example:
        >>> sampler = WeightedDistributedSampler([0.0, 1.0, 3.0], epoch_size=8)
        >>> np.bincount(list(sampler)).tolist()
        [0, 2, 6]
    """

    def __init__(
        self,
        weights: ArrayLike | torch.Tensor,
        *,
        epoch_size: int | None = None,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        given = weights.detach().cpu() if isinstance(weights, torch.Tensor) else weights
        found: NDArray[np.float64] = np.asarray(given, dtype=np.float64)
        if found.ndim != 1 or not len(found):
            raise ValueError(f"weights has shape {found.shape}: one number for each sample is needed")
        wrong = ~(np.isfinite(found) & (found >= 0))
        if wrong.any():
            raise ValueError(f"weights has {found[wrong][0]:g} at {int(wrong.argmax())}: finite and not below 0")
        if not found.any():
            raise ValueError("weights are all 0: there is nothing to draw")
        super().__init__(len(found) if epoch_size is None else epoch_size, seed=seed, rank=rank, world_size=world_size)
        self.weights = found
        self.num_items = len(found)

    def draws(self, epoch: int) -> NDArray[np.int64]:
        """How often an epoch takes each sample, int64 [N]."""
        return fixed_sum_counts(self.weights, self.epoch_size, generator(self.seed, _COUNTS, epoch))

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Index of the sample at each position of an epoch, int64 [epoch_size]."""
        samples = np.repeat(np.arange(self.num_items), self.draws(epoch))
        return generator(self.seed, _ORDER, epoch).permutation(samples)
