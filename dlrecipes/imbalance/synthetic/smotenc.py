"""SMOTE for tables with categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dlrecipes.errors import UserError
from dlrecipes.imbalance.synthetic.draws import Draws, RandomState, Rng
from dlrecipes.imbalance.synthetic.oversample import OfClass, OverSampler, check_neighbours
from dlrecipes.imbalance.synthetic.plan import Nominal, Segments, Synthetic
from dlrecipes.imbalance.synthetic.same_neighbours import other_neighbours
from dlrecipes.imbalance.synthetic.smote import draw_pairs
from dlrecipes.imbalance.synthetic.strategy import SamplingStrategy

__all__ = ["SMOTENC"]


class SMOTENC(OverSampler):
    r"""SMOTE in the continuous columns; in a categorical one, the category that most of the k neighbours have.

    .. math:: d^2(x, x') = \sum_{j\ \text{continuous}} (x_j - x'_j)^2 + m^2 \sum_{j\ \text{categorical}} [x_j \ne x'_j]

    with m the median of the class's standard deviations over the continuous columns (Chawla et al., 2002,
    arXiv:1106.1813, section 6.1). Between equally frequent categories the lot decides. With ``rng="numpy"`` the result
    is imbalanced-learn's to the last bit, except where that rounds: for integers it truncates m, and below m = 1e-8 it
    takes all categories for equally frequent.

    When to use it: tables with both kinds of columns; columns of one kind only are for SMOTE, or for repeating
    samples. When it hurts: continuous columns of different units, since m is one of them: standardise first. As for
    the rest, see ``SMOTE``.

    Args:
        categorical_features: positions of the categorical columns, or a bool for each column. Categories are numbers;
            scikit-learn's ``OrdinalEncoder`` makes numbers of strings.
        sampling_strategy, random_state, rng: as in ``OverSampler``.
        k_neighbors: k.

    Attributes:
        median_std_: class → m, after ``fit_resample``.

    Example:
        >>> X = torch.tensor([[0.0, 7.0], [1.0, 7.0], [2.0, 7.0], [3.0, 8.0], [4.0, 8.0], [9.0, 5.0], [9.5, 5.0]])
        >>> X_new, y_new = SMOTENC([1], k_neighbors=1).fit_resample(X, torch.tensor([0] * 5 + [1] * 2))
        >>> X_new[7:, 1].tolist()
        [5.0, 5.0, 5.0]
    """

    _of_classes: ClassVar[tuple[str, ...]] = ("median_std_",)

    def __init__(
        self,
        categorical_features: Sequence[int] | Sequence[bool],
        *,
        sampling_strategy: SamplingStrategy = "auto",
        random_state: RandomState = 0,
        k_neighbors: int = 5,
        rng: Rng = "numpy",
    ) -> None:
        super().__init__(sampling_strategy, random_state, rng)
        self.k_neighbors = check_neighbours("k_neighbors", k_neighbors)
        features = np.asarray(categorical_features)
        if features.ndim != 1 or features.dtype.kind not in "bi" or features.size == 0:
            raise ValueError(
                f"categorical_features={categorical_features!r}: positions of columns or a bool for each is needed"
            )
        self.categorical_features = categorical_features
        self.median_std_: dict[object, float] = {}

    def _columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of the categorical columns, in the order given, and of the others."""
        features, dim = np.asarray(self.categorical_features), x.shape[1]
        if features.dtype.kind == "b":
            if len(features) != dim:
                raise UserError(f"categorical_features has {len(features)} bools, but X has {dim} columns")
            features = np.flatnonzero(features)
        elif features.min() < -dim or features.max() >= dim or len(np.unique(features % dim)) < len(features):
            raise UserError(f"categorical_features={features.tolist()}: different columns of X's {dim} are needed")
        features = features % dim
        if len(features) in (0, dim):
            kind = "continuous" if len(features) else "categorical"
            other = "GaussianNoise(shrinkage=0)" if len(features) else "SMOTE"
            raise UserError(f"SMOTENC needs continuous and categorical columns, and X has no {kind} one: use {other}")
        rest = np.setdiff1d(np.arange(dim), features)
        return torch.from_numpy(features).to(x.device), torch.from_numpy(rest).to(x.device)

    def _median_std(self, continuous: Tensor) -> float:
        """m; summed as scikit-learn sums the sparse columns, where the numbers are to be imbalanced-learn's."""
        if self.rng == "torch":
            return float(np.median(continuous.double().std(0, correction=0).cpu().numpy()))
        from scipy.sparse import csr_matrix
        from sklearn.utils.sparsefuncs import mean_variance_axis

        return float(np.median(np.sqrt(mean_variance_axis(csr_matrix(continuous.cpu().numpy()), axis=0)[1])))

    def _space(self, continuous: Tensor, codes: list[Tensor], sizes: list[int], unit: float) -> Tensor:
        """Where Euclidean distance is d: one-hot columns m/√2 high, so that unlike categories are m apart."""
        onehot = [
            torch.nn.functional.one_hot(c, n).to(continuous.dtype) * unit for c, n in zip(codes, sizes, strict=True)
        ]
        return torch.cat([continuous, *onehot], 1)

    def _synthesise(self, target: OfClass, wanted: int, draws: Draws) -> Synthetic:
        self._check_size(target, "k_neighbors", self.k_neighbors)
        nominal, rest = self._columns(target.x)
        own = target.x[target.rows]
        continuous = own[:, rest]
        if continuous.dtype not in (torch.float32, torch.float64):
            continuous = continuous.to(torch.float32 if continuous.is_floating_point() else torch.float64)
        self.median_std_[target.name] = median = self._median_std(continuous)
        known = [torch.unique(target.x[:, column]) for column in nominal]
        codes = [torch.searchsorted(k, own[:, column].contiguous()) for k, column in zip(known, nominal, strict=True)]
        sizes = [len(k) for k in known]
        everyone = torch.arange(len(own), device=own.device)
        reference = self.rng == "numpy"
        space = self._space(continuous, codes, sizes, median / 2**0.5)
        near = other_neighbours(
            space, everyone, everyone, self.k_neighbors, reference=reference, identity=own, sparse=reference
        )
        row, other, step = draw_pairs(near, wanted, draws.restarted())
        lot, votes, chosen = draws.restarted(), near[row], []
        for code, values in zip(codes, known, strict=True):
            count = torch.zeros(wanted, len(values), dtype=torch.int64, device=own.device)
            count.scatter_add_(1, code[votes], torch.ones_like(votes))
            chosen.append(values[lot.one_true_a_row(count == count.amax(1, keepdim=True))])
        segments = Segments(target.rows[row], target.rows[other], step)
        return Nominal(segments, target.rows[votes], nominal, torch.stack(chosen, 1))
