"""What an over-sampler has decided to make of a class, and how it is written into the result, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Noisy", "Nominal", "Segments", "Synthetic"]

_PIECE = 1 << 17  # numbers a piece: 1 MiB of float64, twice or three times, which caches hold


def _pieces(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _PIECE // max(1, columns))
    return (slice(start, start + step) for start in range(0, rows, step))


class Synthetic(Protocol):
    """New samples of one class that are still to be computed."""

    @property
    def sources(self) -> Tensor:
        """int64 [n, s]: the rows of X that each was made from."""
        ...

    def write(self, x: Tensor, out: Tensor) -> None:
        """Compute them from x [N, D] into out [n, D]."""
        ...


@dataclass(frozen=True)
class Segments:
    """x_base + step · (x_other − x_base), rounded to X's dtype where imbalanced-learn rounds.

    Attributes:
        base, other: int64 [n].
        step: float64 [n].
        shorten: float64 [n]; what the difference is multiplied with first; None: nothing.
    """

    base: Tensor
    other: Tensor
    step: Tensor
    shorten: Tensor | None = None

    @property
    def sources(self) -> Tensor:
        return torch.stack((self.base, self.other), 1)

    def write(self, x: Tensor, out: Tensor) -> None:
        work = x.dtype if x.is_floating_point() else torch.float64
        for piece in _pieces(*out.shape):
            base = x[self.base[piece]].to(work)
            difference = x[self.other[piece]].to(work).sub_(base)
            if self.shorten is not None:
                difference = (difference.double() * self.shorten[piece, None]).to(work)
            out[piece] = difference.double().mul_(self.step[piece, None]).add_(base).to(x.dtype)


@dataclass(frozen=True)
class Nominal:
    """Segments in the continuous columns, categories in the others.

    Attributes:
        segments: for all columns.
        neighbours: int64 [n, k], rows that voted.
        columns: int64 [c], the categorical ones.
        categories: [n, c], of X's dtype.
    """

    segments: Segments
    neighbours: Tensor
    columns: Tensor
    categories: Tensor

    @property
    def sources(self) -> Tensor:
        return torch.cat((self.segments.base[:, None], self.neighbours), 1)

    def write(self, x: Tensor, out: Tensor) -> None:
        self.segments.write(x, out)
        out[:, self.columns] = self.categories


@dataclass(frozen=True)
class Noisy:
    """x_base + noise · spread.

    Attributes:
        base: int64 [n].
        noise: float64 [n, D].
        spread: [D].
    """

    base: Tensor
    noise: Tensor
    spread: Tensor

    @property
    def sources(self) -> Tensor:
        return self.base[:, None]

    def write(self, x: Tensor, out: Tensor) -> None:
        for piece in _pieces(*out.shape):
            out[piece] = (self.noise[piece] * self.spread).add_(x[self.base[piece]]).to(x.dtype)
