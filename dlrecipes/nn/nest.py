"""Tensors in nests of tuples, lists and dicts, as operations take them and networks give them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = ["first_tensor", "tensors", "with_tensors"]


def tensors(nest: Any) -> Iterator[Tensor]:
    """Those in the nest, in its order; what is of another kind is passed over.

    Example:
        >>> import torch
        >>> list(tensors([torch.tensor(1), {"size": 2, "rest": (torch.tensor(3),)}]))
        [tensor(1), tensor(3)]
    """
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, tuple | list):
        for part in nest:
            yield from tensors(part)
    elif isinstance(nest, Mapping):
        yield from tensors(list(nest.values()))


def first_tensor(nest: Any) -> Tensor | None:
    """The first in the nest; None: there is none."""
    return next(tensors(nest), None)


def with_tensors(nest: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nest with each tensor replaced.

    Args:
        nest: without named tuples; its mappings become dicts.
        change: old tensor → new one.

    Example:
        >>> import torch
        >>> with_tensors([torch.tensor(1), {"dim": 0, "rest": (torch.tensor(3),)}], lambda tensor: tensor + 1)
        [tensor(2), {'dim': 0, 'rest': (tensor(4),)}]
    """
    if isinstance(nest, Tensor):
        return change(nest)
    if isinstance(nest, tuple | list):
        return type(nest)(with_tensors(part, change) for part in nest)
    if isinstance(nest, Mapping):
        return {name: with_tensors(part, change) for name, part in nest.items()}
    return nest
