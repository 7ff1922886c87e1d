"""Parameter groups: few of them, since a fused optimizer launches one kernel a group."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from dlrecipes.errors import UserError

__all__ = ["parameter_groups"]


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    backbone_lr: float | None = None,
    decay_all: bool = False,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """At most four groups: backbone or not, with weight decay or without; with ``layer_decay`` two for each layer.

    Args:
        model: parameters that need no gradient are left out; ``backbone`` is the first part of a backbone's names.
            Names that its ``no_weight_decay()`` lists (timm's models have that) are not decayed. A model that keeps
            the network in an attribute ``net`` is looked through.
        lr: learning rate.
        weight_decay: of matrices and kernels.
        backbone_lr: learning rate of the backbone; default ``lr``.
        decay_all: decay norms and biases too, as the DETR authors do.
        layer_decay: layer i of n learns with ``lr · layer_decay ** (n − i)``, the head with ``lr``: the lower a layer
            of a pretrained network, the less it changes (ELECTRA, arXiv:2003.10555; BEiT, arXiv:2106.08254). Which
            layer a weight belongs to is the model's to say, by timm's ``group_matcher(coarse)``.

    Raises:
        UserError: ``layer_decay`` for a model without ``group_matcher``.

    Example:
        >>> groups = parameter_groups(nn.Linear(3, 2), lr=0.1, weight_decay=0.01)
        >>> [(g["name"], len(g["params"]), g["weight_decay"]) for g in groups]
        [('main', 1, 0.01), ('main/no_decay', 1, 0.0)]
    """
    exempt = [] if decay_all else _not_decayed(model)
    layers = {} if layer_decay is None else _layers(model)
    top = max(layers.values(), default=0)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        backbone = name.split(".")[0] == "backbone"
        decay = decay_all or (parameter.dim() > 1 and not any(fnmatchcase(name, pattern) for pattern in exempt))
        key = "backbone" if backbone else "main"
        rate = backbone_lr if backbone and backbone_lr is not None else lr
        if layer_decay is not None:
            layer = layers.get(name, top)
            key += f"/layer_{layer:0{len(str(top))}d}"
            rate *= layer_decay ** (top - layer)
        key += "" if decay else "/no_decay"
        group = {"name": key, "params": [], "lr": rate, "weight_decay": weight_decay if decay else 0.0}
        groups.setdefault(key, group)["params"].append(parameter)
    return sorted(groups.values(), key=lambda group: str(group["name"]))


def _network(model: nn.Module, method: str) -> tuple[Any, str]:
    """The module that has ``method`` (the model, or the one in its ``net``; else None), and its names' prefix."""
    for module, prefix in ((model, ""), (getattr(model, "net", None), "net.")):
        if isinstance(module, nn.Module) and callable(getattr(module, method, None)):
            return module, prefix
    return None, ""


def _not_decayed(model: nn.Module) -> list[str]:
    network, prefix = _network(model, "no_weight_decay")
    return [] if network is None else [prefix + name for name in network.no_weight_decay()]


def _layers(model: nn.Module) -> dict[str, int]:
    """Layer of each parameter, the stem's 0."""
    network, prefix = _network(model, "group_matcher")
    if network is None:
        raise UserError(
            f"layer_decay needs a model whose group_matcher() tells its layers, as timm's models do, and "
            f"{type(model).__name__} has none: leave layer_decay out"
        )
    from timm.models import group_parameters

    layers: dict[str, int] = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
    return {prefix + name: layer for name, layer in layers.items()}
