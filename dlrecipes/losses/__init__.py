"""Losses as modules: thin, pluggable by import path; the formulas are in ``dlrecipes.functional.losses``.

Each is called as ``loss(input, target, sample_weight=None)`` and keeps its arguments as attributes. A loss with a
method ``bind(info)`` learns from the training set's ``DataInfo`` (class weights, priors); tasks call it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlrecipes.losses.balanced_regression import BalancedMSELoss, GAILoss
    from dlrecipes.losses.boxes import CIoULoss, DIoULoss, GIoULoss, IoULoss
    from dlrecipes.losses.classification import (
        AsymmetricLoss,
        BCELoss,
        CrossEntropyLoss,
        FocalLoss,
        Poly1Loss,
        SigmoidFocalLoss,
    )
    from dlrecipes.losses.contrastive import BalancedContrastiveLoss, SupConLoss
    from dlrecipes.losses.distillation import HeadToTailDistillLoss, KDLoss
    from dlrecipes.losses.longtail import BalancedSoftmaxLoss, LogitAdjustedLoss, VSLoss
    from dlrecipes.losses.margin import LDAMLoss, SeesawLoss
    from dlrecipes.losses.multilabel import DistributionBalancedLoss
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
    from dlrecipes.losses.reweighting import ClassBalancedLoss, LabelAwareSmoothingLoss

__all__ = [
    "AsymmetricLoss",
    "BCELoss",
    "BalancedContrastiveLoss",
    "BalancedMSELoss",
    "BalancedSoftmaxLoss",
    "BiTemperedLoss",
    "CIoULoss",
    "ClassBalancedLoss",
    "CrossEntropyLoss",
    "DIoULoss",
    "DistributionBalancedLoss",
    "FocalLoss",
    "GAILoss",
    "GIoULoss",
    "GaussianNLLLoss",
    "GeneralizedCrossEntropyLoss",
    "HeadToTailDistillLoss",
    "HuberLoss",
    "IoULoss",
    "KDLoss",
    "L1Loss",
    "L2Loss",
    "LDAMLoss",
    "LabelAwareSmoothingLoss",
    "LaplaceNLLLoss",
    "LogCoshLoss",
    "LogitAdjustedLoss",
    "Poly1Loss",
    "QuantileLoss",
    "SeesawLoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "SupConLoss",
    "SymmetricCrossEntropyLoss",
    "TukeyLoss",
    "VSLoss",
]

_MODULES = {
    "AsymmetricLoss": "classification",
    "BCELoss": "classification",
    "BalancedContrastiveLoss": "contrastive",
    "BalancedMSELoss": "balanced_regression",
    "BalancedSoftmaxLoss": "longtail",
    "BiTemperedLoss": "noisy",
    "CIoULoss": "boxes",
    "ClassBalancedLoss": "reweighting",
    "CrossEntropyLoss": "classification",
    "DIoULoss": "boxes",
    "DistributionBalancedLoss": "multilabel",
    "FocalLoss": "classification",
    "GAILoss": "balanced_regression",
    "GIoULoss": "boxes",
    "GaussianNLLLoss": "regression",
    "GeneralizedCrossEntropyLoss": "noisy",
    "HeadToTailDistillLoss": "distillation",
    "HuberLoss": "regression",
    "IoULoss": "boxes",
    "KDLoss": "distillation",
    "L1Loss": "regression",
    "L2Loss": "regression",
    "LDAMLoss": "margin",
    "LabelAwareSmoothingLoss": "reweighting",
    "LaplaceNLLLoss": "regression",
    "LogCoshLoss": "regression",
    "LogitAdjustedLoss": "longtail",
    "Poly1Loss": "classification",
    "QuantileLoss": "regression",
    "SeesawLoss": "margin",
    "SigmoidFocalLoss": "classification",
    "SmoothL1Loss": "regression",
    "SupConLoss": "contrastive",
    "SymmetricCrossEntropyLoss": "noisy",
    "TukeyLoss": "regression",
    "VSLoss": "longtail",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
