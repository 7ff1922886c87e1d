"""Layer-sequential unit variance: weights that give every layer's output a variance of 1, for any activation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.nn.init.gain import WEIGHTED
from dlrecipes.nn.init.probe import BATCH_NORMS, as_at_start, call_model

__all__ = ["LSUVRow", "LSUVTable", "lsuv_"]


class LSUVRow(NamedTuple):
    """What was done to one layer.

    Attributes:
        name: of the layer.
        before: standard deviation of its output with orthonormal weights.
        after: the same at the end; NaN for a layer that a batch norm normalises, which stays orthonormal.
        tries: how often its output was measured.
    """

    name: str
    before: float
    after: float
    tries: int


class LSUVTable(NamedTuple):
    """What ``lsuv_`` did; ``table()`` shows it for rich's ``print``.

    Attributes:
        rows: layers in the order in which they are called.
    """

    rows: tuple[LSUVRow, ...]

    def table(self) -> Table:
        """A row for each layer, to be printed by rich."""
        table = Table("layer", box=None, pad_edge=False)
        for title in ("std before", "after", "tries"):
            table.add_column(title, justify="right")
        for row in self.rows:
            after = "batch norm" if math.isnan(row.after) else f"{row.after:.3f}"
            table.add_row(row.name, f"{row.before:.3g}", after, str(row.tries))
        return table


def lsuv_(
    model: nn.Module,
    batch: Any,
    *,
    tolerance: float = 0.01,
    tries: int = 10,
    skip_normalised: bool = True,
    generator: torch.Generator | None = None,
) -> LSUVTable:
    """Start weights orthonormal, then scale layer after layer until its output has a variance of 1 for a batch (Mishkin
    and Matas, 2016, arXiv:1511.06422). No rule about activations is needed: the batch is asked.

    Linear and convolution layers are started, in the order in which they are called; biases as 0. Batch norms use the
    batch and dropout is off, and running statistics stay as they were. Frozen layers are left as they are.

    Under DDP call it before ``trainer.fit``: the weights of rank 0 go to all.

    Args:
        model: changed in place.
        batch: one input like those of training (normalised, some dozens of samples): a tensor, a tuple of inputs, or a
            dict of them by name.
        tolerance: of the variance, 1 ± ``tolerance``.
        tries: how often a layer may be measured.
        skip_normalised: layers whose output goes straight into a batch norm are not scaled, since it would be undone.
        generator: of the orthonormal start; default: torch's own.

    Returns:
        A row for each layer.

    Raises:
        ValueError: a tolerance that is not above 0, or fewer than one try.
        UserError: no layer to start; one whose output is the same for the whole batch, or not finite.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
        >>> table = lsuv_(net, torch.randn(256, 8, generator=torch.Generator().manual_seed(0)))
        >>> [round(row.after, 1) for row in table.rows]
        [1.0, 1.0]
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance}: must be above 0")
    if tries < 1:
        raise ValueError(f"tries={tries}: at least 1 is needed")
    with torch.no_grad(), as_at_start(model):
        order, normalised = _order(model, batch)
        for _, layer in order:
            nn.init.orthogonal_(layer.get_parameter("weight"), generator=generator)
            if isinstance(layer.bias, Tensor):
                nn.init.zeros_(layer.bias)
        rows = [
            _scale(name, layer, model, batch, tolerance, 0 if skip_normalised and name in normalised else tries)
            for name, layer in order
        ]
    return LSUVTable(tuple(rows))


class _Reached(Exception):
    """The layer that was waited for has been called: what comes behind it is not needed."""


def _order(model: nn.Module, batch: Any) -> tuple[list[tuple[str, nn.Module]], set[str]]:
    """Layers in order of their first call, and those whose output is the very input of a batch norm."""
    layers: dict[str, nn.Module] = {}
    outputs: list[tuple[str, Tensor]] = []  # kept, so that no address is used twice
    normalised: set[str] = set()

    def called(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
            layers.setdefault(name, module)
            outputs.append((name, output))

        return note

    def norm(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        normalised.update(name for name, output in outputs if inputs and output is inputs[0])

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, WEIGHTED) and _is_free(module):
            handles.append(module.register_forward_hook(called(name)))
        elif isinstance(module, BATCH_NORMS):
            handles.append(module.register_forward_pre_hook(norm))
    try:
        call_model(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if not layers:
        raise UserError(f"{type(model).__name__} calls no linear or convolution layer that could be started")
    return list(layers.items()), normalised


def _is_free(module: nn.Module) -> bool:
    weight = dict(module.named_parameters(recurse=False)).get("weight")  # none, if it is made from others
    return weight is not None and weight.requires_grad


def _scale(name: str, layer: nn.Module, model: nn.Module, batch: Any, tolerance: float, tries: int) -> LSUVRow:
    """Divide the weights by the standard deviation until it is 1; measure only, for no tries."""
    before = std = _output_std(layer, model, batch)
    measured = 1
    while measured <= tries and not abs(std**2 - 1) <= tolerance:  # not, for NaN
        if not (math.isfinite(std) and std > 0):
            what = "the same for the whole batch" if std == 0 else "not finite"
            raise UserError(f"the output of the layer {name!r} is {what}: look at the batch and the layers before it")
        layer.get_parameter("weight").div_(std)
        std = _output_std(layer, model, batch)
        measured += 1
    return LSUVRow(name, before, std if tries else math.nan, measured)


def _output_std(layer: nn.Module, model: nn.Module, batch: Any) -> float:
    found: list[float] = []

    def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(float(output.float().std(unbiased=False)))
        raise _Reached

    handle = layer.register_forward_hook(stop)
    try:
        call_model(model, batch)
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]
