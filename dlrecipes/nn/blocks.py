"""Convolution, batch norm, activation; and the residual blocks made of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from dlrecipes.nn.activations import activation
from dlrecipes.nn.conv1xn import Conv1xN

__all__ = ["Bottleneck", "ConvBNAct", "ResidualBlock"]

_SHORTCUTS = ("projection", "pad")


class ConvBNAct(nn.Sequential):
    """Convolution without bias, batch norm (Ioffe and Szegedy, 2015, arXiv:1502.03167), activation.

    With stride 1 the map keeps its size where the kernel is odd: the padding is half of the kernel's extent.

    Args:
        in_channels, out_channels: of the convolution.
        kernel: its side, or (height, width).
        stride, dilation, groups: of the convolution.
        act: a name of ``ACTIVATIONS``; ``"none"`` before a sum.
        bn_momentum: share of the newest batch in the running statistics, which thus remember about the last
            ``1 / bn_momentum`` batches.
        bn_eps: added to the variance.

    Raises:
        ValueError: a value that none of them can have.

    Example:
        >>> import torch
        >>> tuple(ConvBNAct(3, 8, (1, 7), stride=2)(torch.zeros(2, 3, 32, 32)).shape)
        (2, 8, 16, 16)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int] = 3,
        *,
        stride: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        act: str = "relu",
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.init_args: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        sides, spread = _pair("kernel", kernel), _pair("dilation", dilation)
        padding = (spread[0] * (sides[0] - 1) // 2, spread[1] * (sides[1] - 1) // 2)
        step = _pair("stride", stride)
        self.conv = nn.Conv2d(in_channels, out_channels, sides, step, padding, spread, groups, bias=False)
        self.bn = _batch_norm(out_channels, bn_momentum, bn_eps)
        self.act = activation(act)


class _Residual(nn.Module):
    """Convolutions beside a shortcut; what both kinds of block share.

    Args:
        convs: the branch.
        widths: channels of the block's input and of each convolution's output.
    """

    def __init__(
        self,
        convs: Sequence[nn.Module],
        widths: Sequence[int],
        *,
        stride: int,
        act: str,
        pre_activation: bool,
        zero_init: bool,
        drop_path: float,
        shortcut: str,
        bn_momentum: float,
        bn_eps: float,
    ) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path={drop_path}: must be at least 0 and below 1")
        norms = [_batch_norm(width, bn_momentum, bn_eps) for width in widths]
        self.pre = nn.Sequential(norms[0], activation(act)) if pre_activation else nn.Identity()
        self.branch = nn.Sequential()
        for index, (conv, norm) in enumerate(zip(convs, norms[1:], strict=True), start=1):
            last = index == len(convs)
            self.branch.add_module(f"conv{index}", conv)
            if not (last and pre_activation):
                self.branch.add_module(f"bn{index}", norm)
            if not last:
                self.branch.add_module(f"act{index}", activation(act))
        self.drop_path = StochasticDepth(drop_path, "row") if drop_path else nn.Identity()
        self.shortcut = _shortcut(widths[0], widths[-1], stride, shortcut)
        if isinstance(self.shortcut, nn.Conv2d) and not pre_activation:
            self.shortcut = nn.Sequential(self.shortcut, _batch_norm(widths[-1], bn_momentum, bn_eps))
        self.act = nn.Identity() if pre_activation else activation(act)
        if zero_init:
            self.zero_branch()

    def zero_branch(self) -> None:
        """Make the branch 0, and the block its shortcut. Whoever starts the weights anew calls it again."""
        last = [module for module in self.branch.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)][-1]
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """float [B, in_channels, H, W] → [B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]."""
        ready = self.pre(x)
        kept = self.shortcut(ready if isinstance(self.shortcut, nn.Conv2d) else x)
        out: Tensor = self.act(kept + self.drop_path(self.branch(ready)))
        return out


class ResidualBlock(_Residual):
    r"""Two convolutions beside a shortcut s (He et al., 2016, arXiv:1512.03385),

    .. math:: y = \phi\big(s(x) + \mathrm{BN}(W_2 * \phi(\mathrm{BN}(W_1 * x)))\big),

    or with pre-activation (He et al., 2016, arXiv:1603.05027), where nothing stands behind the sum,

    .. math:: y = s(x) + W_2 * \phi(\mathrm{BN}(W_1 * \phi(\mathrm{BN}(x)))).

    Args:
        in_channels, out_channels: of the block.
        stride: of the first convolution and the shortcut.
        dilation: of both convolutions.
        kernel: their side, odd.
        conv1xn: each of them is a pair of 1 × ``kernel`` and ``kernel`` × 1 (``Conv1xN``) with batch norm and
            activation between.
        act: a name of ``ACTIVATIONS``.
        pre_activation: the second formula. A network of such blocks ends with one more batch norm and activation.
        zero_init: the branch starts as 0 and the block as its shortcut, so that depth costs nothing at first (Goyal et
            al., 2017, arXiv:1706.02677): γ of the last batch norm is 0; with pre-activation the last kernel is, since
            behind a γ of 0 neither ReLU nor that kernel would ever get a gradient.
        drop_path: probability that a sample skips the branch in a training step (stochastic depth, Huang et al., 2016,
            arXiv:1603.09382).
        shortcut: where the shape changes: ``"projection"``, a 1 × 1 convolution; ``"pad"``, the paper's option A
            without parameters: every ``stride``-th place, and channels of zeros behind those there are.
        bn_momentum, bn_eps: as in ``ConvBNAct``.

    Raises:
        ValueError: a value that none of them can have; ``"pad"`` to fewer channels.

    Example:
        >>> import torch
        >>> x = torch.rand(2, 8, 5, 5)
        >>> torch.equal(ResidualBlock(8, 8)(x), x)
        True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        kernel: int = 3,
        conv1xn: bool = False,
        act: str = "relu",
        pre_activation: bool = False,
        zero_init: bool = True,
        drop_path: float = 0.0,
        shortcut: str = "projection",
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-5,
    ) -> None:
        init_args: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        conv = partial(Conv1xN, between=act, bn_momentum=bn_momentum, bn_eps=bn_eps) if conv1xn else _square
        super().__init__(
            [
                conv(in_channels, out_channels, _odd(kernel), stride=stride, dilation=dilation),
                conv(out_channels, out_channels, kernel, dilation=dilation),
            ],
            [in_channels, out_channels, out_channels],
            stride=stride,
            act=act,
            pre_activation=pre_activation,
            zero_init=zero_init,
            drop_path=drop_path,
            shortcut=shortcut,
            bn_momentum=bn_momentum,
            bn_eps=bn_eps,
        )
        self.init_args = init_args


class Bottleneck(_Residual):
    """1 × 1 to few channels, 3 × 3 among them, 1 × 1 to many, beside a shortcut (He et al., 2016, arXiv:1512.03385).

    The stride is in the 3 × 3, as in every ResNet-50 that is trained today: in the first 1 × 1 it would throw three
    quarters of the places away unseen.

    Args:
        in_channels, out_channels: of the block; ``out_channels / expansion`` between.
        expansion: how much narrower the middle is.
        groups: of the 3 × 3; 32 with an expansion of 2 is ResNeXt's (Xie et al., 2017, arXiv:1611.05431).
        stride, dilation, kernel: of the convolution in the middle.
        conv1xn, act, pre_activation, zero_init, drop_path, shortcut, bn_momentum, bn_eps: as in ``ResidualBlock``.

    Raises:
        ValueError: a value that none of them can have; ``out_channels`` that the expansion does not divide.

    Example:
        >>> import torch
        >>> tuple(Bottleneck(64, 256, stride=2)(torch.zeros(2, 64, 8, 8)).shape)
        (2, 256, 4, 4)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        kernel: int = 3,
        groups: int = 1,
        expansion: int = 4,
        conv1xn: bool = False,
        act: str = "relu",
        pre_activation: bool = False,
        zero_init: bool = True,
        drop_path: float = 0.0,
        shortcut: str = "projection",
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-5,
    ) -> None:
        init_args: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if expansion < 1 or out_channels % expansion:
            raise ValueError(f"expansion={expansion}: must divide out_channels={out_channels}")
        mid = out_channels // expansion
        conv = partial(Conv1xN, between=act, bn_momentum=bn_momentum, bn_eps=bn_eps) if conv1xn else _square
        super().__init__(
            [
                _square(in_channels, mid, 1),
                conv(mid, mid, _odd(kernel), stride=stride, dilation=dilation, groups=groups),
                _square(mid, out_channels, 1),
            ],
            [in_channels, mid, mid, out_channels],
            stride=stride,
            act=act,
            pre_activation=pre_activation,
            zero_init=zero_init,
            drop_path=drop_path,
            shortcut=shortcut,
            bn_momentum=bn_momentum,
            bn_eps=bn_eps,
        )
        self.init_args = init_args


class _PadShortcut(nn.Module):
    """Every ``stride``-th row and column, and ``more`` channels of zeros."""

    def __init__(self, stride: int, more: int) -> None:
        super().__init__()
        self.stride, self.more = stride, more

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


def _shortcut(in_channels: int, out_channels: int, stride: int, kind: str) -> nn.Module:
    if kind not in _SHORTCUTS:
        raise ValueError(f"shortcut={kind!r}: choose one of {', '.join(_SHORTCUTS)}")
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if kind == "projection":
        return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    if out_channels < in_channels:
        raise ValueError(f"shortcut='pad': {in_channels} channels cannot be padded to {out_channels}")
    return _PadShortcut(stride, out_channels - in_channels)


def _square(
    channels_in: int, channels: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution that keeps the map's size at stride 1."""
    pad = dilation * (kernel - 1) // 2
    return nn.Conv2d(channels_in, channels, kernel, stride, pad, dilation, groups, bias=False)


def _odd(kernel: int) -> int:
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel={kernel}: an odd number is needed")
    return kernel


def _batch_norm(channels: int, momentum: float, eps: float) -> nn.BatchNorm2d:
    if not 0 < momentum <= 1:
        raise ValueError(f"bn_momentum={momentum}: must be above 0 and at most 1")
    if not eps > 0:
        raise ValueError(f"bn_eps={eps}: must be above 0")
    return nn.BatchNorm2d(channels, eps=eps, momentum=momentum)


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of what may be one number; a list, as a config file has it, is welcome too."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name}={value}: one number or two are needed, at least 1 each")
    return pair
