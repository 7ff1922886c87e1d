"""ADASYN: more synthetic samples where a class is hard to tell from others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dlrecipes.errors import UserError
from dlrecipes.imbalance.synthetic.draws import Draws, RandomState, Rng
from dlrecipes.imbalance.synthetic.oversample import OfClass, OverSampler, check_neighbours
from dlrecipes.imbalance.synthetic.plan import Segments, Synthetic
from dlrecipes.imbalance.synthetic.same_neighbours import other_neighbours
from dlrecipes.imbalance.synthetic.strategy import SamplingStrategy

__all__ = ["ADASYN"]


class ADASYN(OverSampler):
    r"""SMOTE with the more samples from a sample, the more of its neighbours are of other classes.

    .. math:: n_i = \operatorname{round}\left(n \, \frac{r_i}{\sum_j r_j}\right)

    with :math:`r_i` the share of other classes among the k nearest neighbours of sample i in all the data; the new
    samples lie between i and its k nearest neighbours of the same class (He et al., 2008,
    doi:10.1109/IJCNN.2008.4633969). Rounding makes the classes come out slightly unequal. With ``rng="numpy"`` the
    result is imbalanced-learn's to the last bit.

    When to use it: as ``BorderlineSMOTE``, without its threshold. When it hurts: outliers and wrong labels, which lie
    among other classes, get the most samples. As for the rest, see ``SMOTE``.

    Args:
        sampling_strategy, random_state, rng: as in ``OverSampler``.
        n_neighbors: k.

    Example:
        >>> X, y = torch.arange(10.0)[:, None], torch.tensor([0] * 7 + [1] * 3)
        >>> X_new, y_new = ADASYN(n_neighbors=2).fit_resample(X, y)
        >>> y_new.bincount().tolist(), X_new[10:].min() >= 7
        ([7, 7], tensor(True))
    """

    def __init__(
        self,
        *,
        sampling_strategy: SamplingStrategy = "auto",
        random_state: RandomState = 0,
        n_neighbors: int = 5,
        rng: Rng = "numpy",
    ) -> None:
        super().__init__(sampling_strategy, random_state, rng)
        self.n_neighbors = check_neighbours("n_neighbors", n_neighbors)

    def _shares(self, target: OfClass, wanted: int) -> Tensor:
        """How many samples each sample of the class gives: int64 [n]. On the host, in NumPy's order of summation."""
        near = other_neighbours(
            target.x,
            target.rows,
            torch.arange(len(target.x), device=target.x.device),
            self.n_neighbors,
            reference=self.rng == "numpy",
            identity=target.codes[:, None],  # only the neighbours' classes matter here
        )
        ratio = (target.codes[near] != target.code).sum(1).cpu().numpy() / self.n_neighbors
        if not ratio.any():
            raise UserError(
                f"ADASYN(n_neighbors={self.n_neighbors}) finds no sample of class {target.name!r} with a neighbour of "
                "another class, so that none is hard: use SMOTE"
            )
        number = np.rint(ratio / np.sum(ratio) * wanted).astype(np.int64)
        if not number.any():
            raise UserError(
                f"ADASYN would make 0 of {wanted} samples of class {target.name!r}, as each of its samples' shares "
                "rounds to 0: ask for more in sampling_strategy, or use SMOTE"
            )
        return torch.from_numpy(number).to(target.x.device)

    def _synthesise(self, target: OfClass, wanted: int, draws: Draws) -> Synthetic:
        self._check_size(target, "n_neighbors", self.n_neighbors)
        number = self._shares(target, wanted)
        own = target.x[target.rows]
        everyone = torch.arange(len(own), device=own.device)
        near = other_neighbours(own, everyone, everyone, self.n_neighbors, reference=self.rng == "numpy")
        row = everyone.repeat_interleave(number)
        column = draws.integers(self.n_neighbors, len(row))
        return Segments(target.rows[row], target.rows[near[row, column]], draws.uniform(len(row)))
