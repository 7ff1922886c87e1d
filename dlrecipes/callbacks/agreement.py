"""One number that all ranks of a run agree on, without waiting for one another in a training step."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import distributed as dist

__all__ = ["RankAgreement"]

T = TypeVar("T")


class RankAgreement:
    r"""Maximum of an integer over all ranks, handed out one call late, so that a step never waits for another rank.

    The numbers travel through a gloo group of their own between the hosts, so no device is synchronised and no
    collective of the model is disturbed. All ranks must make the same calls in the same order. In a run of one process
    every method answers at once with the caller's own value.

    Must be created on all ranks together, after Lightning has set up the process group (in a callback's ``setup``).

    Example:
        >>> agreement = RankAgreement()
        >>> agreement.exchange(3), agreement.settle(0), agreement.minimum(7), agreement.gather("a")
        (3, 0, 7, ['a'])
    """

    def __init__(self) -> None:
        self.distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group: dist.ProcessGroup | None = None
        if self.distributed and isinstance(group := dist.new_group(backend="gloo"), dist.ProcessGroup):
            self._group = group
        self._pending: tuple[dist.Work | None, torch.Tensor] | None = None

    def exchange(self, value: int) -> int:
        """Hand in ``value`` and get the maximum over all ranks of what was handed in by the call before.

        The first call returns the smallest int64. One process: ``value``.
        """
        if not self.distributed:
            return value
        previous = self._finish_pending()
        number = torch.tensor([value])
        self._pending = (dist.all_reduce(number, op=dist.ReduceOp.MAX, group=self._group, async_op=True), number)
        return previous

    def settle(self, value: int) -> int:
        """Maximum over all ranks of ``value`` and of what the last ``exchange`` handed in; waits for all ranks."""
        if not self.distributed:
            return value
        number = torch.tensor([max(value, self._finish_pending())])
        dist.all_reduce(number, op=dist.ReduceOp.MAX, group=self._group)
        return int(number)

    def minimum(self, value: int) -> int:
        """Minimum of ``value`` over all ranks; waits for all ranks."""
        if not self.distributed:
            return value
        number = torch.tensor([value])
        dist.all_reduce(number, op=dist.ReduceOp.MIN, group=self._group)
        return int(number)

    def gather(self, item: T) -> list[T]:
        """The items of all ranks, in the order of the ranks; waits for all ranks."""
        if not self.distributed:
            return [item]
        items: list[T] = [item] * dist.get_world_size()
        dist.all_gather_object(items, item, group=self._group)
        return items

    def _finish_pending(self) -> int:
        if self._pending is None:
            return torch.iinfo(torch.int64).min
        work, number = self._pending
        if work is not None:
            work.wait()
        self._pending = None
        return int(number)
