"""Means of an epoch's training steps, added up where they are computed and logged once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dlrecipes.ranks import gather_objects, world_size

__all__ = ["EpochMeans"]


class EpochMeans:
    """Weighted means by name, without a word to the Trainer or a wait for the device in a step.

    Lightning's ``log`` takes a millisecond or two each time that a large network has filled the processor's caches in
    between, for means that nobody sees before the epoch's end. What a step has may depend on its objects: ranks may
    hold different names.

    Example:
        >>> means = EpochMeans()
        >>> means.add({"train/accuracy": torch.tensor(0.5)}, 2)
        >>> means.add({"train/accuracy": torch.tensor(1.0)}, 6)
        >>> means.take()
        {'train/accuracy': tensor(0.8750)}
        >>> means.take()
        {}
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, values: Mapping[str, Tensor], count: int) -> None:
        """Scalars, each the mean of ``count`` things, in float32 at least."""
        for name, value in values.items():
            total, seen = self._sums.get(name, (0.0, 0))
            exact = value.detach().to(torch.promote_types(value.dtype, torch.float32))
            self._sums[name] = (total + exact * count, seen + count)

    def take(self) -> dict[str, Tensor]:
        """The means over all ranks since the last call, the same on each; all have to ask."""
        if world_size() == 1:  # tensors all the way: nothing waits for the device
            means = {name: total / seen for name, (total, seen) in self._sums.items()}
        else:
            means = {name: torch.tensor(total / seen) for name, (total, seen) in self.state().items()}
        self.clear()
        return means

    def state(self) -> dict[str, tuple[float, int]]:
        """Sum and weight by name over all ranks, to go on with; all have to ask."""
        found: dict[str, tuple[float, int]] = {}
        for sums in gather_objects({name: (float(total), seen) for name, (total, seen) in self._sums.items()}):
            for name, (total, seen) in sums.items():
                before = found.get(name, (0.0, 0))
                found[name] = (before[0] + total, before[1] + seen)
        return found

    def load(self, state: Mapping[str, tuple[float, int]]) -> None:
        """Go on from `state`, on one rank."""
        self._sums = {name: (torch.tensor(total), seen) for name, (total, seen) in state.items()}

    def clear(self) -> None:
        """Begin an epoch."""
        self._sums = {}
