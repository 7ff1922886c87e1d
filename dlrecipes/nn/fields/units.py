"""From what all numbers of an activation have seen to one line: the field of a unit in the middle, and the stride."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dlrecipes.nn.fields.reach import NOTHING, Reach, compact

__all__ = ["UnitField", "unit_field"]


@dataclass(frozen=True)
class UnitField:
    """The field of the units in the middle of a map.

    Attributes:
        size: height and width in pixels, of the widest of them.
        stride: pixels from one unit to the next, down and across; None: the activation is no map.
        offset: where the middle of the first unit's field lies, in pixels from the middle of the first pixel.
        dims: which dimensions of the activation are rows and columns; None: it is no map.
    """

    size: tuple[int, int]
    stride: tuple[float, float] | None
    offset: tuple[float, float] | None
    dims: tuple[int, int] | None


def unit_field(reach: Reach, canvas: tuple[int, int]) -> UnitField | None:
    """The field of the units in the middle; None: nothing of the image has been seen along local paths.

    Args:
        reach: of the activation.
        canvas: height and width of the image.
    """
    top, bottom, left, right = map(compact, reach.edges)
    down, across = (top, bottom), (left, right)
    if not (bool((down[0] > NOTHING).any()) and bool((across[0] > NOTHING).any())):
        return None
    rows, columns = _changing(down), _changing(across)
    if rows is None or columns is None or rows == columns:
        return UnitField((_scattered(down, canvas[0]), _scattered(across, canvas[1])), None, None, None)
    height, step_down, first_row = _axis(down, rows, columns)
    width, step_across, first_column = _axis(across, columns, rows)
    return UnitField((height, width), (step_down, step_across), (first_row, first_column), (rows, columns))


def _changing(edges: tuple[Tensor, Tensor]) -> int | None:
    """The dimension along which the field moves most."""
    best, most = None, 0.0
    for edge in edges:
        least = edge.masked_fill(edge == NOTHING, -NOTHING)
        for dim in range(edge.dim()):
            if edge.size(dim) > 1:
                moved = float((edge.amax(dim) - least.amin(dim)).max())
                best, most = (dim, moved) if moved > most else (best, most)
    return best


def _axis(edges: tuple[Tensor, Tensor], dim: int, other: int) -> tuple[int, float, float]:
    """Size, stride and offset along one axis; across the other one the middle counts, of the rest all together."""
    ends = []
    for edge in edges:
        if edge.size(other) > 1:
            edge = edge.narrow(other, edge.size(other) // 2, 1)
        rest = [d for d in range(edge.dim()) if d != dim and edge.size(d) > 1]
        ends.append((edge.amax(rest, keepdim=True) if rest else edge).flatten())
    n = max(len(end) for end in ends)
    first, last = -ends[0].expand(n), ends[1].expand(n)
    seen = (last > NOTHING).nonzero().flatten()
    near = (seen - (n - 1) / 2).abs()
    middle = seen[near <= max(float(near.min()), n / 8)]
    size = int((last - first + 1)[middle].max())
    centre = (first + last) / 2
    low, high = int(seen[len(seen) // 4]), int(seen[len(seen) // 4 + len(seen) // 2 - (len(seen) < 4)])
    if low == high:
        low, high = int(seen[0]), int(seen[-1])
    stride = float(centre[high] - centre[low]) / max(1, high - low)
    at = int(middle[len(middle) // 2])
    return size, stride, float(centre[at]) - stride * at


def _scattered(edges: tuple[Tensor, Tensor], canvas: int) -> int:
    """Size among units in no order: of those whose field lies nearest to the image's middle, the widest."""
    seen = (edges[0] > NOTHING) & (edges[1] > NOTHING)
    first, last = -edges[0].expand(seen.shape)[seen], edges[1].expand(seen.shape)[seen]
    away = ((first + last) / 2 - (canvas - 1) / 2).abs()
    return int((last - first + 1)[away <= max(float(away.min()), canvas / 8)].max())
