"""A remedy is enough: balancing by a sampler and by the loss at once turns the imbalance round."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["double_balance"]


def double_balance(sampler: str, loss: nn.Module | None) -> str | None:
    """A sentence of warning if the loss, too, gives rare classes more weight; None if it does not.

    A class with a tenth of another's samples would count ten times as much as that, not as much. A loss is seen to
    balance if it, or a part of it, has

    - ``class_weights``, or is one of torch's and has a ``weight`` or ``pos_weight`` of different numbers;
    - a ``prior`` or ``class_counts`` that it corrects for with a strength ``tau`` above 0, as logit adjustment does;
    - ``balances_classes = True``, as a loss of your own may say.

    Args:
        sampler: its mode; ``"instance"`` balances nothing.
        loss: any module.

    Example:
        >>> import torch
        >>> double_balance("class", nn.CrossEntropyLoss()) is None
        True
        >>> double_balance("class", nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0])))
        "The sampler ('class') and CrossEntropyLoss both balance the classes: rare ones then count twice over. Leave \
one of them out."
    """
    if sampler == "instance" or loss is None or not any(map(_balances, loss.modules())):
        return None
    return (
        f"The sampler ({sampler!r}) and {type(loss).__name__} both balance the classes: rare ones then count twice "
        "over. Leave one of them out."
    )


def _balances(part: nn.Module) -> bool:
    if getattr(part, "balances_classes", False) or getattr(part, "class_weights", None) is not None:
        return True
    if getattr(part, "tau", 0) and (hasattr(part, "prior") or hasattr(part, "class_counts")):
        return True
    if not isinstance(part, nn.CrossEntropyLoss | nn.NLLLoss | nn.BCEWithLogitsLoss | nn.MultiMarginLoss):
        return False  # another module's weight may be anything
    given = [getattr(part, name, None) for name in ("weight", "pos_weight")]
    return any(isinstance(weight, Tensor) and bool((weight != weight.flatten()[0]).any()) for weight in given)
