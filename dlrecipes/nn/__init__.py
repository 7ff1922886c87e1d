"""Blocks that networks are made of, how they start, and what they see. Names are imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlrecipes.nn.batch_norm import freeze_bn, set_bn
    from dlrecipes.nn.blocks import Bottleneck, ConvBNAct, ResidualBlock
    from dlrecipes.nn.conv1xn import Conv1xN, compare_kernels
    from dlrecipes.nn.cosine_linear import CosineLinear
    from dlrecipes.nn.receptive_fields import ReceptiveField, receptive_field
    from dlrecipes.nn.stage_plan import StagedNet, StagePlan

__all__ = [
    "Bottleneck",
    "Conv1xN",
    "ConvBNAct",
    "CosineLinear",
    "ReceptiveField",
    "ResidualBlock",
    "StagePlan",
    "StagedNet",
    "compare_kernels",
    "freeze_bn",
    "receptive_field",
    "set_bn",
]

_MODULES = {
    "Bottleneck": "blocks",
    "Conv1xN": "conv1xn",
    "ConvBNAct": "blocks",
    "CosineLinear": "cosine_linear",
    "ReceptiveField": "receptive_fields",
    "ResidualBlock": "blocks",
    "StagePlan": "stage_plan",
    "StagedNet": "stage_plan",
    "compare_kernels": "conv1xn",
    "freeze_bn": "batch_norm",
    "receptive_field": "receptive_fields",
    "set_bn": "batch_norm",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
