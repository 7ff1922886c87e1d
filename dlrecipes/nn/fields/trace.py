"""One pass through a model without numbers, in which each activation gets to know what it has seen of the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode  # documented under "Extending PyTorch", in no other place

from dlrecipes.nn.fields.call import Call, everything
from dlrecipes.nn.fields.mixing import own_statistics, pointwise
from dlrecipes.nn.fields.reach import Place, Reach, TooLargeError, compact, image_reach, nothing
from dlrecipes.nn.fields.rules import CONSTANT, RULES, VIEWS
from dlrecipes.nn.meta import without_numbers
from dlrecipes.nn.nest import tensors

__all__ = ["Pass", "TracedLayer", "trace"]

_WORTH = 100_000_000  # numbers that a pass on a larger canvas may handle: seconds


@dataclass(frozen=True)
class TracedLayer:
    """The first output of a layer, or of a block of them, when it was called.

    Attributes:
        place: the layer.
        module: it.
        reach: what its output has seen.
    """

    place: Place
    module: nn.Module
    reach: Reach


@dataclass
class Pass:
    """What one pass found.

    Attributes:
        size: of the image.
        layers: in the order of their calls.
        output: what the model's first output has seen; None: it was not reached, or has seen nothing.
        error: why the pass ended early.
        error_place: the layer where.
        adaptive: sizes of the maps that went into adaptive pooling, in the order of the calls.
    """

    size: tuple[int, int]
    layers: list[TracedLayer] = field(default_factory=list)
    output: Reach | None = None
    error: Exception | None = None
    error_place: Place | None = None
    adaptive: list[tuple[int, ...]] = field(default_factory=list)


def trace(model: nn.Module, image: Tensor, like: Pass | None = None) -> Pass:
    """Send an image without numbers through a model without numbers.

    Args:
        model: of ``meta_copy``, in evaluation mode.
        image: [1, C, H, W] on the device ``meta``.
        like: a pass at the real image size, whose adaptive pooling this one takes over.
    """
    found = Pass((image.shape[-2], image.shape[-1]))
    follower = _Follower(image, found, like)
    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.enter_context(_hooked(module, Place(name, type(module).__name__), follower))
        stack.enter_context(torch.no_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # attention in its parts
        stack.enter_context(_slow_attention())
        stack.enter_context(follower)
        try:
            output = model(image)
        except Exception as error:  # a model's own code may raise anything
            found.error, found.error_place = error, follower.place
        else:
            found.output = next((r for t in tensors(output) if (r := follower.look_up(t))), None)
    return found


@contextmanager
def _slow_attention() -> Iterator[None]:
    """Transformer layers in their parts instead of as one operation."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _hooked(module: nn.Module, place: Place, follower: _Follower) -> Iterator[None]:
    """Tell the follower where it is; note what comes out of it, unless the layer before has just given the same."""

    def before(_module: nn.Module, _args: Any) -> None:
        follower.places.append(place)

    def after(_module: nn.Module, _args: Any, output: Any) -> None:
        follower.places.pop()
        reach = next((r for t in tensors(output) if (r := follower.look_up(t))), None)
        layers = follower.found.layers
        leaf = next(module.children(), None) is None
        if reach is not None and (leaf or not layers or layers[-1].reach is not reach):
            layers.append(TracedLayer(place, module, reach))

    handles = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Follower(TorchDispatchMode):
    """Sees every operation, and keeps for every tensor what it has seen of the image."""

    def __init__(self, image: Tensor, found: Pass, like: Pass | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.found = found
        self.places: list[Place] = []
        self._like = like
        self._numbers = 0
        self._seen: dict[int, Reach] = {id(image): image_reach(image.shape)}
        self._kept: dict[int, Tensor] = {id(image): image}  # an id is a tensor's only while it lives
        self._views: dict[int, tuple[Tensor, Callable[[Tensor], Tensor]]] = {}

    @property
    def place(self) -> Place:
        """The innermost layer that is at work."""
        return self.places[-1] if self.places else Place("", "")

    def look_up(self, tensor: Tensor) -> Reach | None:
        """What a tensor has seen; None: nothing of the image."""
        return self._seen.get(id(tensor))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = without_numbers(args, kwargs)
        out = _shape_of_norm(func, *given[0]) or func(*given[0], **given[1])
        self._follow(func, args, kwargs, out)
        return out

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        name, in_place = _name_of(func)
        outs = list(tensors(out))
        if not outs:
            return
        for tensor in outs:
            self._kept[id(tensor)] = tensor
        if name in VIEWS and outs[0] is not args[0]:
            self._remember_views(func, args, kwargs, outs)
        call = Call(func, name, args, kwargs, outs, self.place, self.look_up, self._real_size)
        if name in CONSTANT or not call.inputs():
            seen: list[Reach] = []
        else:
            pointwise_too = torch.Tag.pointwise in func.tags
            found = RULES.get(name, pointwise if pointwise_too else everything)(call)
            seen = found if isinstance(found, list) else [found]
        for index, tensor in enumerate(outs):
            self._seen.pop(id(tensor), None)
            if index < len(seen):
                self._seen[id(tensor)] = seen[index]
                self._numbers += sum(compact(edge).numel() for edge in seen[index].edges)
        if self._like is not None and self._numbers > _WORTH:
            raise TooLargeError(f"{self._numbers} numbers at {self.found.size}")
        if in_place and id(outs[0]) in self._views:
            self._write_through(outs[0])

    def _remember_views(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outs: Sequence[Tensor]) -> None:
        for index, tensor in enumerate(outs):

            def same_view(edge: Tensor, index: int = index) -> Tensor:
                found = func(edge, *args[1:], **kwargs)
                return found if isinstance(found, Tensor) else found[index]

            self._views[id(tensor)] = args[0], same_view

    def _write_through(self, view: Tensor) -> None:
        """What was written to a view is in the tensor that it is a view of."""
        base, same_view = self._views[id(view)]
        written = self.look_up(view)
        before = self.look_up(base)
        if written is None and before is None:
            return
        old, new = before or nothing(base.shape), written or nothing(view.shape)
        edges = [mine.contiguous().clone() for mine in old.edges]
        for mine, theirs in zip(edges, new.edges, strict=True):
            same_view(mine).copy_(theirs)
        self._seen[id(base)] = Reach(
            (edges[0], edges[1], edges[2], edges[3]),
            (old.whole[0] or new.whole[0], old.whole[1] or new.whole[1]),
            max(old.depth, new.depth),
        )
        if id(base) in self._views:
            self._write_through(base)

    def _real_size(self, size: Sequence[int]) -> Sequence[int]:
        index = len(self.found.adaptive)
        self.found.adaptive.append(tuple(size))
        if self._like is None or index >= len(self._like.adaptive):
            return size
        return self._like.adaptive[index]


def _shape_of_norm(func: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """A batch norm with running statistics leaves shapes alone; to work that out takes torch a third of the pass."""
    if _name_of(func)[0] != "native_batch_norm" or not args[0].is_meta or own_statistics("native_batch_norm", args):
        return None
    return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)


def _name_of(func: Any) -> tuple[str, bool]:
    """``relu`` and True of ``aten.relu_.default``; an operation of another library keeps its library's name."""
    space, name = str(func).split(".")[:2]
    in_place = name.endswith("_") and not name.startswith("__")
    name = name.removesuffix("_") if in_place else name
    return (name if space == "aten" else f"{space}.{name}"), in_place
