"""Losses of classifiers: over exclusive classes, and of several labels."""

from __future__ import annotations

from torch import Tensor

from dlrecipes.contracts import DataInfo
from dlrecipes.functional.losses.binary import asymmetric_loss, binary_cross_entropy, sigmoid_focal_loss
from dlrecipes.functional.losses.classification import cross_entropy, focal_loss, poly1_loss
from dlrecipes.functional.losses.reduce import Reduction
from dlrecipes.losses.balance import ClassBalance, ClassWeights
from dlrecipes.losses.base import ClassLoss, SigmoidLoss, check_range

__all__ = ["AsymmetricLoss", "BCELoss", "CrossEntropyLoss", "FocalLoss", "Poly1Loss", "SigmoidFocalLoss"]


class CrossEntropyLoss(ClassLoss):
    """Cross entropy of labels or soft targets: ``dlrecipes.functional.losses.cross_entropy``.

    When: one label an image, classes about as frequent as in the test; with ``class_weights`` where some are moderately
    rarer and count the same. Weights hurt at steep ratios: single images of a rare class then steer the training and
    spoil the features (bring them in late: ``dlrecipes.callbacks.DeferredReweighting``). Not together with a
    sampler that balances, unless without weights.

    Args:
        class_weights: what each class counts: one number each, or ``"inverse"``, ``"sqrt_inverse"``, ``"effective"``
            (``dlrecipes.functional.class_weights``) of the training set's counts, which ``bind`` brings; None: 1 each.
        effective_beta: β of ``"effective"``.
        label_smoothing: in 0..1.
        ignore_index: label of elements that are left out.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> loss = CrossEntropyLoss(class_weights=[1.0, 3.0])
        >>> loss(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor(0.5516)
    """

    def __init__(
        self,
        *,
        class_weights: ClassWeights = None,
        effective_beta: float = 0.999,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction)
        self.class_weights, self.effective_beta = class_weights, effective_beta
        self.balance = ClassBalance("CrossEntropyLoss", class_weights, beta=effective_beta)

    def bind(self, info: DataInfo) -> None:
        """Learn how often each class occurs."""
        super().bind(info)
        self.balance.bind(info)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [B, C, ...], labels [B, ...] or probabilities [B, C, ...], weights [B] → loss."""
        return cross_entropy(
            input,
            target,
            weight=self.balance(),
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )


class FocalLoss(ClassLoss):
    """Focal loss over exclusive classes: ``dlrecipes.functional.losses.focal_loss``. Of sigmoids: ``SigmoidFocalLoss``.

    When: most images are easy, and are to leave the training to the others. It hurts with wrong labels, which stay
    hard, and makes probabilities less sure; rare classes it lifts little by itself. Not together with
    ``label_smoothing``, which keeps easy images from becoming easy, and no ``class_weights`` with a sampler that
    balances.

    Args:
        gamma: how fast easy samples fade, >= 0.
        class_weights, effective_beta, label_smoothing, ignore_index, reduction: as in ``CrossEntropyLoss``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> FocalLoss(gamma=2.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor(0.1733)
    """

    def __init__(
        self,
        gamma: float = 2.0,
        *,
        class_weights: ClassWeights = None,
        effective_beta: float = 0.999,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction)
        check_range("gamma", gamma, 0)
        self.gamma, self.class_weights, self.effective_beta = gamma, class_weights, effective_beta
        self.balance = ClassBalance("FocalLoss", class_weights, beta=effective_beta)

    def bind(self, info: DataInfo) -> None:
        """Learn how often each class occurs."""
        super().bind(info)
        self.balance.bind(info)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [B, C, ...], labels [B, ...] or probabilities [B, C, ...], weights [B] → loss."""
        return focal_loss(
            input,
            target,
            gamma=self.gamma,
            weight=self.balance(),
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )


class Poly1Loss(ClassLoss):
    """Cross entropy plus ε₁ (1 − p): ``dlrecipes.functional.losses.poly1_loss``.

    Args:
        epsilon: ε₁, at least -1.
        label_smoothing, ignore_index, reduction: as in ``CrossEntropyLoss``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> Poly1Loss()(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor(1.1931)
    """

    def __init__(
        self,
        epsilon: float = 1.0,
        *,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction)
        check_range("epsilon", epsilon, -1)
        self.epsilon = epsilon

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [B, C, ...], labels [B, ...] or probabilities [B, C, ...], weights [B] → loss."""
        return poly1_loss(
            input,
            target,
            epsilon=self.epsilon,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )


class BCELoss(SigmoidLoss):
    """Binary cross entropy of logits, of one or several labels: ``dlrecipes.functional.losses.binary_cross_entropy``.

    When: several labels an image; of one label, where an image may also show none of the classes. It hurts where most
    labels are absent from most images: their easy negatives outweigh the positives, and of one label among ten it
    begins slowly (30 epochs of 300 digits: .62 right where cross entropy has .95, and torch's own does the same).
    ``class_weights`` raise all scores of rare labels, which are then too high to be probabilities. Not together with
    ``dlrecipes.imbalance``'s repeated sampling of rare labels: they would count twice over.

    Args:
        class_weights: what a positive of each class weighs against a negative: one number each, or ``"inverse"``,
            ``"sqrt_inverse"``, ``"effective"`` (``dlrecipes.functional.class_weights.positive_weights``) of the
            training set's counts, which ``bind`` brings; None: 1 each.
        effective_beta: β of ``"effective"``.
        label_smoothing: in 0..1.
        ignore_index: label of images that are left out, where each has one.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> BCELoss()(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
        tensor(1.4100)
    """

    def __init__(
        self,
        *,
        class_weights: ClassWeights = None,
        effective_beta: float = 0.999,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction)
        check_range("label_smoothing", label_smoothing, 0, 1)
        self.class_weights, self.effective_beta, self.label_smoothing = class_weights, effective_beta, label_smoothing
        self.ignore_index = ignore_index
        self.balance = ClassBalance("BCELoss", class_weights, beta=effective_beta, of_positives=True)

    def bind(self, info: DataInfo) -> None:
        """Learn how often each class occurs."""
        super().bind(info)
        self.balance.bind(info)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [B, C], targets in 0..1 [B, C] or labels [B], weights [B] → loss."""
        return binary_cross_entropy(
            input,
            target,
            pos_weight=self.balance(),
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )


class SigmoidFocalLoss(SigmoidLoss):
    """Focal loss of sigmoids, of one or several labels: ``dlrecipes.functional.losses.sigmoid_focal_loss``.

    When: nearly all elements are easy negatives, as the boxes of a detector or many labels are. It hurts with wrong or
    missing labels, which stay hard, and its scores are no probabilities. Not together with label smoothing, and no
    ``class_weights`` with a sampler that balances.

    Args:
        alpha: weight of positives in 0..1, 1 - alpha that of negatives; None: both weigh 1.
        gamma: how fast easy elements fade, >= 0.
        class_weights, effective_beta: as in ``BCELoss``; ``alpha`` weighs all classes' positives, these each class's.
        ignore_index: as in ``BCELoss``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> SigmoidFocalLoss()(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
        tensor(0.6404)
    """

    def __init__(
        self,
        alpha: float | None = 0.25,
        gamma: float = 2.0,
        *,
        class_weights: ClassWeights = None,
        effective_beta: float = 0.999,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction)
        if alpha is not None:
            check_range("alpha", alpha, 0, 1)
        check_range("gamma", gamma, 0)
        self.alpha, self.gamma, self.ignore_index = alpha, gamma, ignore_index
        self.class_weights, self.effective_beta = class_weights, effective_beta
        self.balance = ClassBalance("SigmoidFocalLoss", class_weights, beta=effective_beta, of_positives=True)

    def bind(self, info: DataInfo) -> None:
        """Learn how often each class occurs."""
        super().bind(info)
        self.balance.bind(info)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [B, C], targets in 0..1 [B, C] or labels [B], weights [B] → loss."""
        return sigmoid_focal_loss(
            input,
            target,
            alpha=self.alpha,
            gamma=self.gamma,
            pos_weight=self.balance(),
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )


class AsymmetricLoss(SigmoidLoss):
    """Asymmetric loss (ASL) for many labels, most of them absent: ``dlrecipes.functional.losses.asymmetric_loss``.

    When: dozens of labels and a few of them in an image, or labels that annotators forgot: ``clip`` leaves out the
    easiest negatives. It hurts where scores are to be probabilities: they are too high. Not together with
    ``class_weights`` or a sampler for rare labels as a first try: its asymmetry favours positives already.

    Args:
        gamma_pos: how fast easy positives fade, >= 0.
        gamma_neg: how fast easy negatives fade, >= 0.
        clip: probability below which a negative costs nothing, in 0..1.
        class_weights, effective_beta: as in ``BCELoss``.
        ignore_index: as in ``BCELoss``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``. The authors train with the sum.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> AsymmetricLoss()(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
        tensor(0.7698)
    """

    def __init__(
        self,
        gamma_pos: float = 0.0,
        gamma_neg: float = 4.0,
        clip: float = 0.05,
        *,
        class_weights: ClassWeights = None,
        effective_beta: float = 0.999,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction)
        check_range("gamma_pos", gamma_pos, 0)
        check_range("gamma_neg", gamma_neg, 0)
        check_range("clip", clip, 0, 1)
        self.gamma_pos, self.gamma_neg, self.clip, self.ignore_index = gamma_pos, gamma_neg, clip, ignore_index
        self.class_weights, self.effective_beta = class_weights, effective_beta
        self.balance = ClassBalance("AsymmetricLoss", class_weights, beta=effective_beta, of_positives=True)

    def bind(self, info: DataInfo) -> None:
        """Learn how often each class occurs."""
        super().bind(info)
        self.balance.bind(info)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [B, C], targets in 0..1 [B, C] or labels [B], weights [B] → loss."""
        return asymmetric_loss(
            input,
            target,
            gamma_pos=self.gamma_pos,
            gamma_neg=self.gamma_neg,
            clip=self.clip,
            pos_weight=self.balance(),
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )
