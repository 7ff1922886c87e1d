"""Losses of classifiers that see some classes rarely: what the frequencies explain is added to the logits."""

from __future__ import annotations

from torch import Tensor

from dlrecipes.contracts import DataInfo
from dlrecipes.functional.losses.longtail import logit_adjusted_cross_entropy, vector_scaling_loss
from dlrecipes.functional.losses.reduce import Reduction
from dlrecipes.losses.balance import ClassCounts
from dlrecipes.losses.base import ClassLoss, check_range

__all__ = ["BalancedSoftmaxLoss", "LogitAdjustedLoss", "VSLoss"]


class LogitAdjustedLoss(ClassLoss):
    """Cross entropy that allows for the classes' frequencies (``dlrecipes.functional.losses.longtail``).

    Predict from the bare logits: they are fit for balanced classes. When: the first thing to try where the test counts
    all classes the same. It hurts where the test is as unbalanced as the training set. Not together with a sampler or
    with class weights that balance: the frequencies would be corrected twice.

    Args:
        tau: strength, >= 0.
        prior: samples or frequency of each class, above 0; None: the training set's counts, which ``bind`` brings. A
            class without a sample then counts as having one, since log 0 would make its first sample infinitely bad.
        label_smoothing, ignore_index, reduction: as in ``CrossEntropyLoss``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> loss = LogitAdjustedLoss(prior=[90.0, 10.0])
        >>> loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor(2.3026)
    """

    def __init__(
        self,
        tau: float = 1.0,
        *,
        prior: list[float] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction)
        check_range("tau", tau, 0)
        self.tau, self.prior = tau, prior
        self.counts = ClassCounts(type(self).__name__, "prior", prior)

    def bind(self, info: DataInfo) -> None:
        """Learn how often each class occurs.

        Raises:
            UserError: data of another kind, or the number of given priors is not that of the classes.
        """
        super().bind(info)
        self.counts.bind(info)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [B, C, ...], labels [B, ...] or probabilities [B, C, ...], weights [B] → loss.

        Raises:
            UserError: neither ``prior`` nor ``bind``.
        """
        return logit_adjusted_cross_entropy(
            input,
            target,
            self.counts(),
            tau=self.tau,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )


class BalancedSoftmaxLoss(LogitAdjustedLoss):
    """Balanced softmax (Ren et al., 2020, arXiv:2007.10740): each class's exponential counts as often as the
    class occurs, which is ``LogitAdjustedLoss`` with τ = 1.

    With logits z and counts n: p_c = n_c exp(z_c) / Σ_j n_j exp(z_j), and the loss is −log p of the label.

    Args:
        prior, label_smoothing, ignore_index, reduction: as in ``LogitAdjustedLoss``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> loss = BalancedSoftmaxLoss(prior=[90.0, 10.0])
        >>> loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor(2.3026)
    """

    def __init__(
        self,
        *,
        prior: list[float] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            1.0, prior=prior, label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction
        )


class VSLoss(ClassLoss):
    """Vector scaling: logits are also multiplied, so that the correction survives training to zero error
    (``dlrecipes.functional.losses.vector_scaling_loss``). Predict from the bare logits.

    When: networks that fit the training set entirely, where additive adjustment fades. A large ``gamma`` makes the
    first epochs unstable. Not together with another correction of the frequencies.

    Args:
        gamma: strength of the multiplication, >= 0; 0 is ``LogitAdjustedLoss``.
        tau: strength of the addition, >= 0.
        class_counts: samples of each class, above 0; None: the training set's, which ``bind`` brings.
        label_smoothing, ignore_index, reduction: as in ``CrossEntropyLoss``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> loss = VSLoss(gamma=0.5, tau=0.0, class_counts=[100.0, 1.0])  # the second logit counts a tenth
        >>> loss(torch.tensor([[0.0, 10.0]]), torch.tensor([1]))
        tensor(0.3133)
    """

    def __init__(
        self,
        gamma: float = 0.15,
        tau: float = 1.0,
        *,
        class_counts: list[float] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction)
        check_range("gamma", gamma, 0)
        check_range("tau", tau, 0)
        self.gamma, self.tau, self.class_counts = gamma, tau, class_counts
        self.counts = ClassCounts("VSLoss", "class_counts", class_counts)
        self.balances_classes = gamma > 0 or tau > 0

    def bind(self, info: DataInfo) -> None:
        """Learn how often each class occurs."""
        super().bind(info)
        self.counts.bind(info)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [B, C, ...], labels [B, ...] or probabilities [B, C, ...], weights [B] → loss."""
        return vector_scaling_loss(
            input,
            target,
            self.counts(),
            gamma=self.gamma,
            tau=self.tau,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )
