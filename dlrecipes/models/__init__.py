"""Networks. Names are imported when they are first used: timm and torchvision take seconds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlrecipes.models.cifar_resnet import CifarResNet
    from dlrecipes.models.deploy import DeployedDetector, DeployedModel
    from dlrecipes.models.detr import DETR
    from dlrecipes.models.efficientnet import EfficientNet
    from dlrecipes.models.mixer import MLPMixer
    from dlrecipes.models.timm_classifier import TimmClassifier

__all__ = [
    "DETR",
    "CifarResNet",
    "DeployedDetector",
    "DeployedModel",
    "EfficientNet",
    "MLPMixer",
    "TimmClassifier",
]

_MODULES = {
    "CifarResNet": "cifar_resnet",
    "DETR": "detr",
    "DeployedDetector": "deploy",
    "DeployedModel": "deploy",
    "EfficientNet": "efficientnet",
    "MLPMixer": "mixer",
    "TimmClassifier": "timm_classifier",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
