"""Losses of numbers of which some values are rare."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from dlrecipes.functional.losses.balanced_regression import balanced_mse_loss, gai_loss
from dlrecipes.functional.losses.reduce import Reduction
from dlrecipes.losses.base import RegressionLoss, check_range

__all__ = ["BalancedMSELoss", "GAILoss", "fit_target_mixture"]


class _NoisyLoss(RegressionLoss):
    """Keeps the spread σ of the errors, as a factor's logarithm so that it stays positive."""

    def __init__(self, noise: float, learn_noise: bool, reduction: Reduction) -> None:
        super().__init__(reduction)
        check_range("noise", noise, 0, open_low=True)
        self.noise, self.learn_noise = noise, learn_noise
        self.log_factor = nn.Parameter(torch.zeros(()), requires_grad=learn_noise)

    def sigma(self, like: Tensor) -> Tensor:
        """σ, in float32 or the dtype of ``like``, whichever is wider."""
        return self.noise * self.log_factor.to(torch.promote_types(like.dtype, torch.float32)).exp()


class BalancedMSELoss(_NoisyLoss):
    """Balanced MSE by the batch's own targets (BMC): ``dlrecipes.functional.losses.balanced_mse_loss``.

    When: some values of one or two targets are rare and count as much as the others. It needs batches of some dozens:
    what a batch does not show is not balanced. The plain error grows a little where the targets are frequent. Not
    together with a sampler or sample weights that balance.

    Args:
        noise: σ to begin with, > 0, in the targets' units (standardised ones in ``RegressionTask``). Give it the
            RMSE of a plain training: a σ larger than the errors makes rare values come out too large, and a short
            training does not bring it down (``benchmarks/notes.py rare_numbers``).
        learn_noise: σ is trained along, by the task's optimizer.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> loss = BalancedMSELoss(learn_noise=False)
        >>> loss(torch.tensor([[0.0], [0.0]]), torch.tensor([[0.0], [1.0]]))
        tensor(1.4482)
    """

    def __init__(self, noise: float = 1.0, learn_noise: bool = True, *, reduction: Reduction = "mean") -> None:
        super().__init__(noise, learn_noise, reduction)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input and target [B, T] → loss, [B] unreduced; ``sample_weight`` [B]."""
        return balanced_mse_loss(
            input, target, self.sigma(input), sample_weight=sample_weight, reduction=self.reduction
        )


class GAILoss(_NoisyLoss):
    """Balanced MSE by a mixture of Gaussians for the targets (GAI): ``dlrecipes.functional.losses.gai_loss``.

    When: as ``BalancedMSELoss``, with small batches or samples that must not depend on their batch.

    Args:
        weights: [K] of the components; None: one component, the standard normal distribution, which standardised
            targets have if they are normal.
        means: [K][T].
        variances: [K][T], above 0. ``fit_target_mixture`` finds all three.
        noise, learn_noise, reduction: as in ``BalancedMSELoss``.

    Raises:
        ValueError: an argument outside its range, or some of the mixture missing.

    Example:
        >>> import torch
        >>> loss = GAILoss(learn_noise=False, reduction="none")  # normal targets: 0 is frequent, 3 is rare
        >>> loss(torch.tensor([[0.0], [3.0]]), torch.tensor([[0.0], [3.0]]))
        tensor([-0.6931, -5.1931])
    """

    weights_: Tensor
    means_: Tensor
    variances_: Tensor

    def __init__(
        self,
        weights: list[float] | None = None,
        means: list[list[float]] | None = None,
        variances: list[list[float]] | None = None,
        noise: float = 1.0,
        learn_noise: bool = True,
        *,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(noise, learn_noise, reduction)
        self.weights, self.means, self.variances = weights, means, variances
        given = [weights is not None, means is not None, variances is not None]
        if any(given) and not all(given):
            raise ValueError("weights, means and variances belong together: give all three, or none")
        mixture = [torch.tensor(v or d) for v, d in ((weights, [1.0]), (means, [[0.0]]), (variances, [[1.0]]))]
        if mixture[1].shape != mixture[2].shape or mixture[1].shape[:1] != mixture[0].shape or mixture[1].dim() != 2:
            shapes = ", ".join(str(list(m.shape)) for m in mixture)
            raise ValueError(f"weights, means and variances have shapes {shapes}: [K], [K, T] and [K, T] are needed")
        if not (bool((mixture[0] > 0).all()) and bool((mixture[2] > 0).all())):
            raise ValueError(f"weights={weights} and variances={variances}: numbers above 0 are needed")
        for name, values in zip(("weights_", "means_", "variances_"), mixture, strict=True):
            self.register_buffer(name, values, persistent=False)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input and target [B, T] → loss, [B] unreduced; ``sample_weight`` [B]."""
        means, variances = self.means_, self.variances_
        if self.means is None:  # the standard normal distribution, in as many dimensions as there are targets
            means, variances = means.expand(1, input.shape[-1]), variances.expand(1, input.shape[-1])
        return gai_loss(
            input,
            target,
            self.weights_,
            means,
            variances,
            self.sigma(input),
            sample_weight=sample_weight,
            reduction=self.reduction,
        )


def fit_target_mixture(targets: ArrayLike, components: int = 8, *, seed: int = 0) -> dict[str, list[object]]:
    """``weights``, ``means`` and ``variances`` for ``GAILoss``, of the training targets (scikit-learn's EM).

    Args:
        targets: [N] or [N, T], in the units that the loss sees: standardised ones in ``RegressionTask``.
        components: K, at most N.
        seed: of the first guess.

    Raises:
        ValueError: fewer targets than components, or targets that are not finite.

    Example:
        >>> mixture = fit_target_mixture([-1.0, -1.1, -0.9, 4.0, 4.1, 3.9], components=2)
        >>> sorted(round(mean[0], 3) for mean in mixture["means"])
        [-1.0, 4.0]
    """
    from sklearn.mixture import GaussianMixture

    values = np.asarray(targets, dtype=np.float64)
    values = values.reshape(len(values), -1)
    if len(values) < components or not np.isfinite(values).all():
        raise ValueError(f"targets has {len(values)} rows: at least components={components} finite ones are needed")
    fitted = GaussianMixture(components, covariance_type="diag", random_state=seed).fit(values)
    return {
        "weights": fitted.weights_.tolist(),
        "means": fitted.means_.tolist(),
        "variances": fitted.covariances_.tolist(),
    }
