"""Activations by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

__all__ = ["ACTIVATIONS", "activation"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "leaky_relu": nn.LeakyReLU,
    "none": nn.Identity,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
"""Name of an activation -> what makes it."""


def activation(name: str) -> nn.Module:
    """An activation by name.

    Raises:
        ValueError: not in ``ACTIVATIONS``.

    Example:
        >>> activation("leaky_relu")
        LeakyReLU(negative_slope=0.01)
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"act={name!r}: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
