"""Losses over exclusive classes of which some are rare."""

from __future__ import annotations

import torch
from torch import Tensor

from dlrecipes.functional.losses.classes import along_classes, per_class, prepare_classes
from dlrecipes.functional.losses.classification import cross_entropy
from dlrecipes.functional.losses.reduce import upcast

__all__ = ["logit_adjusted_cross_entropy", "post_hoc_logit_adjustment", "vector_scaling_loss"]


def _log_prior(prior: Tensor, logits: Tensor, name: str = "prior") -> Tensor:
    """Log frequencies, up to a constant, in a shape that adds to the logits [B, C, ...]."""
    log_prior = per_class(name, prior, logits).clamp(min=torch.finfo(logits.dtype).tiny).log()
    return along_classes(log_prior, logits)


def logit_adjusted_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    prior: Tensor,
    *,
    tau: float = 1.0,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross entropy of logits plus the classes' log frequencies π (Menon et al., 2021, arXiv:2007.07314, eq. 10).

    .. math:: \ell = \text{CE}(\text{logits} + τ \log π, \text{target})

    Training learns what the frequencies do not explain, so the bare logits are a classifier for balanced classes:
    predict from them, without the adjustment.

    Args:
        logits: float [B, C, ...]; computed in float32 or wider.
        targets: int64 [B, ...] labels, or float [B, C, ...] probabilities. No gradient flows into them.
        prior: float or int [C], frequency of each class in the training data, above 0; counts do, only ratios matter.
        tau: strength, >= 0; 0 is cross entropy, 1 is consistent for the balanced error.
        label_smoothing, ignore_index, sample_weight: as in ``cross_entropy``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; the mean divides as in ``cross_entropy``.

    Returns:
        A scalar, or with ``"none"`` the labels' shape [B, ...]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> logits, prior = torch.tensor([[0.0, 0.0]]), torch.tensor([90, 10])
        >>> logit_adjusted_cross_entropy(logits, torch.tensor([1]), prior)  # -log 0.1
        tensor(2.3026)
    """
    logits, targets = prepare_classes(logits, targets)
    return cross_entropy(
        logits + tau * _log_prior(prior, logits),
        targets,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        sample_weight=sample_weight,
        reduction=reduction,
    )


def post_hoc_logit_adjustment(
    logits: Tensor, prior: Tensor, *, tau: float = 1.0, target_prior: Tensor | None = None
) -> Tensor:
    r"""Logits of a network trained as usual, corrected for the classes' frequencies at prediction (Menon et al., 2021,
    arXiv:2007.07314, eq. 9).

    .. math:: \text{logits} - τ \log π \;(+ \log π_{\text{target}})

    With τ = 1 and a calibrated network, Bayes' rule: the probabilities for balanced classes, or for classes as frequent
    as ``target_prior`` says. Not for a network that was trained with the adjustment, a balancing sampler or class
    weights: its logits are corrected already.

    Args:
        logits: float [B, C, ...]; computed in float32 or wider.
        prior: float or int [C], frequency of each class in the training data, above 0; only ratios matter.
        tau: strength; tune it on validation data.
        target_prior: float or int [C], frequencies where the network is used; None: all the same.

    Returns:
        The logits' shape; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> post_hoc_logit_adjustment(torch.tensor([[2.0, 0.0]]), torch.tensor([90, 10])).softmax(1)
        tensor([[0.4509, 0.5491]])
    """
    logits = upcast(logits)
    adjusted = logits - tau * _log_prior(prior, logits)
    return adjusted if target_prior is None else adjusted + _log_prior(target_prior, logits, "target_prior")


def vector_scaling_loss(
    logits: Tensor,
    targets: Tensor,
    counts: Tensor,
    *,
    gamma: float = 0.15,
    tau: float = 1.0,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""VS loss: cross entropy of logits that are scaled and shifted by class (Kini et al., 2021, arXiv:2103.01550).

    With counts n, :math:`Δ_c = (n_c / \max n)^γ` and frequencies π:

    .. math:: \ell = \text{CE}(Δ \circ \text{logits} + τ \log π, \text{target})

    The shift matters early in training; the scale decides the margins once the training error is zero.

    Args:
        logits: float [B, C, ...]; computed in float32 or wider.
        targets: int64 [B, ...] labels, or float [B, C, ...] probabilities. No gradient flows into them.
        counts: float or int [C], samples of each class, above 0; only ratios matter.
        gamma: γ >= 0; 0 is ``logit_adjusted_cross_entropy``.
        tau: τ >= 0.
        label_smoothing, ignore_index, sample_weight: as in ``cross_entropy``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; the mean divides as in ``cross_entropy``.

    Returns:
        A scalar, or with ``"none"`` the labels' shape [B, ...]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> logits, counts = torch.tensor([[0.0, 10.0]]), torch.tensor([100, 1])
        >>> vector_scaling_loss(logits, torch.tensor([1]), counts, gamma=0.5, tau=0.0)  # -log sigmoid(10 / 10)
        tensor(0.3133)
    """
    logits, targets = prepare_classes(logits, targets)
    counts = per_class("counts", counts, logits)
    scale = along_classes((counts / counts.max()).pow(gamma), logits)
    return logit_adjusted_cross_entropy(
        scale * logits,
        targets,
        counts,
        tau=tau,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        sample_weight=sample_weight,
        reduction=reduction,
    )
