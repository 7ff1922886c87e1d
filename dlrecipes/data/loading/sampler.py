"""Which sample comes when: a pure function of (seed, epoch), shared out to ranks, that can start in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

__all__ = ["EpochSampler", "sample_seed"]


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Seed of everything random in one sample: 64 well-mixed bits of (seed, epoch, index).

    Example:
        >>> sample_seed(0, 1, 2) == sample_seed(0, 1, 2) != sample_seed(0, 2, 1)
        True
    """
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)[0])


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields ``(epoch, index)`` for one rank.

    Position ``p`` of the epoch's order goes to rank ``p % world_size``, so step ``b`` of all ranks together holds
    positions ``[b·W·B, (b+1)·W·B)``: two ranks of batch 4 see in each step what one rank of batch 8 sees.

    - ``shuffle=True`` (training): the order is a permutation drawn from (seed, epoch). If ``size`` is not a multiple of
      the world size, the order's first images are repeated at its end (fewer than ``world_size``), so that all ranks
      have equally many batches; no image is left out.
    - ``shuffle=False`` (evaluation): file order, nothing repeated, so ranks may differ by one sample; the epoch is
      always 0.

    Args:
        size: number of samples in the data set.
        shuffle: see above.
        seed: of the permutation.
        rank, world_size: this process among all.

    Raises:
        ValueError: a negative size or a rank outside ``range(world_size)``.

    Example:
        >>> [index for _, index in EpochSampler(5, shuffle=False, rank=1, world_size=2)]
        [1, 3]
    """

    def __init__(self, size: int, *, shuffle: bool, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if size < 0:
            raise ValueError(f"size must not be negative, got {size}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}")
        self.size = size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch. A new epoch starts at its first sample."""
        if epoch != self.epoch:
            self._skip = 0
        self.epoch = epoch

    def skip(self, count: int) -> None:
        """Leave out the first ``count`` samples of this rank in the next pass, if the epoch is still the same then."""
        if count < 0:
            raise ValueError(f"count must not be negative, got {count}")
        self._skip = count

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch, whatever is skipped."""
        padding = self.world_size - 1 if self.shuffle else self.world_size - 1 - self.rank
        return (self.size + padding) // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, start = self.epoch if self.shuffle else 0, self._skip
        self._skip = 0
        indices = self._order(epoch)[self.rank :: self.world_size][: len(self)]
        return iter([(epoch, index) for index in indices[start:].tolist()])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.size, dtype=np.int64)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.size).astype(np.int64)
        total = len(self) * self.world_size
        return np.resize(order, total) if self.size else order
