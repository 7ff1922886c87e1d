"""One operation of a network, as the rules of what is seen get it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlrecipes.nn.fields.reach import Place, Reach, mix, nothing, union
from dlrecipes.nn.nest import tensors

__all__ = ["Call", "Rule", "Seen", "everything", "everything_of"]


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
        """A positional argument, or the default where fewer were given."""
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


def everything_of(reaches: Sequence[Reach], call: Call) -> Reach:
    """One number that has seen what all of these have."""
    parts = [mix(reach, range(len(reach.shape)), call.place).map(lambda edge: edge.reshape(())) for reach in reaches]
    return union(parts, ())


def everything(call: Call) -> Seen:
    """Of an operation of which nothing is known: each output may have seen what any input has."""
    seen = everything_of(call.inputs(), call)
    return [union([seen], out.shape) for out in call.outs]
