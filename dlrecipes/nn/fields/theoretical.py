"""What each layer of a network sees of the image: the exact theoretical receptive field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rich.table import Table
from torch import nn

from dlrecipes.contracts import Verdict
from dlrecipes.errors import UserError
from dlrecipes.nn.fields.advice import advise
from dlrecipes.nn.fields.reach import Place, TooLargeError
from dlrecipes.nn.fields.trace import Pass, TracedLayer, trace
from dlrecipes.nn.fields.units import UnitField, unit_field
from dlrecipes.nn.meta import image_channels, meta_copy, meta_image, pair

__all__ = ["LayerField", "ReceptiveField", "receptive_field"]

_LARGEST = 8192  # pixels of a canvas's side: more than twice the field of any network that is trained
_SECOND = 256  # pixels that the second canvas has at least


@dataclass(frozen=True)
class LayerField:
    """One call of one layer, or of a block whose output is not its last layer's.

    Attributes:
        name, kind: of the layer, ``"layer1.0.conv2"`` and ``"Conv2d 3x3"``; no name: the model's own output.
        shape: of its output for one image.
        map_size: rows and columns of the output; None: it is no map.
        size: height and width in pixels of what one unit in the middle sees along local paths; None: nothing, as behind
            a mean over the image.
        stride: pixels from one unit to the next, down and across; None: no map.
        offset: middle of the first unit's field, in pixels from the middle of the first pixel; None: no map.
        dims: which dimensions of ``shape`` are rows and columns; None: no map.
        whole: whether a unit sees all rows, and all columns, through a mean over the image, attention or the like.
        at_least: ``size`` is only a lower bound: the field grows with the image, or the model takes no image that is
            large enough to see where it ends.
        depth: layers with weights on the longest way from the image.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    map_size: tuple[int, int] | None
    size: tuple[int, int] | None
    stride: tuple[float, float] | None
    offset: tuple[float, float] | None
    dims: tuple[int, int] | None
    whole: tuple[bool, bool]
    at_least: bool
    depth: int


@dataclass(frozen=True)
class ReceptiveField:
    """Receptive fields of all layers; ``str()`` sums them up, ``table()`` shows the layers where something changes.

    Attributes:
        image_size: height and width of the image that maps are counted for.
        layers: in the order in which they are called.
        global_from: name of the first layer whose units see all rows or all columns of any image, through a mean,
            attention, or connections to all places; ``"forward"``: in the model's own; None: there is none.
        global_kind: its class; None: there is none.
        before_global: field of the last layer before that one, or ``size`` where there is none.
    """

    image_size: tuple[int, int]
    layers: tuple[LayerField, ...]
    global_from: str | None
    global_kind: str | None
    before_global: tuple[int, int]

    @property
    def last(self) -> LayerField:
        """The last layer that sees anything along local paths: of a classifier the last map before the mean."""
        return _last(self.layers)

    @property
    def size(self) -> tuple[int, int]:
        """Its field, height and width in pixels: what it sees along local paths, without gates and attention."""
        return self.last.size or (0, 0)

    @property
    def stride(self) -> tuple[float, float] | None:
        """Pixels from one of its units to the next; None: it is no map."""
        return self.last.stride

    @property
    def at_least(self) -> bool:
        """Whether ``size`` is a lower bound."""
        return self.last.at_least

    @property
    def depth(self) -> int:
        """Layers with weights on the longest way from the image to the end."""
        return max(layer.depth for layer in self.layers)

    def layer(self, name: str) -> LayerField:
        """The last call of a layer.

        Raises:
            UserError: no such layer.
        """
        found = [layer for layer in self.layers if layer.name == name]
        if not found:
            some = ", ".join(layer.name for layer in self.layers[:8])
            raise UserError(f"no layer {name!r} was called, but {some} ...: field.layers has all of them")
        return found[-1]

    def advice(self, object_sizes: Sequence[float]) -> list[Verdict]:
        """Field, stride and map against the sizes of what is to be seen.

        Args:
            object_sizes: sides of objects in pixels of the image as the network gets it: of all of them, or quantiles.

        Raises:
            ValueError: none, or one not above 0.
        """
        return advise(self.last, object_sizes, self.global_from)

    def table(self) -> Table:
        """The layers where map, field or what is seen changes, for rich's ``print``."""
        table = Table(box=None, pad_edge=False)
        longest = max(len(layer.name) for layer in self.layers)
        table.add_column("layer", min_width=longest, no_wrap=True)  # names are for copying
        table.add_column("kind", min_width=max(len(layer.kind) for layer in self.layers), no_wrap=True)
        for title in ("map", "stride", "field", "first at", "whole image"):
            table.add_column(title, justify="right", min_width=len(title), no_wrap=True)
        before: object = None
        for layer in self.layers:
            now = (layer.map_size, layer.size, layer.whole)
            if now != before:
                table.add_row(layer.name or "(output)", layer.kind, *_cells(layer))
            before = now
        return table

    def __str__(self) -> str:
        bound, where = "at least " if self.at_least else "", self.last.name or "output"
        stride = "" if self.stride is None else f", stride {_numbers(self.stride)}"
        lines = [f"receptive field {bound}{_numbers(self.size)} pixels{stride} ({where})"]
        if self.global_from is not None:
            before = _numbers(self.before_global)
            lines.append(f"whole image from {self.global_from} ({self.global_kind}) on; {before} pixels before it")
        return "\n".join(lines)


def receptive_field(
    model: nn.Module, size: int | tuple[int, int] = 224, *, channels: int | None = None
) -> ReceptiveField:
    """The exact theoretical receptive field of every layer (Araujo et al., 2019, doi:10.23915/distill.00021).

    An image without numbers is sent through a copy of the model, and every operation hands on which rows and columns
    each of its outputs depends on: branches, dilation, 1 × N, transposed convolution, resizing, windows of attention.
    It is repeated on larger canvases until two of them agree, so that no border cuts a field off.

    The field is the smallest rectangle around all pixels that a unit depends on for some weights. Attention masks are
    numbers and not looked at: shifted windows count as wrapped around the border. Through a mean over the image,
    attention or connections to all places a unit sees the whole image: the answer says from which layer on, and goes on
    with what is seen along the local paths beside it.

    Args:
        model: images [1, channels, H, W] → anything. It is not changed, and computes nothing.
        size: of the image in pixels: a side, or (height, width). Fields hardly ever depend on it, maps do.
        channels: of the image; default: what the first convolution takes.

    Returns:
        A line for each layer, and what they come to.

    Raises:
        ValueError: a size below 1.
        UserError: a model that does not take such images, or whose way depends on the numbers in them.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, (1, 5)))
        >>> field = receptive_field(net, 64)
        >>> field.size, field.stride, field.global_from
        ((11, 27), (4.0, 4.0), None)
    """
    real = pair("size", size)
    shapes = meta_copy(model).eval()
    channels = image_channels(model) if channels is None else channels
    canvases = _canvases(shapes, channels, real)
    layers = [_line(canvases, index) for index in range(len(canvases[0].rows))]
    if all(layer.size is None for layer in layers):
        raise UserError(f"{type(model).__name__} gives nothing that depends on the image")
    since = next((index for index, layer in enumerate(layers) if any(layer.whole)), None)
    if since is None:
        return ReceptiveField(real, tuple(layers), None, None, _last(layers).size or (0, 0))
    whole = [canvas for canvas in canvases if since < len(canvas.rows)][-1].rows[since].reach.whole
    place = whole[0] or whole[1] or Place("", "")
    before = [layer.size for layer in layers[:since] if layer.size is not None]
    return ReceptiveField(real, tuple(layers), place.name or "forward", place.kind, before[-1] if before else (1, 1))


@dataclass(frozen=True)
class _Canvas:
    """One pass, and what the middle of each layer saw."""

    size: tuple[int, int]
    rows: list[TracedLayer]
    fields: list[UnitField | None]


def _canvases(shapes: nn.Module, channels: int, real: tuple[int, int]) -> list[_Canvas]:
    """The real size, and multiples of it until all fields end well inside."""
    first = trace(shapes, meta_image(shapes, channels, real))
    if first.error is not None:
        raise UserError(_failure(shapes, first, channels)) from first.error
    canvases = [_canvas(first, None)]
    factor = max(2, math.ceil(_SECOND / max(real)))
    while factor * max(real) <= _LARGEST:
        size = (factor * real[0], factor * real[1])
        found = trace(shapes, meta_image(shapes, channels, size), first)
        canvases.append(_canvas(found, canvases[0]))
        if isinstance(found.error, TooLargeError) or all(
            map(partial(_settled, canvases), range(len(canvases[-1].rows)))
        ):
            break
        factor *= 2
    return canvases


def _canvas(found: Pass, first: _Canvas | None) -> _Canvas:
    """As far as the pass went the same way as the first."""
    rows = list(found.layers)
    if first is not None:
        same = [row.place == other.place for row, other in zip(rows, first.rows, strict=False)]
        rows = rows[: same.index(False) if False in same else len(same)]
    known: dict[int, UnitField | None] = {}  # activations hand on what they have seen unchanged
    for row in rows:
        if id(row.reach) not in known:
            known[id(row.reach)] = unit_field(row.reach, found.size)
    return _Canvas(found.size, rows, [known[id(row.reach)] for row in rows])


def _settled(canvases: Sequence[_Canvas], index: int) -> bool:
    """Whether a layer's field is known: alike on the last two canvases, and at most half of the larger one."""
    known = [canvas for canvas in canvases if index < len(canvas.rows)][-2:]
    fields = [canvas.fields[index] for canvas in known]
    last = fields[-1]
    if last is None:
        return True
    inside = all(2 * n <= side for n, side in zip(last.size, known[-1].size, strict=True))
    return inside and (len(fields) == 1 or (fields[0] is not None and fields[0].size == last.size))


def _line(canvases: Sequence[_Canvas], index: int) -> LayerField:
    """What the largest canvas that reached a layer says of it."""
    known = [canvas for canvas in canvases if index < len(canvas.rows)][-1]
    row, field = known.rows[index], known.fields[index]
    shape = tuple(canvases[0].rows[index].reach.shape)
    dims = None if field is None else field.dims
    return LayerField(
        name=row.place.name,
        kind=_kind(row),
        shape=shape,
        map_size=None if dims is None else (shape[dims[0]], shape[dims[1]]),
        size=None if field is None else field.size,
        stride=None if field is None else field.stride,
        offset=None if field is None else field.offset,
        dims=dims,
        whole=(row.reach.whole[0] is not None, row.reach.whole[1] is not None),
        at_least=not _settled(canvases, index),
        depth=row.reach.depth,
    )


def _last(layers: Sequence[LayerField]) -> LayerField:
    seeing = [layer for layer in layers if layer.size is not None]
    maps = [layer for layer in seeing if layer.map_size is not None]
    if maps and all(a >= b for a, b in zip(maps[-1].size or (), seeing[-1].size or (), strict=True)):
        return maps[-1]  # what follows is flattened, or takes no canvas that is large enough
    return seeing[-1]


def _kind(row: TracedLayer) -> str:
    """``Conv2d 1x7 /2``: class, kernel, stride, dilation."""
    words = [row.place.kind]
    for name, sign in (("kernel_size", ""), ("stride", "/"), ("dilation", "dilated ")):
        value = getattr(row.module, name, None)
        both = (value, value) if isinstance(value, int) else value
        if isinstance(both, tuple) and all(isinstance(n, int) for n in both) and (not sign or max(both) > 1):
            words.append(sign + ("x".join(map(str, both)) if not sign or len(set(both)) > 1 else str(both[0])))
    return " ".join(words)


def _failure(model: nn.Module, found: Pass, channels: int) -> str:
    height, width = found.size
    place = found.error_place
    where = f"{place.name or 'its own forward'} ({place.kind})" if place is not None else "its own forward"
    text = " ".join(str(found.error).split())[:200]
    if isinstance(found.error, NotImplementedError) or "meta tensor" in text or "data-dependent" in text:
        return (
            f"{type(model).__name__} goes a way that depends on the numbers in the image, at {where}: only "
            f"effective_receptive_field can look at it ({text})"
        )
    return (
        f"{type(model).__name__} does not take an image [1, {channels}, {height}, {width}], at {where} ({text}): "
        "give the size and channels that it is made for"
    )


def _numbers(values: tuple[float, float] | None) -> str:
    """427, or 11x27 where height and width differ."""
    if values is None:
        return ""
    return f"{values[0]:g}" if values[0] == values[1] else f"{values[0]:g}x{values[1]:g}"


def _cells(layer: LayerField) -> list[str]:
    bound = "at least " if layer.at_least else ""
    sees = {(True, True): "yes", (True, False): "all rows", (False, True): "all columns", (False, False): ""}
    return [
        _numbers(layer.map_size),
        _numbers(layer.stride),
        "" if layer.size is None else bound + _numbers(layer.size),
        _numbers(layer.offset),
        sees[layer.whole],
    ]
