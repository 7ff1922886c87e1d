"""What each number of an activation has seen of the image: first and last row, first and last column.

Four tensors of the activation's shape say it. They are expanded ones along dimensions where they do not differ (rows do
not depend on the column, and hardly ever on the channel), so that a map of many channels costs a few hundred numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "NOTHING",
    "Place",
    "Reach",
    "TooLargeError",
    "combine",
    "compact",
    "expand",
    "gather",
    "image_reach",
    "mix",
    "nothing",
    "reshape",
    "tidy",
    "union",
]

NOTHING = float("-inf")
_MOST = 50_000_000  # numbers of one tensor: beyond that a canvas is too large to be followed


class Place(NamedTuple):
    """A layer: its name in the model and its class."""

    name: str
    kind: str


@dataclass(frozen=True)
class Reach:
    """What has been seen, along local paths only, and since which layer everything is.

    Attributes:
        edges: minus the first row, the last row, minus the first column, the last column: float32 of the activation's
            shape, −∞ where nothing has been seen, so that what two numbers see together is their maximum.
        whole: since which layer all rows, and all columns, take part through a mean, attention or the like; what these
            see is left out of ``edges``.
        depth: layers with weights on the longest way from the image.
    """

    edges: tuple[Tensor, Tensor, Tensor, Tensor]
    whole: tuple[Place | None, Place | None] = (None, None)
    depth: int = 0

    @property
    def shape(self) -> torch.Size:
        """Of the activation."""
        return self.edges[0].shape

    def map(self, change: Callable[[Tensor], Tensor]) -> Reach:
        """The same change to all four."""
        top, bottom, left, right = map(change, self.edges)
        return replace(self, edges=(top, bottom, left, right))


class TooLargeError(RuntimeError):
    """More numbers than are worth it."""


def image_reach(shape: Sequence[int]) -> Reach:
    """An image [B, C, H, W]: each number has seen itself."""
    rows = torch.arange(shape[-2], dtype=torch.float32, device="cpu").view(1, 1, -1, 1)
    columns = torch.arange(shape[-1], dtype=torch.float32, device="cpu").view(1, 1, 1, -1)
    return Reach((expand(-rows, shape), expand(rows, shape), expand(-columns, shape), expand(columns, shape)))


def compact(x: Tensor) -> Tensor:
    """Without the repetitions of expanded dimensions; size 1 there."""
    for dim in range(x.dim()):
        if x.size(dim) > 1 and x.stride(dim) == 0:
            x = x.narrow(dim, 0, 1)
    if x.numel() > _MOST:
        raise TooLargeError(f"{x.numel()} places")
    return x


def tidy(x: Tensor) -> Tensor:
    """Compact, also where the repetitions are copies."""
    x = compact(x)
    for dim in range(x.dim()):
        if x.size(dim) > 1 and bool((x == x.narrow(dim, 0, 1)).all()):
            x = x.narrow(dim, 0, 1)
    return x


def nothing(shape: Sequence[int]) -> Reach:
    """Of a constant or a weight."""
    edge = torch.full((1,) * len(shape), NOTHING, device="cpu").expand(tuple(shape))
    return Reach((edge, edge, edge, edge))


def expand(edge: Tensor, shape: Sequence[int]) -> Tensor:
    """Broadcast to a shape, by repetitions only."""
    return compact(edge).expand(tuple(shape))


def combine(
    reaches: Sequence[Reach], shape: Sequence[int], join: Callable[[Sequence[Tensor]], Tensor], *, deeper: int = 0
) -> Reach:
    """One of several: ``join`` of each edge, broadcast to ``shape``; the first whole, the greatest depth."""
    top, bottom, left, right = (expand(join(same), shape) for same in zip(*(r.edges for r in reaches), strict=True))
    rows = next((r.whole[0] for r in reaches if r.whole[0]), None)
    columns = next((r.whole[1] for r in reaches if r.whole[1]), None)
    return Reach((top, bottom, left, right), (rows, columns), max(r.depth for r in reaches) + deeper)


def union(reaches: Sequence[Reach], shape: Sequence[int], *, deeper: int = 0) -> Reach:
    """What numbers that are computed from several have seen: the first of the firsts, the last of the lasts."""
    return combine(reaches, shape, lambda same: reduce(torch.maximum, map(compact, same)), deeper=deeper)


def mix(reach: Reach, dims: Sequence[int], place: Place) -> Reach:
    """All numbers along ``dims`` put together (kept, with size 1): a mean, softmax, matrix product.

    Where that joins what saw different places to something that saw all there is, ``place`` is where the whole image
    comes in.
    """
    return _mixed(reach, place, lambda edge: _joined(edge, dims))


def gather(reach: Reach, dim: int, taps: Tensor, place: Place | None = None) -> Reach:
    """Numbers along one dimension put together as ``taps`` says: a convolution, pooling, padding, resampling.

    Args:
        reach: of the input.
        dim: its dimension.
        taps: int64 [out, K]: positions that each output reads; the input's size stands for none (padding).
        place: given where a tap over everything means the whole image, as in adaptive pooling.
    """
    size = reach.shape[dim]

    def read(edge: Tensor) -> tuple[Tensor, Tensor]:
        lines = compact(edge)
        if lines.size(dim) == 1:
            if bool((taps < size).any(dim=1).all()):
                return lines, lines
            lines = expand(lines, [size if d == dim else n for d, n in enumerate(lines.shape)])
        none = torch.full_like(lines.narrow(dim, 0, 1), NOTHING)
        found = torch.cat([lines, none], dim).index_select(dim, taps.flatten())
        found = torch.unflatten(found, dim, list(taps.shape))
        if found.numel() > _MOST:
            raise TooLargeError(f"{found.numel()} places")
        return found.amax(dim + 1), found.amin(dim + 1)

    shape = [taps.shape[0] if d == dim else n for d, n in enumerate(reach.shape)]
    if place is None:
        return reach.map(lambda edge: expand(read(edge)[0], shape))
    return _mixed(reach, place, read).map(lambda edge: expand(edge, shape))


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x.reshape(shape)`` that leaves expanded dimensions expanded where they are not mixed with others."""
    small_old, small_new = compact(x), list(shape)
    old, new = list(x.shape), list(shape)
    narrow = list(small_old.shape)
    i = j = 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        left, right = 1, 1
        while True:  # the fewest dimensions of both that hold as many numbers
            if left <= right and i < len(old):
                left, i = left * old[i], i + 1
            elif j < len(new):
                right, j = right * new[j], j + 1
            if left == right and (i > start_i or i == len(old)) and (j > start_j or j == len(new)):
                break
        if all(n == 1 for n in narrow[start_i:i]):
            small_new[start_j:j] = [1] * (j - start_j)
        else:
            narrow[start_i:i] = old[start_i:i]
    flat = expand(small_old, narrow).reshape(small_new)
    return expand(tidy(flat), shape)


def _joined(edge: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    lines = compact(edge)
    return lines.amax(tuple(dims), keepdim=True), lines.amin(tuple(dims), keepdim=True)


def _mixed(reach: Reach, place: Place, join: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Reach:
    edges: list[Tensor] = []
    whole = list(reach.whole)
    for axis in range(2):
        first, last = reach.edges[2 * axis : 2 * axis + 2]
        (first_most, first_least), (last_most, last_least) = join(first), join(last)
        widened = (first_most != first_least) | (last_most != last_least)
        everything = widened & (first_most == compact(first).max()) & (last_most == compact(last).max())
        if bool(everything.any()) and bool((everything | (first_most == NOTHING)).all()):
            whole[axis] = whole[axis] or place
            first_most = first_most.masked_fill(everything, NOTHING)
            last_most = last_most.masked_fill(everything, NOTHING)
        edges += [first_most, last_most]
    return Reach((edges[0], edges[1], edges[2], edges[3]), (whole[0], whole[1]), reach.depth)
