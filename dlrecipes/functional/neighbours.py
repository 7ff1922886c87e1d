"""The nearest points of each query, exactly and in pieces: no matrix of all distances is ever held."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dlrecipes.errors import UserError
from dlrecipes.functional.precision import full_precision

__all__ = ["Neighbours", "nearest_neighbours", "rows_at_once"]

_BLOCK = 64  # columns, at most, whose maximum stands for them while candidates are chosen
_SPARE = 4  # candidates beyond the k wanted that the first, float32 pass keeps
_ROWS = 4096  # points that are turned into float64 at a time
_MEMORY = {"cpu": 16 << 20, "cuda": 512 << 20}  # bytes of temporaries: what the caches like, what fills a GPU


class Neighbours(NamedTuple):
    """The k nearest points of each query, nearest first; of equally near ones the lower index first.

    Attributes:
        indices: int64 [Q, k], rows of ``points``.
        distances: float64 [Q, k], squared Euclidean.
    """

    indices: Tensor
    distances: Tensor


def rows_at_once(numbers: int, memory: int, itemsize: int = 4) -> int:
    """Queries that fit ``memory`` bytes if each needs so many numbers; at least one.

    Example:
        >>> rows_at_once(100_000, memory=16 << 20)
        41
    """
    return max(1, memory // (itemsize * numbers))


class _Scores:
    """|q − p|² of every query and point but for rounding, in ``dtype``, by a matrix product of centred, scaled points.

    Attributes:
        scale: what distances are divided by.
    """

    def __init__(self, points: Tensor, dtype: torch.dtype) -> None:
        count, dim = points.shape
        self.count, self.dtype = count, dtype
        starts = range(0, count, _ROWS)
        self.centre = torch.stack([points[i : i + _ROWS].double().sum(0) for i in starts]).sum(0) / count
        largest = torch.stack([(points[i : i + _ROWS].double() - self.centre).abs().max() for i in starts]).max()
        self.scale = torch.where(largest > 0, largest, 1.0)
        padded = -(-count // _BLOCK) * _BLOCK
        self.matrix = torch.zeros(padded, dim + 1, dtype=dtype, device=points.device)  # [p, −|p|²/2]
        self.matrix[count:, -1] = -torch.inf
        for start in starts:
            piece = self.shift(points[start : start + _ROWS])
            self.matrix[start : start + len(piece), :-1] = piece
            self.matrix[start : start + len(piece), -1] = piece.square().sum(1) / -2
        self.reach = (-2 * self.matrix[:count, -1].min()).sqrt().double()

    def shift(self, rows: Tensor) -> Tensor:
        return ((rows.double() - self.centre) / self.scale).to(self.dtype)

    def __call__(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shifted queries → scores q·p − |p|²/2 [Q, padded], |q|² [Q], and how far |q|² − 2 · score may be off [Q].

        The bound is γ of a product of D + 1 terms (Higham, 2002, section 3.1), and the rounding of what goes into it.
        """
        norms = queries.square().sum(1)
        eps = torch.finfo(self.dtype).eps
        error = eps * (self.matrix.shape[1] / 2 + 16) * (norms.double().sqrt() + self.reach).square()
        return torch.cat((queries, queries.new_ones(len(queries), 1)), 1) @ self.matrix.T, norms, error


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their columns; the columns are a multiple of ``_BLOCK``.

    They lie in the k groups of columns whose maxima are largest, so that only those are sorted.
    """
    rows, columns = scores.shape
    block = next(size for size in (16, 32, _BLOCK) if size == _BLOCK or size * size * k >= columns)
    groups = columns // block
    if groups < 2 * k:
        found = scores.topk(k, dim=1)
        return found.values, found.indices
    group = scores.view(rows, block, groups).amax(1).topk(k, dim=1, sorted=False).indices
    member = torch.arange(block, device=scores.device) * groups
    column = (group[:, :, None] + member).flatten(1)
    found = scores.gather(1, column).topk(k, dim=1)
    return found.values, column.gather(1, found.indices)


def _rank(queries: Tensor, points: Tensor, candidates: Tensor, k: int, memory: int) -> Neighbours:
    """The k nearest among each query's candidates, by differences in float64."""
    candidates = candidates.sort(dim=1).values
    distance = torch.empty(candidates.shape, dtype=torch.float64, device=queries.device)
    step = rows_at_once(2 * candidates.shape[1] * points.shape[1], memory // 4, itemsize=8)  # beside the scores
    for start in range(0, len(queries), step):
        piece = slice(start, start + step)
        difference = points[candidates[piece]].double().sub_(queries[piece, None].double())
        distance[piece] = difference.square_().sum(-1)
    distance, order = distance.sort(dim=1, stable=True)
    return Neighbours(candidates.gather(1, order[:, :k]), distance[:, :k])


def _certainly(queries: Tensor, points: Tensor, k: int, scores: _Scores, within: Tensor, memory: int) -> Neighbours:
    """As ``nearest_neighbours`` of few queries: every point no farther than ``within`` (scaled, [Q]) is ranked."""
    found: list[Neighbours] = []
    step = rows_at_once(2 * len(points), memory, scores.dtype.itemsize)
    for start in range(0, len(queries), step):
        rows, limit = queries[start : start + step], within[start : start + step]
        score, norm, error = scores(scores.shift(rows))
        inside = (norm[:, None] - 2 * score) <= (limit + error)[:, None]
        candidates = _largest(score, max(k, int(inside.sum(1).max())))[1]
        found.append(_rank(rows, points, candidates, k, memory))
    return Neighbours(torch.cat([n.indices for n in found]), torch.cat([n.distances for n in found]))


@torch.no_grad()
def nearest_neighbours(queries: Tensor, points: Tensor, k: int, *, memory: int | None = None) -> Neighbours:
    """The k points nearest to each query in Euclidean distance.

    Candidates come from a float32 matrix product over a piece of the queries, k + 4 a query, and are ranked by
    differences in float64. Where the product's rounding could have lost a neighbour, the query is asked again in
    float64 with as many candidates as rounding leaves in doubt. So the answer is that of float64 differences over all
    pairs, whatever ``memory``; a query that is one of the points finds itself.

    Time O(Q · N · D), memory O((Q + N) · (D + k)) and ``memory``.

    Args:
        queries: [Q, D].
        points: [N, D], of the same dtype and device. Any floating or integer dtype; finite.
        k: 1 to N.
        memory: bytes for temporaries; None: 16 MiB on a CPU, 512 MiB on a GPU.

    Raises:
        UserError: tensors that are no two lists of vectors of one length, or k outside 1..N.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
        >>> nearest_neighbours(points[:2], points, 2)
        Neighbours(indices=tensor([[0, 2],
                [1, 2]]), distances=tensor([[ 0.,  1.],
                [ 0., 20.]], dtype=torch.float64))
    """
    if queries.ndim != 2 or points.ndim != 2 or queries.shape[1] != points.shape[1]:
        raise UserError(
            f"nearest_neighbours needs two lists of vectors of one length, but queries are {list(queries.shape)} and "
            f"points {list(points.shape)}: flatten what has more dimensions"
        )
    if not 1 <= k <= len(points):
        raise UserError(
            f"nearest_neighbours was asked for k={k} of {len(points)} points: k must be in 1..{len(points)}"
        )
    memory = memory or _MEMORY.get(queries.device.type, _MEMORY["cpu"])
    wide = min(k + _SPARE, len(points))
    index = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    distance = torch.empty(len(queries), k, dtype=torch.float64, device=queries.device)
    doubtful = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
    with full_precision(queries.device):
        scores = _Scores(points, torch.float32)
        step = rows_at_once(len(points) + _BLOCK, memory)
        for start in range(0, len(queries), step):
            piece = slice(start, start + step)
            score, norm, error = scores(scores.shift(queries[piece]))
            value, candidates = _largest(score, wide)
            index[piece], distance[piece] = _rank(queries[piece], points, candidates, k, memory)
            if wide < len(points):
                beyond = norm.double() - 2 * value[:, -1].double() - error  # no other point is nearer
                doubtful[piece] = ~(distance[piece, -1] / scores.scale.square() < beyond)  # NaN is in doubt, too
        again = doubtful.nonzero().flatten()
        if len(again):
            scores = _Scores(points, torch.float64)
            within = distance[again, -1] / scores.scale.square()
            index[again], distance[again] = _certainly(queries[again], points, k, scores, within, memory)
    return Neighbours(index, distance)
