"""How each of torch's operations hands on what its inputs have seen.

The operations are those that PyTorch's dispatcher sees; some eighty make all of timm. A rule is given the call and
returns what its outputs have seen: one for the first output, or a list for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from dlrecipes.nn.reach import NOTHING, Place, Reach, combine, compact, expand, gather, mix, nothing, reshape, union

__all__ = ["CONSTANT", "RULES", "VIEWS", "Call", "everything", "own_statistics", "pointwise", "tensors"]


@dataclass
class Call:
    """One operation.

    Attributes:
        function: the operation, e.g. ``torch.ops.aten.convolution.default``.
        name: of it, without its variant and the underscore of in-place ones.
        args, kwargs: as it was called.
        outs: its outputs that are tensors; only their shapes count.
        place: the layer that called it.
        look_up: what a tensor has seen; None: nothing of the image.
        real_size: of the input of adaptive pooling, given its size here, where the image is larger than the real one.
    """

    function: Any
    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    outs: Sequence[Tensor]
    place: Place
    look_up: Callable[[Tensor], Reach | None]
    real_size: Callable[[Sequence[int]], Sequence[int]]

    @property
    def shape(self) -> torch.Size:
        """Of the first output."""
        return self.outs[0].shape

    def argument(self, position: int, default: Any = None) -> Any:
        return self.args[position] if position < len(self.args) else default

    def seen(self, position: int = 0) -> Reach:
        """What an argument has seen."""
        return self.look_up(self.args[position]) or nothing(self.args[position].shape)

    def known(self, position: int) -> bool:
        """Whether an argument has seen anything of the image."""
        value = self.argument(position)
        return isinstance(value, Tensor) and self.look_up(value) is not None

    def inputs(self) -> list[Reach]:
        """What the tensors among the arguments have seen."""
        found = (self.look_up(value) for value in tensors((*self.args, *self.kwargs.values())))
        return [reach for reach in found if reach is not None]


Seen = Reach | list[Reach]
Rule = Callable[[Call], Seen]


def tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in a nest of tuples, lists and dicts."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from tensors(value)
    elif isinstance(values, dict):
        yield from tensors(list(values.values()))


# ---- numbers stay where they are -------------------------------------------------------------------------------------


def pointwise(call: Call) -> Seen:
    """Each number from those at its own place."""
    found = call.inputs()
    return found[0] if len(found) == 1 and found[0].shape == call.shape else union(found, call.shape)


def _first(call: Call) -> Seen:
    return call.seen()


def _batch_norm(call: Call) -> Seen:
    """With running statistics each number alone, with the batch's own all of a channel."""
    if not own_statistics(call.name, call.args):
        return call.seen()
    reach = call.seen()
    return union([reach, mix(reach, [d for d in range(len(call.shape)) if d != 1], call.place)], call.shape)


def own_statistics(name: str, args: Sequence[Any]) -> bool:
    """Whether a batch norm uses those of the batch."""
    if name in ("_native_batch_norm_legit_no_training", "_batch_norm_no_update"):
        return False
    if name == "_batch_norm_with_update":
        return True
    position = 3 if name == "_native_batch_norm_legit" and isinstance(args[3], bool) else 5
    return bool(args[position])


# ---- shapes ----------------------------------------------------------------------------------------------------------


def _view(call: Call) -> Seen:
    """The very operation on what was seen, which repetitions survive: slices, permutations."""
    reach = call.seen()
    found = [call.function(edge, *call.args[1:], **call.kwargs) for edge in reach.edges]
    if isinstance(found[0], Tensor):
        return Reach((found[0], found[1], found[2], found[3]), reach.whole, reach.depth)
    return [Reach(edges, reach.whole, reach.depth) for edges in zip(*found, strict=True)]


def _reshape(call: Call) -> Seen:
    return call.seen().map(lambda edge: reshape(edge, call.shape))


def _turn(call: Call) -> Seen:
    """Roll and flip: what does not change along a dimension does not change by them."""
    if call.name == "roll" and not call.argument(2):  # of the flattened tensor
        return _copy(call)
    return call.seen().map(lambda edge: expand(call.function(compact(edge), *call.args[1:]), call.shape))


def _copy(call: Call) -> Seen:
    """The very operation on what was seen, number by number: indexing, repetition."""
    if any(index.is_meta or call.look_up(index) is not None for index in tensors(call.args[1:])):
        return everything(call)  # places that depend on the data
    rest = tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, call.args[1:])
    return call.seen().map(lambda edge: call.function(edge, *rest))


def _concatenate(call: Call) -> Seen:
    dim = call.argument(1, 0) % len(call.shape)
    given = [tensor for tensor in call.args[0] if tensor.dim() == len(call.shape) or call.name == "stack"]
    reaches = [call.look_up(tensor) or nothing(tensor.shape) for tensor in given]
    if call.name == "stack":
        reaches = [reach.map(lambda edge: edge.unsqueeze(dim)) for reach in reaches]
    sizes = [reach.shape[dim] for reach in reaches]

    def join(edges: Sequence[Tensor]) -> Tensor:
        lines = [compact(edge) for edge in edges]
        common = [max(sizes) for sizes in zip(*(line.shape for line in lines), strict=True)]
        if common[dim] == 1 and all(torch.equal(line, lines[0]) for line in lines):
            return lines[0]
        return torch.cat(
            [x.expand(*common[:dim], n, *common[dim + 1 :]) for x, n in zip(lines, sizes, strict=True)], dim
        )

    return combine(reaches, call.shape, join)


def _pad(call: Call) -> Seen:
    """Zeros around, or less of it."""
    reach, pads = call.seen(), call.args[1]
    for index in range(len(pads) // 2):
        dim = len(reach.shape) - 1 - index
        before, after = pads[2 * index : 2 * index + 2]
        if before or after:
            size = reach.shape[dim]
            reach = gather(reach, dim, _valid(torch.arange(-before, size + after, device="cpu")[:, None], size))
    return reach


def _pad_by_content(call: Call) -> Seen:
    """Reflection and replication: the operation itself is asked which places it reads."""
    reach, pads = call.seen(), call.args[1]
    mode = "reflect" if call.name.startswith("reflection") else "replicate"
    for index in range(len(pads) // 2):
        dim = len(reach.shape) - 1 - index
        places = torch.arange(reach.shape[dim], dtype=torch.float32, device="cpu").view(1, 1, -1)
        read = F.pad(places, tuple(pads[2 * index : 2 * index + 2]), mode=mode)
        reach = gather(reach, dim, read.long().view(-1, 1))
    return reach


def _restride(call: Call) -> Seen:
    """as_strided, which timm and torch use to name another memory format; for anything else nothing is known."""
    return call.seen() if call.shape == call.args[0].shape else everything(call)


def _columns(call: Call) -> Seen:
    """im2col: every window as a column."""
    _, kernel, dilation, padding, stride = call.args

    def unfold(edge: Tensor) -> Tensor:
        framed = F.pad(edge, (padding[1], padding[1], padding[0], padding[0]), value=NOTHING)
        return F.unfold(framed, tuple(kernel), tuple(dilation), 0, tuple(stride))

    return call.seen().map(unfold)


def _fold(call: Call) -> Seen:
    """col2im: each place from all columns that cover it."""
    _, size, kernel, dilation, padding, stride = call.args
    frame = [n + 2 * p for n, p in zip(size, padding, strict=True)]
    steps = [(f - d * (k - 1) - 1) // s + 1 for f, k, d, s in zip(frame, kernel, dilation, stride, strict=True)]

    def fold(edge: Tensor) -> Tensor:
        columns = torch.unflatten(torch.unflatten(edge, 1, (-1, *kernel)), -1, steps)
        out = edge.new_full((*columns.shape[:2], *frame), NOTHING)
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                top, left = i * dilation[0], j * dilation[1]
                rows = slice(top, top + stride[0] * (steps[0] - 1) + 1, stride[0])
                part = out[:, :, rows, left : left + stride[1] * (steps[1] - 1) + 1 : stride[1]]
                part.copy_(torch.maximum(part, columns[:, :, i, j]))
        return out[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]

    return call.seen().map(fold)


# ---- windows ---------------------------------------------------------------------------------------------------------


def _valid(taps: Tensor, size: int) -> Tensor:
    """Places outside are none."""
    return taps.masked_fill((taps < 0) | (taps >= size), size)


def _window(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    starts = torch.arange(out, device="cpu")[:, None] * stride - padding
    return _valid(starts + torch.arange(kernel, device="cpu") * dilation, size)


def _transposed_window(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    places = torch.arange(out, device="cpu")[:, None] + padding
    offsets = places - torch.arange(kernel, device="cpu") * dilation
    inside = offsets.remainder(stride) == 0
    return _valid(torch.where(inside, offsets.div(stride, rounding_mode="floor"), -1), size)


def _convolution(call: Call) -> Seen:
    stride, padding, dilation = call.args[3:6]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    reach, weight = call.seen(), call.args[1]
    reach = _over_groups(reach, groups, call.shape[1])
    kernel, dims = weight.shape[2:], weight.dim() - 2
    make = _transposed_window if transposed else _window
    for axis in range(dims):
        steps = [values[axis if len(values) > 1 else 0] for values in (stride, padding, dilation)]
        taps = make(reach.shape[2 + axis], call.shape[2 + axis], kernel[axis], *steps)
        reach = gather(reach, 2 + axis, taps)
    parts = [reach]
    if call.known(1):  # a kernel that is made from the image
        parts.append(everything_of([call.seen(1)], call))
    return union(parts, call.shape, deeper=0 if call.known(1) else 1)


def _over_groups(reach: Reach, groups: int, channels: int) -> Reach:
    """All channels of a group together; [B, channels, ...]."""
    shape = [reach.shape[0], channels, *reach.shape[2:]]

    def together(edge: Tensor) -> Tensor:
        lines = compact(edge)
        if lines.size(1) > 1:
            lines = torch.unflatten(lines, 1, (groups, -1)).amax(2)
            lines = lines.repeat_interleave(channels // groups, dim=1) if groups > 1 else lines
        return expand(lines, shape)

    return reach.map(together)


def _pool(call: Call) -> Seen:
    """Maximum and mean over windows. Their arguments: kernel, stride, padding; dilation of the maximum only."""
    reach = call.seen()
    kernel = call.args[1]
    stride = call.argument(2) or kernel
    padding = call.argument(3) or [0]
    dilation = call.argument(4, [1]) if call.name.startswith("max") else [1]
    dims = int(call.name.split("pool")[1][0])
    first = len(reach.shape) - dims
    for axis in range(dims):
        steps = [v[axis if len(v) > 1 else 0] for v in (kernel, stride, padding, dilation)]
        taps = _window(reach.shape[first + axis], call.shape[first + axis], *steps)
        reach = gather(reach, first + axis, taps)
    return reach


def _adaptive_pool(call: Call) -> Seen:
    """Windows that follow the map's size; on a canvas larger than the image those of the image, in the middle."""
    reach = call.seen()
    dims = int(call.name[-2])
    first = len(reach.shape) - dims
    real_sizes = call.real_size(reach.shape[first:])
    for axis in range(dims):
        size, out, real = reach.shape[first + axis], call.shape[first + axis], real_sizes[axis]
        starts = [i * real // out for i in range(out)]
        ends = [math.ceil((i + 1) * real / out) for i in range(out)]
        longest = max(end - start for start, end in zip(starts, ends, strict=True))
        rows = [
            [i if i < end else -1 for i in range(start, start + longest)]
            for start, end in zip(starts, ends, strict=True)
        ]
        taps = torch.tensor(rows, device="cpu")
        taps = torch.where(taps < 0, taps, taps + (size - real) // 2)
        reach = gather(reach, first + axis, _valid(taps, size), call.place)
    return reach


def _resample(call: Call) -> Seen:
    """Resizing: the operation itself is asked which places it reads, one axis after the other."""
    reach, size = call.seen(), list(call.args[1])
    first = len(reach.shape) - len(size)
    for axis, out in enumerate(size):
        n = reach.shape[first + axis]
        probe = torch.eye(n, device="cpu").view(1, n, *[n if a == axis else 1 for a in range(len(size))])
        alone = [out if a == axis else 1 for a in range(len(size))]
        weights = call.function(probe, alone, *call.args[2:]).view(n, out).T
        taps = torch.where(weights != 0, torch.arange(n, device="cpu"), n)
        most = int((weights != 0).sum(1).max())
        reach = gather(reach, first + axis, taps.sort(dim=1).values[:, :most])
    return reach


# ---- mixing ----------------------------------------------------------------------------------------------------------


def everything_of(reaches: Sequence[Reach], call: Call) -> Reach:
    """One number that has seen what all of these have."""
    parts = [mix(reach, range(len(reach.shape)), call.place).map(lambda edge: edge.reshape(())) for reach in reaches]
    return union(parts, ())


def everything(call: Call) -> Seen:
    """Of an operation of which nothing is known: each output may have seen what any input has."""
    seen = everything_of(call.inputs(), call)
    return [union([seen], out.shape) for out in call.outs]


def _reduce(call: Call) -> Seen:
    """Sums, means, extremes along dimensions."""
    reach = call.seen()
    dim = call.argument(2 if "norm" in call.name else 1)
    if isinstance(dim, Tensor):
        return pointwise(call)
    rank = len(reach.shape)
    dims = [dim] if isinstance(dim, int) else list(dim) if dim else list(range(rank))
    dims = [d % rank for d in dims]
    mixed = mix(reach, dims, call.place)
    kept = [1 if d in dims else n for d, n in enumerate(reach.shape)]
    seen = mixed.map(lambda edge: reshape(expand(edge, kept), call.shape))
    return [seen] * len(call.outs)


def _along(call: Call) -> Seen:
    """Softmax, cumulative sums, sorting: each number from all along one dimension."""
    reach = call.seen()
    position = 2 if call.name == "topk" else 1
    dim = call.argument(position, call.kwargs.get("dim", -1)) if call.name != "sort" else _sort_dim(call)
    mixed = mix(reach, [dim % len(reach.shape)], call.place)
    return [mixed.map(lambda edge: expand(edge, call.shape))] * len(call.outs)


def _sort_dim(call: Call) -> int:
    return int(next((v for v in call.args[1:] if isinstance(v, int) and not isinstance(v, bool)), -1))


def _layer_norm(call: Call) -> Seen:
    reach = call.seen()
    rank = len(reach.shape)
    return union([reach, mix(reach, range(rank - len(call.args[1]), rank), call.place)], call.shape)


def _group_norm(call: Call) -> Seen:
    reach, groups = call.seen(), int(call.args[6])
    shape = [reach.shape[0], groups, reach.shape[1] // groups, *reach.shape[2:]]
    parted = reach.map(lambda edge: torch.unflatten(edge, 1, (groups, -1)))
    mixed = mix(parted, range(2, len(shape)), call.place)
    return union([reach, mixed.map(lambda edge: expand(edge, shape).flatten(1, 2))], call.shape)


def _product(call: Call) -> Seen:
    """Matrix products: rows of the first with columns of the second; a layer with weights if one of them is weights."""
    at = 1 if call.name in ("addmm", "baddbmm") else 0
    a, b = call.seen(at), call.seen(at + 1)
    parts = [mix(reach, [len(reach.shape) + d], call.place) for reach, d in ((a, -1), (b, -2))]
    if at and call.known(0):
        parts.append(call.seen())
    return union(parts, call.shape, deeper=int(call.known(at) != call.known(at + 1)))


VIEWS = frozenset(
    (
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand", "squeeze"),
        *("unsqueeze", "slice", "select", "split", "split_with_sizes", "unbind", "alias", "detach", "unfold"),
        *("diagonal",),
    )
)
"""Operations whose outputs share their input's memory: writing to them writes to it."""

CONSTANT = frozenset(
    (
        *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones"),
        *("new_full", "new_empty", "new_empty_strided", "fill", "zero", "bernoulli"),
    )
)
"""Operations whose outputs have their input's shape only."""


def _table(rows: dict[Rule, tuple[str, ...]]) -> dict[str, Rule]:
    return {name: rule for rule, names in rows.items() for name in names}


RULES: dict[str, Rule] = _table(
    {
        _view: tuple(VIEWS - {"view", "_unsafe_view", "reshape", "_reshape_alias"}),
        _reshape: ("view", "_unsafe_view", "reshape", "_reshape_alias"),
        _first: ("clone", "_to_copy", "native_dropout", "lift_fresh", "contiguous", "tril", "triu", "dropout"),
        _turn: ("roll", "flip"),
        _copy: ("index_select", "index", "repeat", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
        _concatenate: ("cat", "stack"),
        _pad: ("constant_pad_nd",),
        _pad_by_content: tuple(f"{kind}_pad{d}d" for kind in ("reflection", "replication") for d in (1, 2, 3)),
        _restride: ("as_strided",),
        _columns: ("im2col",),
        _fold: ("col2im",),
        pointwise: ("hardswish", "where", "masked_fill", "copy", "_prelu_kernel", "rrelu_with_noise", "softplus"),
        _batch_norm: (
            *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
            *("cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update", "_batch_norm_with_update"),
        ),
        _convolution: ("convolution",),
        _pool: ("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
        _adaptive_pool: (
            *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d"),
            *("adaptive_max_pool2d", "adaptive_max_pool3d"),
        ),
        _resample: (
            *("upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_linear1d"),
            *("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
        ),
        _reduce: (
            *("mean", "sum", "amax", "amin", "max", "min", "var", "var_mean", "std", "std_mean", "logsumexp", "prod"),
            *("any", "all", "argmax", "argmin", "linalg_vector_norm", "norm", "median", "nansum"),
        ),
        _along: (*("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "topk"),),
        _layer_norm: ("native_layer_norm", "_fused_rms_norm"),
        _group_norm: ("native_group_norm",),
        _product: ("mm", "addmm", "bmm", "baddbmm"),
    }
)
"""Name of an operation -> its rule. What is not here is pointwise if PyTorch says so, and otherwise ``everything``."""
