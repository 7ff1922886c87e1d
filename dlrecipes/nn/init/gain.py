"""What an activation leaves of a signal, and the gain and the fan that make up for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["WEIGHTED", "Fans", "activation_gain", "fans"]

_REACH = 12.0  # standard deviations that the integral goes to: beyond it is less than 1e-30 of the whole
_POINTS = 96_001  # odd: 0, where most activations have their corner, is one of them

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers whose weights are started."""


class Fans(NamedTuple):
    """How many terms a number of a layer is the sum of.

    Attributes:
        fan_in: inputs that one output is the sum of.
        fan_out: outputs that one input goes into.
    """

    fan_in: float
    fan_out: float


def activation_gain(activation: Callable[[Tensor], Tensor]) -> float:
    r"""Factor by which weights must be larger so that an activation f leaves a signal's size as it was,

    .. math:: g = 1 / \sqrt{E[f(z)^2]}, \quad z \sim N(0, 1).

    For ReLU it is √2, and :math:`\sqrt{2 / (1 + a^2)}` for LeakyReLU of slope a (He et al., 2015, arXiv:1502.01852). A
    layer of n inputs with a mean square of 1, weights of standard deviation :math:`1 / \sqrt{n}` and this activation
    gives outputs with a mean square of :math:`1 / g^2`. Where f(cz) = c f(z), as for ReLU, g takes that back exactly;
    for SiLU, GELU and others it does where z has a variance of 1, and depth amplifies what is missing from that.

    Args:
        activation: elementwise, float64 [n] → [n].

    Raises:
        ValueError: an activation that is 0 everywhere or not finite.

    Example:
        >>> round(activation_gain(torch.relu), 6), round(activation_gain(torch.nn.SiLU()), 4)
        (1.414214, 1.6765)
    """
    z = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64, device="cpu")
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    with torch.no_grad():
        square = float(torch.trapezoid(activation(z.clone()).square() * density, z))
    if not (math.isfinite(square) and square > 0):
        raise ValueError(f"activation={activation}: its mean square is {square}, so it has no gain")
    return 1 / math.sqrt(square)


def fans(layer: nn.Module) -> Fans:
    """Fans of a linear, convolution or transposed convolution layer.

    Groups are divided by, which ``torch.nn.init`` leaves to the caller; a transposed convolution with stride s spreads
    its kernel, so that only every s-th tap in each direction meets an input.

    Args:
        layer: one of ``WEIGHTED``.

    Raises:
        TypeError: another layer.

    Example:
        >>> fans(nn.Conv2d(8, 16, 3)), fans(nn.Conv2d(8, 8, 3, groups=8))
        (Fans(fan_in=72, fan_out=144), Fans(fan_in=9, fan_out=9))
    """
    if isinstance(layer, nn.Linear):
        return Fans(layer.in_features, layer.out_features)
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        taps, steps = math.prod(layer.kernel_size), math.prod(layer.stride)
        return Fans(layer.in_channels // layer.groups * taps / steps, layer.out_channels // layer.groups * taps)
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        taps = math.prod(layer.kernel_size)
        return Fans(layer.in_channels // layer.groups * taps, layer.out_channels // layer.groups * taps)
    raise TypeError(f"{type(layer).__name__} is no linear or convolution layer")
