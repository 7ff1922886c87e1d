"""Activations as modules and as functions, by one name, and the rule of initialisation that each asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlrecipes.nn.init.gain import activation_gain

__all__ = ["NO_ACTIVATION", "Activation", "activation_of", "function_activation"]

_HE = ("relu", "relu6", "leaky_relu", "prelu", "rrelu")
_GLOROT = ("tanh", "hardtanh", "softsign", "sigmoid", "hardsigmoid", "logsigmoid")
_MODULES: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.ReLU6, "relu6"),  # before Hardtanh, which it is made from
    (nn.Hardtanh, "hardtanh"),
    (nn.ReLU, "relu"),
    (nn.LeakyReLU, "leaky_relu"),
    (nn.PReLU, "prelu"),
    (nn.RReLU, "rrelu"),
    (nn.ELU, "elu"),
    (nn.CELU, "celu"),
    (nn.SELU, "selu"),
    (nn.SiLU, "silu"),
    (nn.GELU, "gelu"),
    (nn.Mish, "mish"),
    (nn.Softplus, "softplus"),
    (nn.Hardswish, "hardswish"),
    (nn.Tanh, "tanh"),
    (nn.Softsign, "softsign"),
    (nn.Sigmoid, "sigmoid"),
    (nn.Hardsigmoid, "hardsigmoid"),
    (nn.LogSigmoid, "logsigmoid"),
)
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "silu": F.silu,
    "gelu": F.gelu,
    "mish": F.mish,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "tanh": torch.tanh,
    "hardtanh": F.hardtanh,
    "softsign": F.softsign,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "logsigmoid": F.logsigmoid,
}


class Activation(NamedTuple):
    """What follows a layer.

    Attributes:
        name: as in ``torch.nn.functional``; ``"none"``.
        slope: of the negative half, for the ReLU family.
    """

    name: str
    slope: float = 0.0

    @property
    def scheme(self) -> str:
        """``"he"`` for the ReLU family, ``"glorot"`` for what saturates on both sides, ``"lecun"`` for SELU and where
        nothing follows, ``"computed"`` for all others."""
        if self.name in _HE:
            return "he"
        if self.name in _GLOROT:
            return "glorot"
        return "lecun" if self.name in ("selu", "none") else "computed"

    @property
    def gain(self) -> float:
        """Of the scheme: :math:`\\sqrt{2 / (1 + a^2)}` for He's, 1 for Glorot's and LeCun's, else
        :func:`activation_gain`."""
        if self.scheme == "he":
            return math.sqrt(2 / (1 + self.slope**2))
        return _computed(self.name) if self.scheme == "computed" else 1.0

    def __str__(self) -> str:
        return f"{self.name}({self.slope:g})" if self.slope else self.name


NO_ACTIVATION = Activation("none")


@cache
def _computed(name: str) -> float:
    return activation_gain(_FUNCTIONS[name])


def activation_of(module: nn.Module) -> Activation | None:
    """The activation that a module is; None: it is none.

    Example:
        >>> activation_of(nn.LeakyReLU(0.2)), activation_of(nn.Linear(1, 1))
        (Activation(name='leaky_relu', slope=0.2), None)
    """
    name = next((name for kind, name in _MODULES if isinstance(module, kind)), None)
    if name is None:
        return None
    if isinstance(module, nn.LeakyReLU):
        return Activation(name, module.negative_slope)
    if isinstance(module, nn.PReLU):
        return Activation(name, float(module.weight.detach().mean()))
    if isinstance(module, nn.RReLU):
        return Activation(name, (module.lower + module.upper) / 2)
    return Activation(name)


def function_activation(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Activation | None:
    """The activation that a call is; None: it is none.

    Args:
        target: a function, or the name of a tensor's method.
        args, kwargs: of the call.

    Example:
        >>> function_activation(F.leaky_relu, (None, 0.3), {}), function_activation("relu_", (None,), {})
        (Activation(name='leaky_relu', slope=0.3), Activation(name='relu', slope=0.0))
    """
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    name = name.rstrip("_")
    if name not in _FUNCTIONS:
        return None
    if name == "leaky_relu":
        slope = args[1] if len(args) > 1 else kwargs.get("negative_slope", 0.01)
        return Activation(name, float(slope))
    return Activation(name)
