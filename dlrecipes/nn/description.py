"""What a network is: depth, width, parameters, operations, memory, and what it sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from torch import nn

from dlrecipes.nn.costs import Costs, count_costs
from dlrecipes.nn.fields.theoretical import LayerField, ReceptiveField, receptive_field
from dlrecipes.nn.meta import image_channels, pair

__all__ = ["Description", "Stage", "describe"]


@dataclass(frozen=True)
class Stage:
    """The layers whose maps have one size.

    Attributes:
        map_size: rows and columns; None: behind the last map: a classifier's head, a transformer's blocks.
        layers: calls of layers with weights (convolutions, linear layers).
        width: most channels of an output.
        parameters: of these layers and what belongs to them.
        flops: of them, for one image.
        field: height and width in pixels that the stage's last unit sees along local paths; None: nothing.
    """

    map_size: tuple[int, int] | None
    layers: int
    width: int
    parameters: int
    flops: int
    field: tuple[int, int] | None


@dataclass(frozen=True)
class Description:
    """Facts about a network and one image; ``str()`` sums them up, ``table()`` shows its stages.

    Attributes:
        name: class of the model.
        image_size: height and width in pixels.
        depth: layers with weights on the longest way from the image to the output.
        parameters: numbers that can be learnt, and those that are fixed.
        trainable: numbers that are.
        parameter_bytes: of all parameters and buffers.
        flops: of a forward pass; a multiply-add is two.
        live_bytes: most bytes of activations at a time in evaluation.
        saved_bytes: of activations that a training step keeps for its backward pass; None: not known.
        stages: in the order of the network.
        field: receptive fields, layer by layer.
    """

    name: str
    image_size: tuple[int, int]
    depth: int
    parameters: int
    trainable: int
    parameter_bytes: int
    flops: int
    live_bytes: int
    saved_bytes: int | None
    stages: tuple[Stage, ...]
    field: ReceptiveField

    def table(self) -> Table:
        """The stages, for rich's ``print``."""
        table = Table(box=None, pad_edge=False)
        for title in ("map", "layers", "width", "parameters", "MFLOPs", "field"):
            table.add_column(title, justify="right")
        for stage in self.stages:
            table.add_row(
                "-" if stage.map_size is None else f"{stage.map_size[0]}x{stage.map_size[1]}",
                str(stage.layers),
                str(stage.width),
                f"{stage.parameters:,}",
                f"{stage.flops / 1e6:,.1f}",
                "-" if stage.field is None else f"{stage.field[0]}x{stage.field[1]}",
            )
        return table

    def __str__(self) -> str:
        frozen = "" if self.trainable == self.parameters else f" ({self.trainable:,} trainable)"
        saved = "unknown" if self.saved_bytes is None else _bytes(self.saved_bytes)
        return "\n".join(
            [
                f"{self.name} for an image of {self.image_size[0]}x{self.image_size[1]} pixels",
                f"depth       {self.depth} layers with weights on the longest way",
                f"parameters  {self.parameters:,}{frozen}, {_bytes(self.parameter_bytes)}",
                f"operations  {_large(self.flops)}FLOPs forward ({_large(self.flops / 2)} multiply-adds)",
                f"activations {_bytes(self.live_bytes)} at most in evaluation, {saved} kept for the backward pass",
            ]
        )


def describe(model: nn.Module, image_size: int | tuple[int, int] = 224, *, channels: int | None = None) -> Description:
    """Depth, width by stage, parameters, operations, memory and receptive fields of a network, for one image.

    Nothing is computed: shapes go through a copy without numbers. Operations are those of torch's ``FlopCounterMode``
    (convolutions, linear layers, matrix products), memory that of the tensors that torch makes and that autograd saves.

    Args:
        model: images [1, channels, H, W] → anything; it is not changed.
        image_size: side in pixels, or (height, width).
        channels: of the image; default: what the first convolution takes.

    Raises:
        ValueError: a size below 1.
        UserError: a model that does not take such an image.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> facts = describe(net.append(nn.Linear(8, 10)), 32)
        >>> facts.depth, facts.parameters, facts.flops  # 224 + 90, 2 * (32 * 32 * 8 * 27 + 8 * 10)
        (2, 314, 442528)
    """
    size = pair("image_size", image_size)
    channels = image_channels(model) if channels is None else channels
    field = receptive_field(model, size, channels=channels)
    costs = count_costs(model, channels, size)
    parameters = list(model.parameters())
    return Description(
        name=type(model).__name__,
        image_size=size,
        depth=field.depth,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        parameter_bytes=sum(t.numel() * t.element_size() for t in [*parameters, *model.buffers()]),
        flops=costs.flops[""],
        live_bytes=costs.live,
        saved_bytes=costs.saved,
        stages=tuple(_stages(model, field.layers, costs)),
        field=field,
    )


def _stages(model: nn.Module, layers: Sequence[LayerField], costs: Costs) -> list[Stage]:
    """Layers of one map size, in the order of the first of them; each module's own share goes to its first layer's."""
    groups: dict[tuple[int, int] | None, list[LayerField]] = {}
    home: dict[str, tuple[int, int] | None] = {}
    last = max((index for index, layer in enumerate(layers) if layer.map_size), default=-1)
    size = next((layer.map_size for layer in layers if layer.map_size), None)
    for index, layer in enumerate(layers):
        size = layer.map_size or (size if index <= last else None)  # a gate belongs to the maps around it
        groups.setdefault(size, []).append(layer)
        parts = layer.name.split(".")
        for length in range(len(parts) + 1):
            home.setdefault(".".join(parts[:length]), size)
    sizes = sorted(groups, key=lambda size: _order(size, groups[size]))
    parameters, flops = dict.fromkeys(sizes, 0), dict.fromkeys(sizes, 0)
    counted: set[int] = set()
    for name, module in model.named_modules():
        size = home.get(name, sizes[-1])
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, own))
        parameters[size] += sum(p.numel() for p in own)
        below = (costs.flops.get(f"{name}.{child}" if name else child, 0) for child, _ in module.named_children())
        flops[size] += costs.flops.get(name, 0) - sum(below)
    leaves = {name: module for name, module in model.named_modules() if next(module.children(), None) is None}
    weighted = {name for name, module in leaves.items() if any(p.dim() > 1 for p in module.parameters())}
    return [_stage(size, groups[size], weighted, parameters[size], flops[size]) for size in sizes]


def _order(size: tuple[int, int] | None, layers: Sequence[LayerField]) -> tuple[bool, int, int]:
    """As the image goes: by depth; a shortcut's map, which is called before its branch's, after them."""
    return size is None, min(layer.depth for layer in layers), 0 if size is None else -size[0] * size[1]


def _stage(
    size: tuple[int, int] | None, layers: list[LayerField], weighted: set[str], parameters: int, flops: int
) -> Stage:
    maps = [layer.shape for layer in layers if layer.map_size is not None]
    widths = [math.prod(shape) // (size[0] * size[1]) for shape in maps] if size is not None else []
    plain = [layer.shape[-1] for layer in layers if len(layer.shape) <= 3] or [layers[-1].shape[1]]
    seen = [layer.size for layer in layers if layer.size is not None]
    return Stage(
        map_size=size,
        layers=sum(layer.name in weighted for layer in layers),
        width=max(widths or plain),
        parameters=parameters,
        flops=flops,
        field=seen[-1] if seen else None,
    )


def _large(number: float) -> str:
    """``3.63 G``."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} "


def _bytes(number: int) -> str:
    """``12.3 MB``: decimal, as memory of devices is sold."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"
