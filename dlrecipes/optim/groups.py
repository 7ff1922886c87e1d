"""Parameter groups: few of them, since a fused optimizer launches one kernel a group."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    backbone_lr: float | None = None,
    decay_all: bool = False,
) -> list[dict[str, Any]]:
    """At most four groups: backbone or not, with weight decay or without.

    Args:
        model: parameters that need no gradient are left out; ``backbone`` is the first part of a backbone's names.
        lr: learning rate.
        weight_decay: of matrices and kernels.
        backbone_lr: learning rate of the backbone; default ``lr``.
        decay_all: decay norms and biases too, as the DETR authors do.

    Example:
        >>> groups = parameter_groups(nn.Linear(3, 2), lr=0.1, weight_decay=0.01)
        >>> [(g["name"], len(g["params"]), g["weight_decay"]) for g in groups]
        [('main', 1, 0.01), ('main/no_decay', 1, 0.0)]
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        backbone = name.split(".")[0] == "backbone"
        decay = decay_all or parameter.dim() > 1
        key = ("backbone" if backbone else "main") + ("" if decay else "/no_decay")
        rate = backbone_lr if backbone and backbone_lr is not None else lr
        group = {"name": key, "params": [], "lr": rate, "weight_decay": weight_decay if decay else 0.0}
        groups.setdefault(key, group)["params"].append(parameter)
    return sorted(groups.values(), key=lambda group: str(group["name"]))
