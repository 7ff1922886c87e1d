"""L1 that gives exact zeros: a soft threshold after each step, instead of a gradient that overshoots zero."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

__all__ = ["add_proximal_l1", "soft_threshold_", "zero_share"]


@torch.no_grad()
def soft_threshold_(parameters: Iterable[Tensor], amount: float) -> None:
    r"""Move every number towards 0 by ``amount`` and stop there: the proximal operator of ``amount`` times L1.

    .. math:: w \leftarrow \operatorname{sign}(w) \max(|w| - a, 0)

    Args:
        parameters: changed in place.
        amount: a ≥ 0.

    Raises:
        ValueError: a negative amount.

    Example:
        >>> w = torch.tensor([0.3, 0.05, -2.0])
        >>> soft_threshold_([w], 0.1)
        >>> w
        tensor([ 0.2000,  0.0000, -1.9000])
    """
    if amount < 0:
        raise ValueError(f"amount={amount}: must not be below 0")
    for parameter in parameters:
        parameter.copy_(F.softshrink(parameter, amount))


def add_proximal_l1(optimizer: Optimizer, strength: float, *, biases: bool = False) -> RemovableHandle:
    r"""After every step of the optimizer, a soft threshold of learning rate times strength on its parameters.

    With SGD this is proximal gradient descent (ISTA; Beck & Teboulle, 2009), whose limit is the minimum of
    :math:`f(w) + \lambda \lVert w \rVert_1`: a lasso for squared errors. With Adam and its like it is decoupled from
    the adaptive step, as AdamW's weight decay is, so λ means a pull per learning rate rather than a term of the loss.

    Args:
        optimizer: any of torch's; each parameter group's own learning rate counts.
        strength: λ ≥ 0.
        biases: also biases and the scales of norms, parameters of fewer than two axes.

    Returns:
        A handle with ``remove()``.

    Raises:
        ValueError: a negative strength.

    Example:
        >>> w = nn.Parameter(torch.tensor([[1.0, 0.01]]))
        >>> sgd = torch.optim.SGD([w], lr=0.1)
        >>> handle = add_proximal_l1(sgd, strength=0.5)
        >>> w.grad = torch.zeros_like(w)
        >>> sgd.step()
        >>> w.tolist()
        [[0.949999988079071, 0.0]]
    """
    if strength < 0:
        raise ValueError(f"strength={strength}: must not be below 0")

    def shrink(optimizer: Optimizer, args: object, kwargs: object) -> None:
        for group in optimizer.param_groups:
            trained = [p for p in group["params"] if p.grad is not None and (biases or p.dim() >= 2)]
            soft_threshold_(trained, float(group["lr"]) * strength)

    return optimizer.register_step_post_hook(shrink)


def zero_share(module: nn.Module, *, biases: bool = False) -> float:
    """Share of the weights that are exactly 0.

    Args:
        module: whose parameters are counted.
        biases: also those of fewer than two axes.

    Example:
        >>> layer = nn.Linear(4, 1)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
        >>> zero_share(layer)
        0.75
    """
    counted = [p for p in module.parameters() if biases or p.dim() >= 2]
    every = sum(p.numel() for p in counted)
    return sum(int((p == 0).sum()) for p in counted) / every if every else 0.0
