"""Parts as import path and arguments: how a checkpoint names a class, and how the class is made again.

A part's arguments are its ``init_args`` if it has them, and otherwise the attributes that carry the arguments' names
(scikit-learn's convention: ``self.gamma = gamma``). Those of a class that hands ``**kwargs`` on to its base are its
base's, too.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

from torch import nn

from dlrecipes.errors import CheckpointError, UserError

__all__ = ["build_part", "construct", "constructor_parameters", "import_object", "part_spec"]

# Packages that a checkpoint may name without having been imported by the user: importing runs code.
_TRUSTED = ("dlrecipes", "lightning", "timm", "torch", "torchmetrics", "torchvision")
_MISSING = "missing_args"

T = TypeVar("T")


def _is_primitive(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_primitive(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_primitive, value))
    return value is None or isinstance(value, bool | int | float | str)


def constructor_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """What a class can be given by name: the parameters of its ``__init__``, and while that takes ``**kwargs``, those
    of the next ``__init__`` among its bases, which is where the rest is handed to.

    Example:
        >>> class Leaky(nn.LeakyReLU):
        ...     def __init__(self, extra: int = 1, **others: float) -> None:
        ...         super().__init__(**others)
        >>> list(constructor_parameters(Leaky))
        ['extra', 'negative_slope', 'inplace']
    """
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        _, *parameters = inspect.signature(vars(base)["__init__"]).parameters.values()  # without self
        named = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        found |= {name: p for name, p in named.items() if name not in found}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def construct(cls: type[T], args: Mapping[str, Any]) -> T:
    """``cls(**args)``, where ``args`` may hold more than can be given: what a class with ``**kwargs`` sets for its
    base itself, as ``super().__init__(lr=0.1, **kwargs)`` does, was recorded with the rest.

    Raises:
        TypeError: arguments that are wrong otherwise.
    """
    given = dict(args)
    own = inspect.signature(cls.__init__).parameters
    while True:
        try:
            return cls(**given)
        except TypeError as error:
            twice = re.search(r"got multiple values for (?:keyword )?argument '(\w+)'", str(error))
            if twice is None or twice[1] in own or twice[1] not in given:
                raise
            del given[twice[1]]


def part_spec(part: object) -> dict[str, Any]:
    """``{"class_path": ..., "init_args": ...}`` of an object, in primitives; parts inside it become specs themselves.

    Arguments whose value is not kept under the argument's name are listed under ``"missing_args"``.

    Example:
        >>> part_spec(nn.LeakyReLU(0.2))
        {'class_path': 'torch.nn.modules.activation.LeakyReLU', 'init_args': {'negative_slope': 0.2, 'inplace': False}}
    """
    cls = type(part)
    known = getattr(part, "init_args", None)
    args: dict[str, Any] = {}
    missing = []
    for name, parameter in constructor_parameters(cls).items():
        value = known.get(name, parameter.empty) if known is not None else getattr(part, name, parameter.empty)
        if isinstance(value, nn.Module):
            args[name] = part_spec(value)
        elif value is not parameter.empty and _is_primitive(value):
            args[name] = list(value) if isinstance(value, tuple) else value
        else:
            missing.append(name)
    spec: dict[str, Any] = {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": args}
    return spec | ({_MISSING: missing} if missing else {})


def import_object(path: str) -> Any:
    """The object at an import path such as ``torch.optim.AdamW``.

    Raises:
        UserError: not a dotted path, or nothing there.
    """
    module, _, name = path.rpartition(".")
    if not module:
        raise UserError(f"{path!r} is not an import path such as 'torch.optim.AdamW'")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"cannot import {path!r}: {error}") from error


def build_part(spec: dict[str, Any], *, base: type = nn.Module, trust: Sequence[str] = ()) -> Any:
    """Make the object that ``part_spec`` described, without downloading pretrained weights.

    Args:
        spec: from a checkpoint.
        base: what the class must derive from; anything else is refused, so that a spec cannot call functions.
        trust: further packages that may be imported.

    Raises:
        CheckpointError: a class of a package that is neither trusted nor imported, not a ``base``, or gone; arguments
            that were not recorded.
    """
    path = spec["class_path"]
    module, _, name = path.rpartition(".")
    if module.split(".")[0] not in (*_TRUSTED, *trust) and module not in sys.modules:
        raise CheckpointError(
            f"the checkpoint names the class {path}, and importing it would run code of {module.split('.')[0]!r}: "
            f"import {module} yourself first, or pass the part as an argument"
        )
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"the checkpoint names the class {path}, which cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise CheckpointError(f"the checkpoint names {path}, which is not a {base.__name__}")
    args = {
        key: build_part(value, trust=trust) if isinstance(value, dict) and "class_path" in value else value
        for key, value in spec["init_args"].items()
    }
    args |= {key: False for key in args if key.startswith("pretrained")}  # the checkpoint brings the weights
    own = inspect.signature(cls.__init__).parameters  # of what is handed on to a base, the class may give it some
    required = [key for key in spec.get(_MISSING, ()) if key in own and own[key].default is inspect.Parameter.empty]
    if required:
        raise CheckpointError(
            f"the checkpoint does not know {', '.join(required)} of {path}: pass the part as an argument, "
            f"or keep each argument as an attribute of the same name"
        )
    return construct(cls, args)
