"""Backbones: torchvision's ResNets as the DETR authors use them, or any timm feature extractor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from dlrecipes.errors import UserError
from dlrecipes.models.hub import weights_source
from dlrecipes.models.lite0_weights import load_lite0

__all__ = ["Backbone", "resize_mask"]

_OFFICIAL = ("resnet50", "resnet101")
_LITE0 = "tf_efficientnet_lite0"  # the network whose weights the package has
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std that torchvision's weights were trained with


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour padding mask at a feature map's size: bool [B, H, W] → bool [B, h, w]."""
    return nn.functional.interpolate(mask[:, None].float(), size=size).to(torch.bool)[:, 0]


class _ResNetBody(nn.Module):
    """A torchvision ResNet without its head. Parameter names are those of the official checkpoints."""

    def __init__(self, name: str, stages: int, *, dilation: bool, pretrained: bool) -> None:
        super().__init__()
        weights = "IMAGENET1K_V1" if pretrained else None
        net = getattr(torchvision.models, name)(
            weights=weights, norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=[False, False, dilation]
        )
        for child in ("conv1", "bn1", "relu", "maxpool", *(f"layer{i + 1}" for i in range(stages))):
            self.add_module(child, getattr(net, child))

    def forward(self, x: Tensor) -> list[Tensor]:
        out = []
        for name, child in self.named_children():
            x = child(x)
            if name.startswith("layer"):
                out.append(x)
        return out


class Backbone(nn.Module):
    """Feature maps of an image, by stride.

    Args:
        name: ``"resnet50"`` or ``"resnet101"`` (torchvision, frozen batch norm, frozen stem and first stage, as in the
            paper), or the name of any timm model with ``features_only`` (trained whole).
        dilation: keep the last ResNet stage at stride 16 (the paper's DC5).
        pretrained: ImageNet weights: from the hub (``"hub"`` or true), or those of ``tf_efficientnet_lite0`` from a pip
            package (``"package"``); false: none.
        max_stride: leave out the stages beyond; default none. A stage that nothing reads would only cost time, and
            parameters without a gradient stop distributed training.
        args: further arguments of ``timm.create_model``, such as ``{"layers": [1, 1, 1, 1]}``.
        mask_padding: zero the padded area before each convolution that looks at neighbours, so that an image gives the
            same features alone and in a padded batch. The DETR authors' code does not do this. Exact for networks
            without global pooling (squeeze-and-excitation). Where timm pads to the size ("same", its ``tf_`` networks)
            the batch must be padded to multiples of 32, as the collate function does: all sizes are even then, and the
            padding the same.

    Attributes:
        strides, channels: of each feature map.
        normalisation: mean and std of each channel that pretrained weights need, for images in 0..1; else None.

    Raises:
        UserError: unknown name, arguments that it does not take, or weights that cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        dilation: bool = False,
        pretrained: bool | str = True,
        max_stride: int | None = None,
        args: dict[str, Any] | None = None,
        mask_padding: bool = False,
    ) -> None:
        super().__init__()
        if name in _OFFICIAL and args:
            raise UserError(f"backbone_args={args!r} is for timm backbones; {name!r} is torchvision's")
        if name not in _OFFICIAL and dilation:
            raise UserError(f"dilation=True is for {' and '.join(_OFFICIAL)}; give backbone_args to {name!r}")
        if pretrained == "package" and name != _LITE0:
            raise UserError(f"pretrained_backbone='package' has the weights of {_LITE0!r}, not of backbone {name!r}")
        hub = pretrained is True or pretrained == "hub"
        with _explained(name, args, hub=hub):
            if name in _OFFICIAL:
                self._make_official(name, dilation, hub, max_stride)
            else:
                self._make_timm(name, hub, max_stride, args or {})
        self.normalisation = self._find_normalisation(name) if pretrained else None
        if pretrained == "package":
            self._load_package()
        self._padding: Tensor | None = None
        if mask_padding:
            for module in self.body.modules():
                spatial = isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
                if spatial or isinstance(module, nn.MaxPool2d):  # max pooling follows a ReLU: 0 is as good as −∞
                    module.register_forward_pre_hook(self._zero_padding)

    def _make_official(self, name: str, dilation: bool, pretrained: bool, max_stride: int | None) -> None:
        strides = [4, 8, 16, 16 if dilation else 32]
        stages = sum(max_stride is None or stride <= max_stride for stride in strides)
        self.strides, self.channels = strides[:stages], [256, 512, 1024, 2048][:stages]
        self.body: nn.Module = _ResNetBody(name, stages, dilation=dilation, pretrained=pretrained)
        for parameter_name, parameter in self.body.named_parameters():
            if not parameter_name.startswith(("layer2", "layer3", "layer4")):  # what the paper trains
                parameter.requires_grad_(False)

    def _make_timm(self, name: str, pretrained: bool, max_stride: int | None, args: dict[str, Any]) -> None:
        with torch.device("meta"):  # a look at the strides costs no memory
            info: Any = timm.create_model(name, features_only=True, **args).feature_info
        wanted = [i for i, stride in enumerate(info.reduction()) if max_stride is None or stride <= max_stride]
        self.strides = [info.reduction()[i] for i in wanted]
        self.channels = [info.channels()[i] for i in wanted]
        indices: dict[str, Any] = {"out_indices": [info.out_indices[i] for i in wanted]}
        if len(wanted) < len(info.reduction()) and not _leaves_stages_out(name, args, indices):
            indices["feature_cls"] = "getter"  # timm's EfficientNets keep every stage unless they are wrapped in this
        source: dict[str, Any] = {"pretrained_cfg_overlay": weights_source(name)} if pretrained else {}
        self.body = timm.create_model(name, pretrained=pretrained, features_only=True, **source | args | indices)

    @staticmethod
    def _find_normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        config: Any = None if name in _OFFICIAL else timm.get_pretrained_cfg(name)
        return _IMAGENET if config is None else (tuple(config.mean), tuple(config.std))

    def _load_package(self) -> None:
        """The package's weights fit the whole classifier; this takes those of the stages that are left."""
        whole = timm.create_model(_LITE0, pretrained=False)
        load_lite0(whole)
        weights = whole.state_dict()
        self.body.load_state_dict(
            {name: weights[name.removeprefix("model.")] for name in self.body.state_dict()}  # the getter's prefix
        )

    def _zero_padding(self, _module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        if self._padding is None:
            return None
        x = inputs[0]
        return (x.masked_fill(resize_mask(self._padding, (x.shape[-2], x.shape[-1]))[:, None], 0.0),)

    @contextmanager
    def _masking(self, mask: Tensor | None) -> Iterator[None]:
        self._padding = mask
        try:
            yield
        finally:
            self._padding = None

    def forward(self, images: Tensor, mask: Tensor | None = None) -> dict[int, Tensor]:
        """[B, 3, H, W] → {stride: [B, channels, H / stride, W / stride]}; of equal strides the deepest."""
        with self._masking(mask):
            features: list[Tensor] = self.body(images)
        return dict(zip(self.strides, features, strict=True))


@contextmanager
def _explained(name: str, args: dict[str, Any] | None, *, hub: bool) -> Iterator[None]:
    """What timm and the hub raise, as one sentence."""
    try:
        yield
    except TypeError as error:
        if not args or "unexpected keyword" not in str(error):
            raise
        raise UserError(
            f"backbone {name!r} does not know all of backbone_args={args!r} ({error}): set "
            "--model.model.backbone_args null, or arguments that it has"
        ) from error
    except (OSError, RuntimeError) as error:
        if "Unknown model" in str(error):
            raise UserError(f"backbone {name!r} is not a timm model: `timm.list_models()` names them") from error
        if not hub:
            raise
        reason = error if isinstance(error, ConnectionError) else type(error).__name__
        raise UserError(
            f"the ImageNet weights of {name!r} could not be downloaded ({reason}): connect to the "
            "network, or set pretrained_backbone=False to start from random weights"
        ) from error


def _leaves_stages_out(name: str, args: dict[str, Any], indices: dict[str, Any]) -> bool:
    """Whether timm drops the stages beyond the last of ``out_indices``: then some parameters are missing."""
    with torch.device("meta"):
        every = timm.create_model(name, features_only=True, **args)
        some = timm.create_model(name, features_only=True, **args | indices)
    return sum(p.numel() for p in some.parameters()) < sum(p.numel() for p in every.parameters())
