"""The residual network of CIFAR: three stages, half a million parameters."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.models.timm_classifier import Head, check_head
from dlrecipes.nn import CosineLinear

__all__ = ["CifarResNet"]

_CHANNELS = (16, 32, 64)  # of the stages, He et al., 2016, section 4.2


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut without parameters (option A of the paper)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.new_channels = channels - channels_in

    def shortcut(self, x: Tensor) -> Tensor:
        """Every ``stride``-th row and column, and channels of zeros around those there are."""
        if self.stride == 1 and not self.new_channels:
            return x
        front = self.new_channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, front, self.new_channels - front))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet for images of 32 pixels (He et al., 2016, arXiv:1512.03385, section 4.2), small enough for many runs.

    6n + 2 layers: a 3×3 convolution, three stages of n blocks with 16, 32 and 64 channels, each stage after the first
    halving the image, the mean over places, and a linear layer. Shortcuts have no parameters. Weights start as Kaiming
    normal (He et al., 2015, arXiv:1502.01852).

    Args:
        depth: 6n + 2: 20 (0.27 M parameters), 32 (0.46 M), 44, 56 (0.85 M), 110 ...
        num_classes: width of the last layer; ``bind`` sets it to what the data wants.
        head: ``"linear"``; or ``"cosine"``: the last layer gives cosines, which ``LDAMLoss`` needs and other losses
            cannot learn from (``dlrecipes.nn.CosineLinear``).

    Raises:
        ValueError: a value that is none of the above.

    Example:
        >>> import torch
        >>> model = CifarResNet(32)
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).shape), sum(p.numel() for p in model.parameters())
        ((2, 10), 464154)
    """

    def __init__(self, depth: int = 32, num_classes: int = 10, head: Head = "linear") -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth={depth}: 6n + 2 is needed, such as 20, 32, 44, 56 or 110")
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: at least 1")
        check_head(head)
        self.init_args = {"depth": depth, "num_classes": num_classes, "head": head}
        self.conv = nn.Conv2d(3, _CHANNELS[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(_CHANNELS[0])
        self.stages = nn.Sequential()
        channels_in = _CHANNELS[0]
        for channels in _CHANNELS:
            blocks = [_Block(channels_in, channels, 1 if channels == channels_in else 2)]
            blocks += [_Block(channels, channels, 1) for _ in range((depth - 2) // 6 - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels_in = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.head = self._new_head()

    @property
    def num_outputs(self) -> int:
        """Width of the last layer."""
        return int(self.init_args["num_classes"])

    def _new_head(self) -> nn.Linear:
        if self.init_args["head"] == "cosine":
            return CosineLinear(_CHANNELS[-1], self.num_outputs)
        head = nn.Linear(_CHANNELS[-1], self.num_outputs)
        nn.init.kaiming_normal_(head.weight)
        nn.init.zeros_(head.bias)
        return head

    def classifiers(self) -> dict[str, nn.Module]:
        """Every layer whose rows are outputs, by parameter prefix."""
        return {"head": self.head}

    def bind(self, info: DataInfo) -> None:
        """Give the head as many outputs as the data wants; the other weights stay.

        Raises:
            UserError: data without outputs.
        """
        if info.num_outputs < 1:
            raise UserError("CifarResNet needs classes or target names, and the data has none")
        if info.num_outputs != self.num_outputs:
            self.init_args["num_classes"] = info.num_outputs
            self.head = self._new_head().to(self.conv.weight)

    def features(self, images: Tensor) -> Tensor:
        """What the classifier sees: float [B, 3, S, S], normalised → [B, 64]."""
        out: Tensor = self.stages(F.relu(self.bn(self.conv(images))))
        return out.mean((2, 3))

    def classify(self, features: Tensor) -> Tensor:
        """The last layer: [B, 64] → [B, num_classes]."""
        out: Tensor = self.head(features)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """float [B, 3, S, S], normalised → [B, num_classes]."""
        return self.classify(self.features(images))
