"""Losses as modules: thin, pluggable by import path; the formulas are in ``dlrecipes.functional.losses``.

Each is called as ``loss(input, target, sample_weight=None)`` and keeps its arguments as attributes. A loss with a
method ``bind(info)`` learns from the training set's ``DataInfo`` (class weights, priors); tasks call it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlrecipes.losses.boxes import CIoULoss, DIoULoss, GIoULoss, IoULoss
    from dlrecipes.losses.classification import (
        AsymmetricLoss,
        BCELoss,
        CrossEntropyLoss,
        FocalLoss,
        Poly1Loss,
        SigmoidFocalLoss,
    )
    from dlrecipes.losses.longtail import LogitAdjustedLoss
    from dlrecipes.losses.noisy import BiTemperedLoss, GeneralizedCrossEntropyLoss, SymmetricCrossEntropyLoss
    from dlrecipes.losses.regression import (
        GaussianNLLLoss,
        HuberLoss,
        L1Loss,
        L2Loss,
        LaplaceNLLLoss,
        LogCoshLoss,
        QuantileLoss,
        SmoothL1Loss,
        TukeyLoss,
    )

__all__ = [
    "AsymmetricLoss",
    "BCELoss",
    "BiTemperedLoss",
    "CIoULoss",
    "CrossEntropyLoss",
    "DIoULoss",
    "FocalLoss",
    "GIoULoss",
    "GaussianNLLLoss",
    "GeneralizedCrossEntropyLoss",
    "HuberLoss",
    "IoULoss",
    "L1Loss",
    "L2Loss",
    "LaplaceNLLLoss",
    "LogCoshLoss",
    "LogitAdjustedLoss",
    "Poly1Loss",
    "QuantileLoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "SymmetricCrossEntropyLoss",
    "TukeyLoss",
]

_MODULES = {
    "AsymmetricLoss": "classification",
    "BCELoss": "classification",
    "BiTemperedLoss": "noisy",
    "CIoULoss": "boxes",
    "CrossEntropyLoss": "classification",
    "DIoULoss": "boxes",
    "FocalLoss": "classification",
    "GIoULoss": "boxes",
    "GaussianNLLLoss": "regression",
    "GeneralizedCrossEntropyLoss": "noisy",
    "HuberLoss": "regression",
    "IoULoss": "boxes",
    "L1Loss": "regression",
    "L2Loss": "regression",
    "LaplaceNLLLoss": "regression",
    "LogCoshLoss": "regression",
    "LogitAdjustedLoss": "longtail",
    "Poly1Loss": "classification",
    "QuantileLoss": "regression",
    "SigmoidFocalLoss": "classification",
    "SmoothL1Loss": "regression",
    "SymmetricCrossEntropyLoss": "noisy",
    "TukeyLoss": "regression",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
