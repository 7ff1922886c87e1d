"""What the units of each activation do over many batches: counted where they are computed, read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dlrecipes.nn.init.gain import WEIGHTED
from dlrecipes.nn.init.graph import NORMS
from dlrecipes.nn.init.rule import activation_of

__all__ = ["LayerActivity", "UnitActivity", "merge_activities"]

_RANGES = {"tanh": (-1.0, 1.0), "softsign": (-1.0, 1.0), "sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0)}
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)


class LayerActivity(NamedTuple):
    """Of one activation.

    Attributes:
        kind: its class.
        bounded: whether it can saturate.
        values: outputs of each unit that were counted.
        alive: bool [units]: any of them was not 0.
        saturated: int64 [units]: how many lay beyond ``beyond`` of the way from the middle of the range to its ends.
        square: float64 [units], their sum of squares; not finite if one of them was not.
    """

    kind: str
    bounded: bool
    values: int
    alive: Tensor
    saturated: Tensor
    square: Tensor

    @property
    def dead(self) -> Tensor:
        """bool [units]: 0 for every input. Units with a bounded range are never called so."""
        return ~self.alive & (not self.bounded)

    @property
    def rms(self) -> Tensor:
        """float64 [units]."""
        return (self.square / max(self.values, 1)).sqrt()


class UnitActivity:
    """Watches the activation modules of a model by forward hooks, whenever ``watching`` is True.

    A unit is a channel of a map, or a feature of a vector: the last axis behind linear layers and layer norms, axis 1
    behind convolutions and batch norms. Nothing is copied to the host before :meth:`take`. What is called as a function
    (``F.relu``) has no hook, and ``torch.compile`` may pass hooks by.

    Args:
        model: any; its output is not changed.
        beyond: from which share of its range on an output is saturated.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> _ = nn.init.zeros_(net[0].weight), net[0].bias.data.copy_(torch.tensor([1.0, -1.0, 2.0]))
        >>> activity = UnitActivity(net)
        >>> activity.watching = True
        >>> _ = net(torch.zeros(5, 2))
        >>> activity.take()["1"].dead.tolist()
        [False, True, False]
        >>> activity.remove()
    """

    def __init__(self, model: nn.Module, beyond: float = 0.97) -> None:
        self.beyond = beyond
        self.watching = False
        self.names: list[str] = []
        self._axis: int | None = None  # of units, by the layer that was called last
        self._found: dict[str, LayerActivity] = {}
        self._handles = []
        for name, module in model.named_modules():
            if isinstance(module, (*WEIGHTED, *NORMS)):
                axis = -1 if isinstance(module, _CHANNELS_LAST) else 1
                self._handles.append(module.register_forward_hook(self._layer_hook(axis)))
            elif (activation := activation_of(module)) is not None:
                self.names.append(name)
                self._handles.append(module.register_forward_hook(self._activation_hook(name, activation.name)))

    def take(self) -> dict[str, LayerActivity]:
        """What was counted since the last call, on the host, by name; the counting begins anew."""
        found = {
            name: layer._replace(alive=layer.alive.cpu(), saturated=layer.saturated.cpu(), square=layer.square.cpu())
            for name, layer in self._found.items()
        }
        self._found = {}
        return found

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _layer_hook(self, axis: int) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            self._axis = axis

        return note

    def _activation_hook(self, name: str, activation: str) -> Callable[..., None]:
        bounds = _RANGES.get(activation)

        def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if self.watching:
                fresh = self._count(type(module).__name__, bounds, output.detach())
                self._found[name] = _add(self._found[name], fresh) if name in self._found else fresh

        return count

    def _count(self, kind: str, bounds: tuple[float, float] | None, output: Tensor) -> LayerActivity:
        axis = self._axis if self._axis is not None else (1 if output.ndim > 3 else -1)
        values = output.movedim(axis, -1).reshape(-1, output.shape[axis]).float()
        saturated = torch.zeros(values.shape[1], dtype=torch.int64, device=values.device)
        if bounds is not None:
            middle, half = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2
            saturated = ((values - middle).abs() > self.beyond * half).sum(0)
        square = values.square().sum(0).double()
        return LayerActivity(kind, bounds is not None, len(values), (values != 0).any(0), saturated, square)


def _add(one: LayerActivity, other: LayerActivity) -> LayerActivity:
    return one._replace(
        values=one.values + other.values,
        alive=one.alive | other.alive,
        saturated=one.saturated + other.saturated,
        square=one.square + other.square,
    )


def merge_activities(parts: Iterable[Mapping[str, LayerActivity]]) -> dict[str, LayerActivity]:
    """Counts of several devices as if one had seen all inputs.

    Args:
        parts: a dict of each device.
    """
    merged: dict[str, LayerActivity] = {}
    for part in parts:
        for name, layer in part.items():
            merged[name] = _add(merged[name], layer) if name in merged else layer
    return merged
