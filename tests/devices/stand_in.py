"""Torch's meta device as a stand-in for a GPU: what would break or wait there is found on any machine.

Tensors on the meta device have shapes and no values, and autograd runs on them. Two modes make it as strict as CUDA is:
tensors of two devices in one operator are refused, and whatever needs a value on the host, or a shape that follows from
values, is noted as a wait together with the function that asked. Fake tensors of torch's compiler would call themselves
``cuda``, but a build of torch for CUDA cannot run their backward pass where it finds no GPU.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode  # private; tests/models/detr/test_host_sync.py has it, too
from torch.utils._pytree import tree_leaves, tree_map_only

import dlrecipes

__all__ = ["DEVICE", "Waits", "on_device", "stand_in"]

DEVICE = torch.device("meta")
# A shape, or the way to go on, follows from values. Those that are no operators of their own end in one of these.
_BY_VALUE = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal", "bincount"}
_BY_VALUE |= {"repeat_interleave", "histc", "_histogramdd_from_bin_cts"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_COPIES = {"_to_copy", "copy_"}
_OF_LISTS = {"cat", "stack", "_stack"}  # no numbers of the host among tensors of the device
_PACKAGE = Path(dlrecipes.__file__).parent


class Waits(Counter[str]):
    """How often which function of the package (``losses/base.py:forward``) waited for the device."""

    def note(self) -> None:
        frame = sys._getframe(1)
        last = "elsewhere"
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(_PACKAGE):
                self[f"{path.relative_to(_PACKAGE)}:{frame.f_code.co_name}"] += 1
                return
            frame = frame.f_back
        self[last] += 1


def _has_list(index: Any) -> bool:
    return any(isinstance(i, list) for i in (index if isinstance(index, tuple) else (index,)))


def _on(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == DEVICE.type


def _host(value: Tensor) -> Tensor:
    """What a wait brings to the host: True, 1, or a number that is neither a probability nor a black pixel."""
    return torch.full(value.shape, 16 if value.is_floating_point() else 1, dtype=value.dtype) if _on(value) else value


class _Operators(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here, there = [x for x in tensors if _on(x)], [x for x in tensors if not _on(x)]
        if name in _COPIES:
            return self._copy(function, args, kwargs)
        if name == "_local_scalar_dense" and here:
            self.waits.note()
            return _host(args[0]).item()
        if name in _INDEXING and here:
            return self._index(function, args, kwargs)
        if name in _BY_VALUE and here and kwargs.get("output_size") is None:
            return self._by_value(function, args, kwargs)
        self._refuse(function, name, args, kwargs, here, there)
        return function(*args, **kwargs)

    def _copy(self, function: Any, args: Any, kwargs: Any) -> Any:
        if function.overloadpacket.__name__ == "copy_":
            target, source = args[:2]
            if _on(target) != _on(source):
                if not (args[2] if len(args) > 2 else kwargs.get("non_blocking")):
                    self.waits.note()
                return target if _on(target) else target.copy_(_host(source))
            return function(*args, **kwargs)
        wanted = kwargs.get("device")
        if wanted is None or (torch.device(wanted).type == DEVICE.type) == _on(args[0]):
            return function(*args, **kwargs)
        if not kwargs.get("non_blocking"):
            self.waits.note()
        return function(_host(args[0]), **kwargs)

    def _by_value(self, function: Any, args: Any, kwargs: Any) -> Any:
        self.waits.note()
        found = function(*tree_map_only(Tensor, _host, args), **tree_map_only(Tensor, _host, kwargs))
        return tree_map_only(Tensor, lambda x: x.to(DEVICE), found)

    def _index(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Masks are shapes that follow from values, unless one number is written; indices of the host are copied."""
        name, indices = function.overloadpacket.__name__, [i for i in args[1] if i is not None]
        if not _on(args[0]):
            raise RuntimeError(f"{name}: indices should be on the host, as the indexed tensor is, or both on the GPU")
        if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
            if name == "index":
                return self._by_value(function, args, kwargs)
            if args[2].numel() > 1:
                self.waits.note()
            return args[0]
        if any(not _on(i) for i in indices):
            self.waits.note()
        moved = [i if i is None or _on(i) else torch.empty_like(i, device=DEVICE) for i in args[1]]
        self._refuse(function, name, (args[0], *args[2:]), kwargs, args[:1], [x for x in args[2:3] if not _on(x)])
        return function(args[0], moved, *args[2:], **kwargs)

    def _refuse(
        self, function: Any, name: str, args: Any, kwargs: Any, here: list[Tensor], there: list[Tensor]
    ) -> None:
        wide = [x for x in there if x.dim() > 0 or name in _OF_LISTS]
        written = [a for a, spec in zip(args, function._schema.arguments, strict=False) if spec.is_write]
        if here and (wide or any(isinstance(a, Tensor) and not _on(a) for a in written)):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found a GPU and the host")
        generator = kwargs.get("generator")
        on_device = bool(here) or (kwargs.get("device") is not None and torch.device(kwargs["device"]) == DEVICE)
        if generator is not None and on_device:
            raise RuntimeError(f"{name}: expected a generator of the GPU, but found one of {generator.device}")


class _Functions(TorchFunctionMode):
    """What no operator shows: numbers of the host that are made on the device are copied there."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.__format__ and _on(args[0]):
            self.waits.note()
            return format(_host(args[0]), *args[1:])
        made = function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None
        made = made and torch.device(kwargs["device"]).type == DEVICE.type and not _on(args[0])
        listed = function in (Tensor.__getitem__, Tensor.__setitem__) and _on(args[0]) and _has_list(args[1])
        if made or listed or (function is Tensor.new_tensor and _on(args[0])):
            self.waits.note()
        return function(*args, **kwargs)


@contextmanager
def stand_in() -> Iterator[Waits]:
    """Within it the meta device is as strict as a GPU; gives the waits so far."""
    waits = Waits()
    with _Functions(waits), _Operators(waits):
        yield waits


def on_device(value: Any) -> Any:
    """Tensors of a batch, or a module, on the device."""
    if isinstance(value, torch.nn.Module):
        return value.to(DEVICE)
    return tree_map_only(Tensor, lambda x: x.detach().to(DEVICE).requires_grad_(x.requires_grad), value)
