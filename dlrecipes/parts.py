"""Parts as import path and arguments: how a checkpoint names a class, and how the class is made again.

A part's arguments are its ``init_args`` if it has them, and otherwise the attributes that carry the arguments' names
(scikit-learn's convention: ``self.gamma = gamma``). Those of a class that hands ``**kwargs`` on to its base are its
base's, too. Torch's containers of modules have the modules themselves.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from torch import Tensor, nn

from dlrecipes.errors import CheckpointError, UserError

__all__ = [
    "build_part",
    "construct",
    "constructor_parameters",
    "import_named_classes",
    "import_object",
    "model_of_run",
    "part_spec",
    "unknown_args",
]

# Packages that a checkpoint may name without having been imported by the user: importing runs code.
_TRUSTED = ("dlrecipes", "lightning", "pytorch_metric_learning", "timm", "torch", "torchmetrics", "torchvision")
_MISSING = "missing_args"
_LOST = "lost_args"  # those of them that were something else than their default
_MODULES = "modules"  # of a container

T = TypeVar("T")


def _plain(value: Any) -> Any:
    """In None, bool, int, float, str, list, tuple and dict themselves: a safe reader of checkpoints refuses classes
    that derive from them, as NumPy's numbers and enums of strings do.

    Raises:
        TypeError: anything else.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {str.__str__(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(_plain, value))
    if isinstance(value, str):
        return str.__str__(value)  # str() of an enum is its name
    if isinstance(value, int | float):
        return (int if isinstance(value, int) else float)(value)
    raise TypeError(f"a {type(value).__name__} is no primitive")


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
    """``{"class_path": ..., "init_args": ...}`` of an object, in primitives and tensors; parts inside it become specs
    themselves.

    Arguments whose value is not kept under the argument's name are listed under ``"missing_args"``, and so are those
    that hold anything else, such as a function. Where that is not what the argument is by default, it is also under
    ``"lost_args"``: made without it, the part would be another one.

    Example:
        >>> part_spec(nn.LeakyReLU(0.2))
        {'class_path': 'torch.nn.modules.activation.LeakyReLU', 'init_args': {'negative_slope': 0.2, 'inplace': False}}
    """
    cls = type(part)
    spec: dict[str, Any] = {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": {}}
    if isinstance(part, nn.Module) and _is_container(cls):
        return spec | {_MODULES: {name: part_spec(child) for name, child in part.named_children()}}
    known = getattr(part, "init_args", None)
    missing, lost = [], []
    for name, parameter in constructor_parameters(cls).items():
        value = known.get(name, parameter.empty) if known is not None else getattr(part, name, parameter.empty)
        if value is parameter.empty or inspect.ismethod(value) or _is_in_state(part, name, value):
            missing.append(name)
            continue
        try:
            spec["init_args"][name] = _recorded(value)
        except TypeError:
            missing.append(name)
            lost += [] if _same(value, parameter.default) else [name]
    return spec | ({_MISSING: missing} if missing else {}) | ({_LOST: lost} if lost else {})


def _recorded(value: Any) -> Any:
    """An argument as a checkpoint holds it.

    Raises:
        TypeError: neither part, nor tensor, nor made of primitives.
    """
    if isinstance(value, nn.Module):
        return part_spec(value)
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    plain = _plain(value)
    return list(plain) if isinstance(plain, tuple) else plain


def _is_in_state(part: object, name: str, value: object) -> bool:
    """Whether the attribute is a parameter or a buffer, which the weights bring; without one, None is the argument."""
    if value is None or not isinstance(part, nn.Module):
        return False
    own = (part.named_parameters, part.named_buffers)
    return any(name == known for named in own for known, _ in named(recurse=False, remove_duplicate=False))


def _is_container(cls: type) -> bool:
    makers = {base.__init__ for base in (nn.Sequential, nn.ModuleList, nn.ModuleDict)}
    return cls.__init__ in makers  # type: ignore[misc]  # a class's own, not an instance's


def _same(value: object, default: object) -> bool:
    try:
        return value is default or bool(value == default)
    except (TypeError, ValueError, RuntimeError):  # of arrays, say
        return False


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


def model_of_run(config: Path) -> dict[str, Any]:
    """The ``model`` section of a run's ``config.yaml``, with every class imported that it names.

    It is the user's own file, as trusted as the code that it names; a checkpoint alone is not.

    Raises:
        UserError: a file that cannot be read, or a class that cannot be imported from here.
    """
    try:
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{config} cannot be read ({' '.join(str(error).split())[:100]}): remove it where all classes of the run "
            "are those of dlrecipes: the checkpoint says the rest."
        ) from error
    model = values.get("model") if isinstance(values, dict) else None
    if not isinstance(model, dict) or "class_path" not in model:
        raise UserError(f"{config} names no model: it is not the config.yaml of a run, so remove it or restore it.")
    try:
        import_named_classes(model)
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{config} names a class that is not here ({error}): run this where training was run."
        ) from error
    return model


def import_named_classes(config: Mapping[str, Any]) -> None:
    """Import every class that a part of a config names, so that a checkpoint of its run may: `build_part` makes what
    has been imported. The config is to be trusted as the code that it names.

    Raises:
        UserError: a class that cannot be imported.
    """
    for key, value in config.items():
        if key == "class_path":
            import_object(str(value))
        elif isinstance(value, Mapping):
            import_named_classes(value)


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
    if _MODULES in spec:
        children = {key: build_part(value, trust=trust) for key, value in spec[_MODULES].items()}
        return _filled(cls, children)
    args = {
        key: build_part(value, trust=trust) if isinstance(value, dict) and "class_path" in value else value
        for key, value in spec["init_args"].items()
    }
    args |= {key: False for key in args if key.startswith("pretrained")}  # the checkpoint brings the weights
    required = unknown_args(cls, spec)
    if required:
        raise CheckpointError(
            f"the checkpoint does not know {', '.join(required)} of {path}: pass the part as an argument, "
            f"or keep each argument as an attribute of the same name"
        )
    return construct(cls, args)


def unknown_args(cls: type, spec: Mapping[str, Any]) -> list[str]:
    """Arguments that a class cannot be made without as it was: of those that were not recorded, the ones that it needs
    and the ones that were something else than their default."""
    own = inspect.signature(cls.__init__).parameters  # type: ignore[misc]  # of a class
    lost = spec.get(_LOST, ())
    return [  # of what is handed on to a base, the class may give it some itself
        key
        for key in spec.get(_MISSING, ())
        if key in own and (own[key].default is inspect.Parameter.empty or key in lost)
    ]


def _filled(cls: type, children: dict[str, nn.Module]) -> Any:
    """A container of torch's, with its modules under their names."""
    return cls(OrderedDict(children) if issubclass(cls, nn.Sequential | nn.ModuleDict) else children.values())
