"""Operations that put numbers together along whole dimensions, or leave each alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlrecipes.nn.fields.call import Call, Seen
from dlrecipes.nn.fields.reach import expand, mix, reshape, union

__all__ = [
    "along",
    "batch_norm",
    "group_norm",
    "layer_norm",
    "own_statistics",
    "pointwise",
    "product",
    "reduced",
    "unchanged",
]


def pointwise(call: Call) -> Seen:
    """Each number from those at its own place."""
    found = call.inputs()
    return found[0] if len(found) == 1 and found[0].shape == call.shape else union(found, call.shape)


def unchanged(call: Call) -> Seen:
    """Dropout in evaluation, casts, and all else that leaves numbers where they are."""
    return call.seen()


def batch_norm(call: Call) -> Seen:
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


def reduced(call: Call) -> Seen:
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


def along(call: Call) -> Seen:
    """Softmax, cumulative sums, sorting: each number from all along one dimension."""
    reach = call.seen()
    position = 2 if call.name == "topk" else 1
    dim = call.argument(position, call.kwargs.get("dim", -1)) if call.name != "sort" else _sort_dim(call)
    mixed = mix(reach, [dim % len(reach.shape)], call.place)
    return [mixed.map(lambda edge: expand(edge, call.shape))] * len(call.outs)


def _sort_dim(call: Call) -> int:
    return int(next((v for v in call.args[1:] if isinstance(v, int) and not isinstance(v, bool)), -1))


def layer_norm(call: Call) -> Seen:
    """Each number from all of its last dimensions."""
    reach = call.seen()
    rank = len(reach.shape)
    return union([reach, mix(reach, range(rank - len(call.args[1]), rank), call.place)], call.shape)


def group_norm(call: Call) -> Seen:
    """Each number from all of its group of channels."""
    reach, groups = call.seen(), int(call.args[6])
    shape = [reach.shape[0], groups, reach.shape[1] // groups, *reach.shape[2:]]
    parted = reach.map(lambda edge: torch.unflatten(edge, 1, (groups, -1)))
    mixed = mix(parted, range(2, len(shape)), call.place)
    return union([reach, mixed.map(lambda edge: expand(edge, shape).flatten(1, 2))], call.shape)


def product(call: Call) -> Seen:
    """Matrix products: rows of the first with columns of the second; a layer with weights if one of them is weights."""
    at = 1 if call.name in ("addmm", "baddbmm") else 0
    a, b = call.seen(at), call.seen(at + 1)
    parts = [mix(reach, [len(reach.shape) + d], call.place) for reach, d in ((a, -1), (b, -2))]
    if at and call.known(0):
        parts.append(call.seen())
    return union(parts, call.shape, deeper=int(call.known(at) != call.known(at + 1)))
