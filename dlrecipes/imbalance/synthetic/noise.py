"""Over-sampling without neighbours: noise around a sample, or points between any two of a class."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dlrecipes.imbalance.synthetic.draws import Draws, RandomState, Rng
from dlrecipes.imbalance.synthetic.oversample import OfClass, OverSampler
from dlrecipes.imbalance.synthetic.plan import Noisy, Segments, Synthetic
from dlrecipes.imbalance.synthetic.strategy import SamplingStrategy

__all__ = ["GaussianNoise", "Interpolate"]


class GaussianNoise(OverSampler):
    r"""Repeated samples with Gaussian noise: a draw from the class's smoothed density (ROSE).

    .. math:: x = x_i + s \, h \, σ_c \odot ε, \quad ε \sim N(0, 1), \quad h = \left(\frac{4}{(D+2)N}\right)^{1/(D+4)}

    with :math:`σ_c` the class's standard deviation in each of D dimensions and h the width that Menardi and Torelli
    (2014, doi:10.1007/s10618-012-0295-5) take from Silverman's rule; N counts all samples, as in imbalanced-learn,
    whose ``RandomOverSampler(shrinkage=s)`` gives the same numbers with ``rng="numpy"``.

    When to use it: a class of a few samples, of which SMOTE would ask more; one sample alone is repeated as it is.
    When it hurts: features that lie on a curve in their space, or that are counts or categories, since the noise
    leaves them. As for the rest, see ``SMOTE``.

    Args:
        sampling_strategy, random_state, rng: as in ``OverSampler``.
        shrinkage: s, at least 0; 0 repeats samples as they are.

    Example:
        >>> X, y = torch.arange(10.0)[:, None], torch.tensor([0] * 9 + [1])
        >>> X_new, y_new = GaussianNoise(shrinkage=0.0).fit_resample(X, y)
        >>> X_new[10:].unique().tolist(), y_new.bincount().tolist()
        ([9.0], [9, 9])
    """

    _why_no_pixels: ClassVar[str] = "independent noise in pixels makes grain, no new pictures"

    def __init__(
        self,
        *,
        sampling_strategy: SamplingStrategy = "auto",
        random_state: RandomState = 0,
        shrinkage: float = 1.0,
        rng: Rng = "numpy",
    ) -> None:
        super().__init__(sampling_strategy, random_state, rng)
        if not (0 <= shrinkage < math.inf):
            raise ValueError(f"shrinkage={shrinkage}: a finite number of at least 0 is needed")
        self.shrinkage = shrinkage

    def _spread(self, own: Tensor) -> Tensor:
        """The class's standard deviation [D]; as NumPy sums it, to the last bit, where its numbers are drawn."""
        if self.rng == "torch":
            return own.double().std(0, correction=0)
        host = own.cpu()
        host = host.float() if host.dtype == torch.bfloat16 else host
        return torch.from_numpy(np.asarray(np.std(host.numpy(), axis=0))).to(own.device)

    def _synthesise(self, target: OfClass, wanted: int, draws: Draws) -> Synthetic:
        number, dim = target.x.shape
        width = (4 / ((dim + 2) * number)) ** (1 / (dim + 4))
        base = target.rows[draws.integers(len(target.rows), wanted)]
        return Noisy(base, draws.normal(wanted, dim), self.shrinkage * width * self._spread(target.x[target.rows]))


class Interpolate(OverSampler):
    r"""Points between any two samples of a class: SMOTE with all the others as neighbours, so none need be searched.

    .. math:: x = x_i + u \, (x_j - x_i), \quad u \sim U(0, 1), \quad j \ne i

    It is mixup within a class (as in DeVries and Taylor, 2017, arXiv:1702.05538, whose neighbours are few).

    When to use it: classes that form one convex cloud, as penultimate features of a trained network nearly do; time
    and memory are linear. When it hurts: a class of several clusters, between which it fills the gap with its label. As
    for the rest, see ``SMOTE``.

    Args:
        sampling_strategy, random_state, rng: as in ``OverSampler``.

    Example:
        >>> X, y = torch.arange(10.0)[:, None], torch.tensor([0] * 8 + [1] * 2)
        >>> X_new, y_new = Interpolate().fit_resample(X, y)
        >>> bool((X_new[10:] >= 8).all()), y_new.bincount().tolist()
        (True, [8, 8])
    """

    def __init__(
        self, *, sampling_strategy: SamplingStrategy = "auto", random_state: RandomState = 0, rng: Rng = "numpy"
    ) -> None:
        super().__init__(sampling_strategy, random_state, rng)

    def _synthesise(self, target: OfClass, wanted: int, draws: Draws) -> Synthetic:
        self._check_size(target, "", 1)
        have = len(target.rows)
        one = draws.integers(have, wanted)
        other = (one + 1 + draws.integers(have - 1, wanted)) % have
        return Segments(target.rows[one], target.rows[other], draws.uniform(wanted))
