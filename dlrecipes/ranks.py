"""What the ranks found in their share of the images, put together in the images' own order."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

__all__ = ["gather_in_order", "gather_objects", "interleave", "world_size"]

T = TypeVar("T")


def world_size() -> int:
    """Processes that train or evaluate together; 1 without torch's distributed package, or before it is started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_objects(item: T) -> list[T]:
    """The item of each rank, by rank, on all of them; all have to ask."""
    parts = [item] * world_size()
    if len(parts) > 1:
        dist.all_gather_object(parts, item)
    return parts


def gather_in_order(items: list[T]) -> list[T]:
    """The items of all ranks, as if one process had seen every sample; the items themselves where there is one process.

    Position p of the data set is seen by rank ``p % world_size``, none is seen twice, and the ranks may hold unequal
    numbers: torchmetrics would wait for ever then, since it gathers a list element by element.

    Args:
        items: of this rank, one for each sample, in order.
    """
    return items if world_size() == 1 else interleave(gather_objects(items))


def interleave(parts: list[list[T]]) -> list[T]:
    """First items of all parts, then their second ones, and so on.

    >>> interleave([["a", "c", "e"], ["b", "d"]])
    ['a', 'b', 'c', 'd', 'e']
    """
    longest = max(map(len, parts), default=0)
    return [part[i] for i in range(longest) for part in parts if i < len(part)]
