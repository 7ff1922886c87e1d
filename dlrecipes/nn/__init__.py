"""Blocks that networks are made of, how they start, and what they see. Names are imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlrecipes.nn.batch_norm import freeze_bn, set_bn
    from dlrecipes.nn.blocks import Bottleneck, ConvBNAct, ResidualBlock
    from dlrecipes.nn.conv1xn import Conv1xN, compare_kernels
    from dlrecipes.nn.cosine_linear import CosineLinear
    from dlrecipes.nn.description import Description, describe
    from dlrecipes.nn.fields.effective import EffectiveField, effective_receptive_field
    from dlrecipes.nn.fields.theoretical import ReceptiveField, receptive_field
    from dlrecipes.nn.init.audit import InitAudit, init_audit
    from dlrecipes.nn.init.gain import activation_gain
    from dlrecipes.nn.init.lsuv import LSUVTable, lsuv_
    from dlrecipes.nn.init.weights import InitTable, init_weights
    from dlrecipes.nn.stage_plan import StagedNet, StagePlan

__all__ = [
    "Bottleneck",
    "Conv1xN",
    "ConvBNAct",
    "CosineLinear",
    "Description",
    "EffectiveField",
    "InitAudit",
    "InitTable",
    "LSUVTable",
    "ReceptiveField",
    "ResidualBlock",
    "StagePlan",
    "StagedNet",
    "activation_gain",
    "compare_kernels",
    "describe",
    "effective_receptive_field",
    "freeze_bn",
    "init_audit",
    "init_weights",
    "lsuv_",
    "receptive_field",
    "set_bn",
]

_MODULES = {
    "Bottleneck": "blocks",
    "Conv1xN": "conv1xn",
    "ConvBNAct": "blocks",
    "CosineLinear": "cosine_linear",
    "InitAudit": "init.audit",
    "InitTable": "init.weights",
    "LSUVTable": "init.lsuv",
    "Description": "description",
    "EffectiveField": "fields.effective",
    "ReceptiveField": "fields.theoretical",
    "ResidualBlock": "blocks",
    "StagePlan": "stage_plan",
    "StagedNet": "stage_plan",
    "activation_gain": "init.gain",
    "compare_kernels": "conv1xn",
    "describe": "description",
    "effective_receptive_field": "fields.effective",
    "freeze_bn": "batch_norm",
    "init_audit": "init.audit",
    "init_weights": "init.weights",
    "lsuv_": "init.lsuv",
    "receptive_field": "fields.theoretical",
    "set_bn": "batch_norm",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
