"""Class weights and counts that the user gives or the training data decides."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.functional.class_weights import ClassWeighting, class_weights, positive_weights

__all__ = ["ClassBalance", "ClassCounts", "ClassWeights"]

ClassWeights = Literal["inverse", "sqrt_inverse", "effective"] | list[float] | None


class ClassBalance(nn.Module):
    """The class weights of the loss that it is part of; called, it gives them.

    The weights are a buffer, so that they travel with the loss, but are not in its state: a checkpoint keeps the class
    counts, and ``bind`` makes the weights again.

    Args:
        loss: the loss's name, for messages.
        class_weights: a scheme of ``dlrecipes.functional.class_weights``, one number a class, or None for none.
        beta: of the scheme ``"effective"``, between 0 and 1.
        of_positives: weigh each class's positives against its negatives instead of the classes against one another.

    Attributes:
        weight: float32 [C]; None: 1 each.
        balances_classes: weights come from elsewhere during training (``dlrecipes.callbacks.DeferredReweighting``).

    Raises:
        ValueError: an unknown scheme, weights that are negative or not finite, beta outside (0, 1).
    """

    weight: Tensor | None
    balances_classes: bool = False

    def __init__(self, loss: str, class_weights: ClassWeights, *, beta: float, of_positives: bool = False) -> None:
        super().__init__()
        self.loss, self.class_weights, self.beta, self.of_positives = loss, class_weights, beta, of_positives
        if not 0 < beta < 1:
            raise ValueError(f"effective_beta={beta}: between 0 and 1, neither of them, is needed")
        weight = None
        if isinstance(class_weights, str):
            if class_weights not in get_args(ClassWeighting):
                raise ValueError(
                    f"class_weights={class_weights!r}: use 'inverse', 'sqrt_inverse', 'effective', or a number a class"
                )
        elif class_weights is not None:
            if not all(math.isfinite(w) and w >= 0 for w in class_weights):
                raise ValueError(f"class_weights={class_weights}: finite numbers, not below 0, are needed")
            weight = torch.as_tensor(class_weights, dtype=torch.float32).detach().clone()  # a tensor will do, too
        self.register_buffer("weight", weight, persistent=False)

    def bind(self, info: DataInfo) -> None:
        """Make the weights from ``info.class_counts``, if a scheme is to be followed.

        Raises:
            UserError: the number of given weights is not that of the classes.
        """
        if isinstance(self.class_weights, str):
            device = None if self.weight is None else self.weight.device
            if self.of_positives:
                weight = positive_weights(info.class_counts, info.num_train, self.class_weights, beta=self.beta)
            else:
                weight = class_weights(info.class_counts, self.class_weights, beta=self.beta)
            self.weight = weight.to(device)
        elif self.class_weights is not None and len(self.class_weights) != info.num_classes:
            raise UserError(
                f"{self.loss} has {len(self.class_weights)} class_weights, but the data has {info.num_classes} "
                f"classes: give one each, for {', '.join(info.classes)}"
            )

    def forward(self) -> Tensor | None:
        """float32 [C], or None.

        Raises:
            UserError: a scheme, and no ``bind`` yet.
        """
        if self.weight is None and self.class_weights is not None:
            raise UserError(
                f"{self.loss}(class_weights={self.class_weights!r}) must see the training data first: call "
                "loss.bind(info), as the tasks do, or give one number a class"
            )
        return self.weight


class ClassCounts(nn.Module):
    """How often each class occurs, for the loss that it is part of; called, it gives the numbers.

    They are a buffer outside the state, as ``ClassBalance``'s weights are, and for the same reason.

    Args:
        loss: the loss's name, for messages.
        argument: the name of the loss's argument, for messages.
        given: samples or frequency of each class, above 0; None: the training set's counts, which ``bind`` brings. A
            class without a sample then counts as having one, since log 0 or 1/0 would make its first sample infinitely
            bad.

    Raises:
        ValueError: numbers that are not finite or not above 0.
    """

    frequency: Tensor | None

    def __init__(self, loss: str, argument: str, given: list[float] | None) -> None:
        super().__init__()
        if given is not None and not all(math.isfinite(n) and n > 0 for n in given):
            raise ValueError(f"{argument}={given}: finite numbers above 0 are needed")
        self.loss, self.argument, self.given = loss, argument, given
        frequency = None if given is None else torch.as_tensor(given, dtype=torch.float32).detach().clone()
        self.register_buffer("frequency", frequency, persistent=False)

    def bind(self, info: DataInfo) -> None:
        """Take ``info.class_counts``, unless numbers were given.

        Raises:
            UserError: the number of given numbers is not that of the classes.
        """
        if self.given is None:
            device = None if self.frequency is None else self.frequency.device
            counts = torch.tensor(info.class_counts, dtype=torch.float32, device=device)
            self.frequency = counts.clamp(min=1)
        elif len(self.given) != info.num_classes:
            raise UserError(
                f"{self.loss} has {self.argument} for {len(self.given)} classes, but the data has {info.num_classes}: "
                f"give one number each, for {', '.join(info.classes)}"
            )

    def forward(self) -> Tensor:
        """float32 [C].

        Raises:
            UserError: no numbers given, and no ``bind`` yet.
        """
        if self.frequency is None:
            raise UserError(
                f"{self.loss} must see the training data first: call loss.bind(info), as the tasks do, or give "
                f"{self.argument}"
            )
        return self.frequency
