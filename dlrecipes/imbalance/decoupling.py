"""A second stage for the last layer alone: rare classes have weights that are too short, and the features are good."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.nn import CosineLinear

__all__ = ["CosineLinear", "LearnableWeightScaling", "last_linear", "reinit_classifier", "tau_normalise"]


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the network's classifier: the ``nn.Linear`` that was registered last.

    Raises:
        UserError: a network without a linear layer.

    Example:
        >>> last_linear(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
        ('2', Linear(in_features=3, out_features=2, bias=True))
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not found:
        raise UserError(f"{type(model).__name__} has no linear layer: give the classifier itself")
    return found[-1]


@torch.no_grad()
def tau_normalise(linear: nn.Linear, tau: float = 1.0) -> nn.Linear:
    r"""Bring each class's weights towards one length, in place (Kang et al., 2020, arXiv:1910.09217).

    .. math:: \tilde w_c = w_c / \|w_c\|^τ

    No training. Frequent classes have the longer weights after ordinary training; the bias, which leans their way too,
    becomes 0, as in the authors' code. Choose τ on validation data. Not for a network that was trained with a balancing
    sampler or loss: its weights are balanced already.

    Args:
        linear: the last layer.
        tau: τ in 0..1; 0 changes only the bias.

    Returns:
        ``linear``.

    Raises:
        ValueError: τ outside 0..1.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[4.0, 0.0], [0.0, 0.25]]))
        >>> tau_normalise(layer, 0.5).weight.data.tolist()
        [[2.0, 0.0], [0.0, 0.5]]
    """
    if not 0 <= tau <= 1:
        raise ValueError(f"tau={tau}: from 0 to 1 is needed")
    length = linear.weight.norm(dim=1, keepdim=True)
    linear.weight.div_(torch.where(length > 0, length, 1).pow(tau))
    if linear.bias is not None:
        linear.bias.zero_()
    return linear


class LearnableWeightScaling(nn.Module):
    r"""LWS (Kang et al., 2020, arXiv:1910.09217): one factor for each class is trained, on balanced samples; the
    weights keep their directions.

    .. math:: z_c = f_c\, (w_c \cdot x) + b_c

    With all factors 1 it is the layer itself. Only the factors get a gradient: ``linear`` is frozen.

    Args:
        linear: the trained last layer.

    Example:
        >>> layer = LearnableWeightScaling(nn.Linear(3, 2))
        >>> [name for name, p in layer.named_parameters() if p.requires_grad]
        ['factor']
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.factor = nn.Parameter(torch.ones_like(linear.weight[:, 0]))

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] → [..., classes]."""
        scores = self.factor * F.linear(input, self.linear.weight)
        return scores if self.linear.bias is None else scores + self.linear.bias

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """An ordinary layer with the factors in its weights, for export."""
        weight = self.linear.weight
        merged = nn.Linear(weight.shape[1], weight.shape[0], self.linear.bias is not None).to(weight)
        merged.weight.copy_(self.factor[:, None] * weight)
        if self.linear.bias is not None:
            merged.bias.copy_(self.linear.bias)
        return merged


@torch.no_grad()
def reinit_classifier(model: nn.Module, *, seed: int = 0) -> nn.Linear:
    """Prepare cRT (Kang et al., 2020, arXiv:1910.09217): everything is frozen but the last layer, which starts anew.

    Train it then for a few epochs on class-balanced samples, with the batch norms in evaluation mode: statistics that
    follow the balanced samples would change the features.

    Args:
        model: a trained network.
        seed: of the new weights, as ``nn.Linear`` draws them: uniform within ±1/√in_features.

    Returns:
        The last layer, the only one with parameters to train.

    Raises:
        UserError: a network without a linear layer.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> _ = reinit_classifier(net)
        >>> [name for name, p in net.named_parameters() if p.requires_grad]
        ['2.weight', '2.bias']
    """
    _, linear = last_linear(model)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(linear.in_features)
    for parameter in (linear.weight, linear.bias):
        if parameter is not None:
            values = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            parameter.copy_(values)
            parameter.requires_grad_(True)
    return linear
