"""What a pass through a network costs, by torch's own counters and without computing anything."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode  # documented under "Extending PyTorch", in no other place
from torch.utils.flop_counter import FlopCounterMode

from dlrecipes.nn.meta import OnMeta, meta_copy, meta_image
from dlrecipes.nn.nest import tensors

__all__ = ["Costs", "count_costs"]


@dataclass(frozen=True)
class Costs:
    """What one image costs.

    Attributes:
        flops: floating-point operations of a forward pass, by module: multiplications and additions of convolutions,
            linear layers and matrix products, so that a multiply-add is two; ``""``: all of them.
        live: most bytes of activations that are there at a time in evaluation.
        saved: bytes of activations that a training step keeps for its backward pass; None: the model cannot be trained
            without numbers.
    """

    flops: dict[str, int]
    live: int
    saved: int | None


def count_costs(model: nn.Module, channels: int, size: tuple[int, int]) -> Costs:
    """Count for one image [1, channels, H, W] in the model's dtype."""
    shapes = meta_copy(model).eval()
    image = meta_image(shapes, channels, size)
    with _on_meta(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(image)
    root = type(shapes).__name__
    flops = {
        "" if name in ("Global", root) else name.removeprefix(f"{root}."): int(sum(counts.values()))
        for name, counts in counter.get_flop_counts().items()
    }
    return Costs({"": 0, **flops}, _live(shapes, image), _saved_by_one(model, channels, size))


def _live(shapes: nn.Module, image: Tensor) -> int:
    counter = _Live(image)
    with _on_meta(), torch.no_grad(), counter:
        shapes(image)
    return counter.most


def _saved_by_one(model: nn.Module, channels: int, size: tuple[int, int]) -> int | None:
    """What one image more adds: statistics of batch norms are kept once for all, and need a batch of two."""
    shapes = meta_copy(model).train()
    image = meta_image(shapes, channels, size)
    try:
        two, four = (_saved(shapes, image.expand(n, -1, -1, -1).contiguous()) for n in (2, 4))
    except (RuntimeError, NotImplementedError):
        return None
    return (four - two) // 2


def _saved(shapes: nn.Module, images: Tensor) -> int:
    """Bytes of the memory that autograd holds on to, without parameters and buffers."""
    own = {_memory(t) for t in [*shapes.parameters(), *shapes.buffers()]}
    kept: dict[StorageWeakRef, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[_memory(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with _on_meta(), torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        output = shapes(images)  # as long as it lives, what was saved does
    del output
    return sum(size for storage, size in kept.items() if storage not in own)


def _on_meta() -> OnMeta:
    return OnMeta()  # type: ignore[no-untyped-call]  # untyped in torch


def _memory(tensor: Tensor) -> StorageWeakRef:
    """What two tensors on the same memory have in common; without numbers there are no addresses."""
    return StorageWeakRef(tensor.untyped_storage())


class _Live(TorchDispatchMode):
    """Sums up the memory behind all tensors that operations have made and nobody has dropped."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.most = self._now = 0
        self._users: dict[StorageWeakRef, int] = {}
        self._known: set[int] = set()
        self._add(image)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **kwargs or {})
        for tensor in tensors(out):
            self._add(tensor)
        return out

    def _add(self, tensor: Tensor) -> None:
        if id(tensor) in self._known or not tensor.is_meta:
            return
        storage = _memory(tensor)
        size = tensor.untyped_storage().nbytes()
        self._known.add(id(tensor))
        weakref.finalize(tensor, self._drop, id(tensor), storage, size)
        if storage not in self._users:
            self._now += size
            self.most = max(self.most, self._now)
        self._users[storage] = self._users.get(storage, 0) + 1

    def _drop(self, key: int, storage: StorageWeakRef, size: int) -> None:
        self._known.discard(key)
        self._users[storage] -= 1
        if not self._users[storage]:
            del self._users[storage]
            self._now -= size
