"""Operations that move numbers: views, copies, padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.nn.fields.call import Call, Seen, everything
from dlrecipes.nn.fields.reach import NOTHING, Reach, combine, compact, expand, gather, nothing, reshape, union
from dlrecipes.nn.fields.windows import valid_taps
from dlrecipes.nn.nest import tensors, with_tensors

__all__ = [
    "columns",
    "concatenated",
    "copied",
    "folded",
    "new_shape",
    "overwritten",
    "padded",
    "padded_by_content",
    "restrided",
    "same_view",
    "turned",
]


def same_view(call: Call) -> Seen:
    """The very operation on what was seen, which repetitions survive: slices, permutations."""
    reach = call.seen()
    found = [call.function(edge, *call.args[1:], **call.kwargs) for edge in reach.edges]
    if isinstance(found[0], Tensor):
        return Reach((found[0], found[1], found[2], found[3]), reach.whole, reach.depth)
    return [Reach(edges, reach.whole, reach.depth) for edges in zip(*found, strict=True)]


def new_shape(call: Call) -> Seen:
    """Reshape, flatten and the like: the same numbers in the same order."""
    return call.seen().map(lambda edge: reshape(edge, call.shape))


def turned(call: Call) -> Seen:
    """Roll and flip: what does not change along a dimension does not change by them."""
    if call.name == "roll" and not call.argument(2):  # of the flattened tensor
        return copied(call)
    return call.seen().map(lambda edge: expand(call.function(compact(edge), *call.args[1:]), call.shape))


def copied(call: Call) -> Seen:
    """The very operation on what was seen, number by number: indexing, repetition."""
    if any(index.is_meta or call.look_up(index) is not None for index in tensors(call.args[1:])):
        return everything(call)  # places that depend on the data
    rest = with_tensors(call.args[1:], Tensor.cpu)
    return call.seen().map(lambda edge: call.function(edge, *rest))


def overwritten(call: Call) -> Seen:
    """copy_: what is written counts, not what was there."""
    return union([call.seen(1)], call.shape)


def concatenated(call: Call) -> Seen:
    """cat and stack: each part from its own."""
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


def padded(call: Call) -> Seen:
    """Zeros around, or less of it."""
    reach, pads = call.seen(), call.args[1]
    for index in range(len(pads) // 2):
        dim = len(reach.shape) - 1 - index
        before, after = pads[2 * index : 2 * index + 2]
        if before or after:
            size = reach.shape[dim]
            reach = gather(reach, dim, valid_taps(torch.arange(-before, size + after, device="cpu")[:, None], size))
    return reach


def padded_by_content(call: Call) -> Seen:
    """Reflection and replication: the operation itself is asked which places it reads."""
    reach, pads = call.seen(), call.args[1]
    mode = "reflect" if call.name.startswith("reflection") else "replicate"
    for index in range(len(pads) // 2):
        dim = len(reach.shape) - 1 - index
        places = torch.arange(reach.shape[dim], dtype=torch.float32, device="cpu").view(1, 1, -1)
        read = F.pad(places, tuple(pads[2 * index : 2 * index + 2]), mode=mode)
        reach = gather(reach, dim, read.long().view(-1, 1))
    return reach


def restrided(call: Call) -> Seen:
    """as_strided, which timm and torch use to name another memory format; for anything else nothing is known."""
    return call.seen() if call.shape == call.args[0].shape else everything(call)


def columns(call: Call) -> Seen:
    """im2col: every window as a column."""
    _, kernel, dilation, padding, stride = call.args

    def unfold(edge: Tensor) -> Tensor:
        framed = F.pad(edge, (padding[1], padding[1], padding[0], padding[0]), value=NOTHING)
        return F.unfold(framed, tuple(kernel), tuple(dilation), 0, tuple(stride))

    return call.seen().map(unfold)


def folded(call: Call) -> Seen:
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
