"""Neighbours that an over-sampler interpolates to: ours where that is faster and beyond doubt, else scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrecipes.functional.neighbours import Neighbours, nearest_neighbours

__all__ = ["other_neighbours"]

_TREE_DIM = 15  # on a CPU: scikit-learn searches up to so many dimensions by a tree, which beats all pairs,
_FEW = 640_000  # and up to so many numbers (10,000 points of 64 dimensions) no slower than we do
_SPARE = 3  # neighbours beyond those wanted, to see where a tie ends
_SPARE_IN_DOUBT = 64  # for queries whose tie goes on behind them


def _take(space: Tensor, rows: Tensor) -> Tensor:
    """``space[rows]``, which is no copy if these are all of them."""
    return space if len(rows) == len(space) else space[rows]


def _asked(space: Tensor, queries: Tensor, points: Tensor, k: int, sparse: bool) -> Tensor:
    """The k nearest by scikit-learn, as imbalanced-learn asks for them: int64 [Q, k], positions in ``points``."""
    from scipy.sparse import csr_matrix
    from sklearn.neighbors import NearestNeighbors

    host = space.cpu()
    host = host.float() if host.dtype in (torch.float16, torch.bfloat16) else host
    as_asked: Callable[[Any], Any] = csr_matrix if sparse else np.asarray
    search = NearestNeighbors(n_neighbors=k).fit(as_asked(_take(host, points.cpu()).numpy()))
    found = search.kneighbors(as_asked(_take(host, queries.cpu()).numpy()), return_distance=False)
    return torch.from_numpy(found.astype(np.int64)).to(space.device)


def _without_self(found: Tensor, queries: Tensor) -> Tensor:
    """[Q, k + 1] → [Q, k]: the query itself goes, or the last if it is not among them; the order stays."""
    order = (found == queries[:, None]).to(torch.uint8).argsort(dim=1, stable=True)
    return found.gather(1, order[:, :-1])


def _in_doubt(
    space: Tensor,
    queries: Tensor,
    points: Tensor,
    near: Neighbours,
    needed: int,
    identity: Tensor,
    labels: Tensor | None,
) -> Tensor:
    """Whether rounding or a tie between unlike points decides which ``needed`` points are the nearest of a query.

    Scikit-learn subtracts large squares: the order of points whose distances differ by less than that loses is of its
    own making.
    """
    values = space if space.is_floating_point() else space.double()
    norm = torch.linalg.vector_norm(values, dim=1, dtype=torch.float64)
    lost = 8 * space.shape[1] * torch.finfo(torch.float64).eps * (norm[queries] + norm[points].max()).square()
    tied = near.distances.diff(dim=1) <= lost[:, None]
    row, column = tied.nonzero(as_tuple=True)
    one, other = points[near.indices[row, column]], points[near.indices[row, column + 1]]
    alike = (identity[one] == identity[other]).all(1)
    if labels is not None:
        alike &= labels[one] == labels[other]
    unlike = torch.zeros_like(tied)
    unlike[row, column] = ~alike
    joined = tied.clone()
    joined[:, : needed - 1] = True
    joined = joined.cumprod(1).bool()  # pairs that are wanted, or tied to the last one that is
    unseen = joined[:, -1] if near.indices.shape[1] < len(points) else torch.zeros_like(joined[:, -1])
    doubt: Tensor = (unlike & joined).any(1) | unseen
    return doubt


def other_neighbours(
    space: Tensor,
    queries: Tensor,
    points: Tensor,
    k: int,
    *,
    reference: bool,
    identity: Tensor | None = None,
    labels: Tensor | None = None,
    sparse: bool = False,
) -> Tensor:
    """The k nearest neighbours of rows of ``space`` among others of its rows, without the row itself.

    Imbalanced-learn asks scikit-learn for k + 1 neighbours and drops the first one unseen. Where points lie at one
    distance, as repeated rows do, the first one need not be the row itself, and which of the others are found depends
    on scikit-learn's search. That matters only if they are not alike: then, with ``reference``, all queries are
    handed to scikit-learn itself, and the result is its own. Without, the row itself is dropped.

    Args:
        space: [N, E], where distances are measured.
        queries: int64 [Q], rows of ``space``; these and the points ascend, and none is repeated.
        points: int64 [M], rows of ``space`` that may be neighbours.
        k: below M.
        reference: whether the outcome must be imbalanced-learn's.
        identity: [N, ...], what makes two rows alike; None: ``space``.
        labels: [N]: rows with different ones are unlike, whatever their values.
        sparse: imbalanced-learn hands over a CSR matrix here.

    Returns:
        int64 [Q, k], rows of ``space``, nearest first.
    """
    easy = space.shape[1] <= _TREE_DIM or len(points) * space.shape[1] <= _FEW
    if space.device.type == "cpu" and easy and not sparse:
        found = points[_asked(space, queries, points, k + 1, sparse=False)]
        return found[:, 1:] if reference else _without_self(found, queries)

    def search(asking: Tensor, spare: int) -> Neighbours:
        return nearest_neighbours(_take(space, asking), _take(space, points), min(k + 1 + spare, len(points)))

    if not reference:
        return _without_self(points[search(queries, 0).indices], queries)
    same = space if identity is None else identity
    near = search(queries, _SPARE)
    doubtful = queries[_in_doubt(space, queries, points, near, k + 1, same, labels)]
    if len(doubtful):
        wider = search(doubtful, _SPARE_IN_DOUBT)
        doubtful = doubtful[_in_doubt(space, doubtful, points, wider, k + 1, same, labels)]
    if len(doubtful):
        return points[_asked(space, queries, points, k + 1, sparse)][:, 1:]
    return _without_self(points[near.indices[:, : k + 1]], queries)
