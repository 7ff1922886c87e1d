"""SMOTE and Borderline-SMOTE."""

from __future__ import annotations

import warnings
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from dlrecipes.imbalance.synthetic.draws import Draws, RandomState, Rng
from dlrecipes.imbalance.synthetic.oversample import OfClass, OverSampler, check_neighbours
from dlrecipes.imbalance.synthetic.plan import Segments, Synthetic
from dlrecipes.imbalance.synthetic.same_neighbours import other_neighbours
from dlrecipes.imbalance.synthetic.strategy import SamplingStrategy

__all__ = ["SMOTE", "BorderlineKind", "BorderlineSMOTE", "draw_pairs"]

BorderlineKind = Literal["borderline-1", "borderline-2"]


def draw_pairs(neighbours: Tensor, wanted: int, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Which sample, which of its neighbours, and how far to go: int64 [n] below Q, int64 [n] rows, float64 [n].

    Args:
        neighbours: int64 [Q, k], of each of Q samples.
        wanted: n, samples to make.
        draws: random numbers.
    """
    pick = draws.integers(neighbours.numel(), wanted)
    step = draws.uniform(wanted)
    row = pick // neighbours.shape[1]
    return row, neighbours[row, pick % neighbours.shape[1]], step


class SMOTE(OverSampler):
    r"""Synthetic samples on the segments between a sample and its nearest neighbours of the same class.

    .. math:: x = x_i + u \, (x_j - x_i), \quad u \sim U(0, 1)

    with i drawn from the class and j from its k nearest neighbours in it (Chawla et al., 2002, arXiv:1106.1813). With
    ``rng="numpy"`` the result is imbalanced-learn's to the last bit, and so are its repetitions: with an int as
    ``random_state`` every class starts the same random numbers.

    When to use it: tabular data or frozen features of some dozens of dimensions, with a classifier that cannot weigh
    its classes. When it hurts: classes that are scattered or overlap, wrong labels, most of all many dimensions: the
    new samples spread less than the class does. Do not combine it with class weights or a balanced sampler, which
    would balance once more, and never resample before splitting.

    Args:
        sampling_strategy, random_state, rng: as in ``OverSampler``.
        k_neighbors: k.

    Example:
        >>> X, y = torch.arange(10.0)[:, None], torch.tensor([0] * 7 + [1] * 3)
        >>> X_new, y_new = SMOTE(k_neighbors=2, random_state=0).fit_resample(X, y)
        >>> y_new.bincount().tolist(), X_new.shape
        ([7, 7], torch.Size([14, 1]))
    """

    def __init__(
        self,
        *,
        sampling_strategy: SamplingStrategy = "auto",
        random_state: RandomState = 0,
        k_neighbors: int = 5,
        rng: Rng = "numpy",
    ) -> None:
        super().__init__(sampling_strategy, random_state, rng)
        self.k_neighbors = check_neighbours("k_neighbors", k_neighbors)

    def _synthesise(self, target: OfClass, wanted: int, draws: Draws) -> Synthetic:
        self._check_size(target, "k_neighbors", self.k_neighbors)
        own = target.x[target.rows]
        everyone = torch.arange(len(own), device=own.device)
        near = other_neighbours(own, everyone, everyone, self.k_neighbors, reference=self.rng == "numpy")
        row, other, step = draw_pairs(near, wanted, draws.restarted())
        return Segments(target.rows[row], target.rows[other], step)


class BorderlineSMOTE(OverSampler):
    r"""SMOTE from samples "in danger" only: at least half, but not all, of their m neighbours are of other classes.

    ``"borderline-1"`` goes to neighbours of the same class; ``"borderline-2"`` to neighbours of any class, and at most
    half the way to those of another one (Han et al., 2005, doi:10.1007/11538059_91). Like imbalanced-learn it
    multiplies that half with the step: both are drawn from a uniform distribution.

    When to use it: the class's border decides, and its core is well covered. When it hurts: wrong labels look like a
    border. As for the rest, see ``SMOTE``.

    Args:
        sampling_strategy, random_state, rng: as in ``OverSampler``.
        k_neighbors: neighbours to go to.
        m_neighbors: neighbours that decide on danger, of all classes.
        kind: which variant.

    Attributes:
        in_danger_: class → int64 [n], its rows in danger, after ``fit_resample``.

    Example:
        >>> X, y = torch.arange(10.0)[:, None], torch.tensor([0] * 7 + [1] * 3)
        >>> X_new, y_new = BorderlineSMOTE(k_neighbors=2, m_neighbors=2).fit_resample(X, y)
        >>> y_new.bincount().tolist(), X_new.shape
        ([7, 7], torch.Size([14, 1]))
    """

    _of_classes: ClassVar[tuple[str, ...]] = ("in_danger_",)

    def __init__(
        self,
        *,
        sampling_strategy: SamplingStrategy = "auto",
        random_state: RandomState = 0,
        k_neighbors: int = 5,
        m_neighbors: int = 10,
        kind: BorderlineKind = "borderline-1",
        rng: Rng = "numpy",
    ) -> None:
        super().__init__(sampling_strategy, random_state, rng)
        self.k_neighbors = check_neighbours("k_neighbors", k_neighbors)
        self.m_neighbors = check_neighbours("m_neighbors", m_neighbors)
        if kind not in get_args(BorderlineKind):
            raise ValueError(f"kind={kind!r}: use 'borderline-1' or 'borderline-2'")
        self.kind = kind
        self.in_danger_: dict[object, Tensor] = {}

    def _danger(self, target: OfClass) -> Tensor:
        """The rows of the class in danger."""
        self._check_size(target, "m_neighbors", self.m_neighbors, of_all=True)
        everything = torch.arange(len(target.x), device=target.x.device)
        near = other_neighbours(
            target.x,
            target.rows,
            everything,
            self.m_neighbors,
            reference=self.rng == "numpy",
            identity=target.codes[:, None],  # only the neighbours' classes matter here
        )
        others = (target.codes[near] != target.code).sum(1)
        return target.rows[(2 * others >= self.m_neighbors) & (others < self.m_neighbors)]

    def _synthesise(self, target: OfClass, wanted: int, draws: Draws) -> Synthetic | None:
        danger = self._danger(target)
        self.in_danger_[target.name] = danger
        if not len(danger):
            warnings.warn(
                f"BorderlineSMOTE made no samples of class {target.name!r}: none of its samples has between half and "
                f"all of m_neighbors={self.m_neighbors} neighbours of other classes; use SMOTE",
                stacklevel=3,
            )
            return None
        of_any = self.kind == "borderline-2"
        self._check_size(target, "k_neighbors", self.k_neighbors, of_all=of_any)
        points = torch.arange(len(target.x), device=target.x.device) if of_any else target.rows
        near = other_neighbours(
            target.x, danger, points, self.k_neighbors, reference=self.rng == "numpy", labels=target.codes
        )
        row, other, step = draw_pairs(near, wanted, draws.restarted())
        shorten = None
        if of_any:
            foreign = target.codes[other] != target.code
            shorten = torch.ones_like(step)
            shorten[foreign] = draws.restarted().uniform(int(foreign.sum()), 0.5)
        return Segments(danger[row], other, step, shorten)
