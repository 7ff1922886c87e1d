"""An epoch's order, shared out to ranks, that can start in mid-epoch: what the samplers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from dlrecipes.functional.words import counted

__all__ = ["ShardedSampler"]


class ShardedSampler(DistributedSampler[int], ABC):
    """Base of the samplers: yields the indices of one rank out of ``order(epoch)``, a pure function of the epoch.

    Position p of the order goes to rank ``p % world_size``, or block p, where ``block`` positions stay together. Ranks
    get equally many, no position goes to two of them, and together they see the same samples whatever their number; but
    to come out even, the first positions (fewer than ``world_size`` blocks) are repeated at the end.

    It is a ``DistributedSampler``, so that Lightning uses it as it is, and calls ``set_epoch``: any other sampler is
    wrapped, and each rank would draw from a list of its own. In a loop of one's own, call ``set_epoch`` before each
    epoch.

    Args:
        epoch_size: positions of an epoch, over all ranks.
        seed: of all that is random.
        rank, world_size: this process among all; None: what ``torch.distributed`` says once samples are asked for, so
            that a sampler may be made before the processes find each other.
        block: positions that stay together, of which ``epoch_size`` is a multiple.

    Attributes:
        num_items: samples in the data set; set by subclasses.

    Raises:
        ValueError: an ``epoch_size`` below 1, a negative seed, a rank outside ``range(world_size)`` or without it.
    """

    num_items: int

    def __init__(
        self, epoch_size: int, *, seed: int = 0, rank: int | None = None, world_size: int | None = None, block: int = 1
    ) -> None:
        if epoch_size < 1:
            raise ValueError(f"epoch_size={epoch_size}: at least 1 is needed")
        if seed < 0:
            raise ValueError(f"seed={seed}: not below 0")
        if (rank is None) != (world_size is None):
            raise ValueError(f"rank={rank} and world_size={world_size}: give both or neither")
        if rank is not None and world_size is not None and not 0 <= rank < world_size:
            raise ValueError(f"rank={rank}: of {counted(world_size, 'process', 'processes')}, 0 to {world_size - 1}")
        positions: Any = range(epoch_size)  # all that the sampler asks of a data set is its length
        super().__init__(positions, num_replicas=world_size or 1, rank=rank or 0, seed=seed)
        self.epoch_size = epoch_size
        self.block = block
        self._follows_group = rank is None
        self._skip = 0

    @abstractmethod
    def order(self, epoch: int) -> NDArray[np.int64]:
        """Index of the sample at each position of an epoch, int64 [epoch_size]."""

    def positions(self, epoch: int, world_size: int) -> NDArray[np.int64]:
        """The order as ranks see it: those of rank r are ``[r::world_size]``; of equal length for all of them."""
        order = np.resize(self.order(epoch), self.rank_size(world_size) * world_size)
        return order.reshape(-1, world_size, self.block).swapaxes(1, 2).ravel()

    def rank_size(self, world_size: int) -> int:
        """Samples of each of so many ranks in an epoch."""
        return -(-self.epoch_size // (self.block * world_size)) * self.block

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch. A new epoch starts at its first sample."""
        if epoch != self.epoch:
            self._skip = 0
        self.epoch = epoch

    def skip(self, count: int) -> None:
        """Leave out the first ``count`` samples of this rank in the next pass, if the epoch is still the same then.

        To go on in mid-epoch: ``set_epoch(epoch)``, then ``skip(batches * batch_size)``.
        """
        if count < 0:
            raise ValueError(f"count={count}: not below 0")
        self._skip = count

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch, whatever is skipped."""
        self._find_place()
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        self._find_place()
        start, self._skip = self._skip, 0
        return map(int, self.positions(self.epoch, self.num_replicas)[self.rank :: self.num_replicas][start:])

    def _find_place(self) -> None:
        if self._follows_group and dist.is_available() and dist.is_initialized():
            self.rank, self.num_replicas = dist.get_rank(), dist.get_world_size()
        self.num_samples = self.rank_size(self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas
