"""Operations that look at windows: convolutions, pooling, resizing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dlrecipes.nn.fields.call import Call, Seen, everything_of
from dlrecipes.nn.fields.reach import Reach, compact, expand, gather, union

__all__ = ["adaptive_pool", "convolution", "pool", "resampled", "valid_taps"]


def valid_taps(taps: Tensor, size: int) -> Tensor:
    """Places outside are none."""
    return taps.masked_fill((taps < 0) | (taps >= size), size)


def _window(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    starts = torch.arange(out, device="cpu")[:, None] * stride - padding
    return valid_taps(starts + torch.arange(kernel, device="cpu") * dilation, size)


def _transposed_window(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    places = torch.arange(out, device="cpu")[:, None] + padding
    offsets = places - torch.arange(kernel, device="cpu") * dilation
    inside = offsets.remainder(stride) == 0
    return valid_taps(torch.where(inside, offsets.div(stride, rounding_mode="floor"), -1), size)


def convolution(call: Call) -> Seen:
    """Windows of the kernel; every channel of a group from all channels of it."""
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


def pool(call: Call) -> Seen:
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


def adaptive_pool(call: Call) -> Seen:
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
        reach = gather(reach, first + axis, valid_taps(taps, size), call.place)
    return reach


def resampled(call: Call) -> Seen:
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
