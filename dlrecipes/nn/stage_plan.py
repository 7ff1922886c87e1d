"""Networks in stages, to try depth, width and pooling on: the plan, and the network that follows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.nn.activations import activation
from dlrecipes.nn.blocks import Bottleneck, ConvBNAct, ResidualBlock

__all__ = ["StagePlan", "StagedNet"]

_BLOCKS = ("basic", "bottleneck", "conv1xn")
_EXPANSION = 4
_HEAD_STD = 0.01  # outputs start near 0, so that a classifier's first loss is about log C


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What a network of residual stages is made of. Depth is what it can learn, width what it can carry at a time.

    The defaults are half as wide as ResNet-18; ``width=(64, 128, 256, 512)`` is ResNet-18 itself, and
    ``depth=(3, 4, 6, 3), width=(256, 512, 1024, 2048), block="bottleneck"`` ResNet-50 (He et al., 2016,
    arXiv:1512.03385; the stride in the 3 × 3).

    Args:
        depth: blocks of each stage.
        width: channels that each stage passes on.
        stride: of each stage's first block.
        dilation: of each stage: 2 instead of a stride of 2 in the last one widens the field as much and keeps the map.
        early_pool: the stem is a 7 × 7 with stride 2 and a 3 × 3 max pool with stride 2, so that all that follows costs
            a sixteenth; without it a 3 × 3 with stride 1, for images of less than about 64 pixels.
        block: ``"basic"`` (two 3 × 3), ``"bottleneck"`` (1 × 1, 3 × 3, 1 × 1) or ``"conv1xn"`` (two pairs of 1 × N and
            N × 1).
        kernel: side N of the blocks' kernels, odd; default 3, with ``conv1xn`` 7.
        act: a name of ``ACTIVATIONS``.
        pre_activation, zero_init, shortcut, bn_momentum, bn_eps: as in ``ResidualBlock``.
        drop_path: probability that a sample skips the last block, growing linearly from 0 at the first.

    Raises:
        ValueError: lists of different lengths, or a value that none of them can have.

    Example:
        >>> net = StagePlan(depth=(1, 1), width=(8, 16), stride=(1, 2), early_pool=False).build(num_classes=10)
        >>> sum(p.numel() for p in net.parameters())
        5266
    """

    depth: tuple[int, ...] = (2, 2, 2, 2)
    width: tuple[int, ...] = (32, 64, 128, 256)
    stride: tuple[int, ...] | None = None
    dilation: tuple[int, ...] | None = None
    early_pool: bool = True
    block: str = "basic"
    kernel: int | None = None
    act: str = "relu"
    pre_activation: bool = False
    zero_init: bool = True
    drop_path: float = 0.0
    shortcut: str = "projection"
    bn_momentum: float = 0.1
    bn_eps: float = 1e-5

    def __post_init__(self) -> None:
        stages = len(self.depth)
        if not stages:
            raise ValueError("depth=(): at least one stage is needed")
        if self.block not in _BLOCKS:
            raise ValueError(f"block={self.block!r}: choose one of {', '.join(_BLOCKS)}")
        for name in ("depth", "width", "stride", "dilation"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != stages:
                raise ValueError(f"{name}={list(values)}: one number for each of the {stages} stages is needed")
            if min(values) < 1:
                raise ValueError(f"{name}={list(values)}: at least 1 each")

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each stage: by default 1, and 2 from the second on, but 1 where there is a dilation."""
        if self.stride is not None:
            return self.stride
        return tuple(2 if stage and dilation == 1 else 1 for stage, dilation in enumerate(self.dilations))

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of each stage."""
        return (1,) * len(self.depth) if self.dilation is None else self.dilation

    @property
    def total_stride(self) -> int:
        """Pixels from one place of the last map to the next."""
        stride = 4 if self.early_pool else 1
        for step in self.strides:
            stride *= step
        return stride

    def build(self, num_classes: int) -> StagedNet:
        """The network."""
        return StagedNet(**asdict(self), num_outputs=num_classes)


class StagedNet(nn.Module):
    """A residual network in stages: stem, blocks with batch norm, mean over places, linear layer.

    It is a part for ``ClassificationTask`` and its recipe, so that depth, width and pooling can be tried from the
    command line: ``--model.model dlrecipes.nn.StagedNet --model.model.depth [1,1,1,1] --model.model.early_pool false``.
    ``dlrecipes describe`` says what a choice costs and what it sees. Weights start as Kaiming normal (He et al., 2015,
    arXiv:1502.01852), as Glorot normal where the activation is tanh or sigmoid.

    Args:
        depth, width, stride, dilation, early_pool, block, kernel, act, pre_activation, zero_init, drop_path, shortcut,
            bn_momentum, bn_eps: as in ``StagePlan``.
        num_outputs: width of the last layer; ``bind`` sets it to what the data wants.

    Raises:
        ValueError: as ``StagePlan`` says; fewer than 1 output.

    Example:
        >>> import torch
        >>> tuple(StagedNet(depth=(1, 1), width=(8, 16), num_outputs=10)(torch.zeros(2, 3, 64, 64)).shape)
        (2, 10)
    """

    compile_pays = True

    def __init__(
        self,
        depth: Sequence[int] = (2, 2, 2, 2),
        width: Sequence[int] = (32, 64, 128, 256),
        *,
        stride: Sequence[int] | None = None,
        dilation: Sequence[int] | None = None,
        early_pool: bool = True,
        block: str = "basic",
        kernel: int | None = None,
        act: str = "relu",
        pre_activation: bool = False,
        zero_init: bool = True,
        drop_path: float = 0.0,
        shortcut: str = "projection",
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-5,
        num_outputs: int = 1000,
    ) -> None:
        given: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__", "num_outputs")}
        super().__init__()
        lists = ("depth", "width", "stride", "dilation")
        given |= {name: tuple(given[name]) for name in lists if given[name] is not None}
        if num_outputs < 1:
            raise ValueError(f"num_outputs={num_outputs}: at least 1")
        self.plan = StagePlan(**given)
        self.init_args = {**given, "num_outputs": num_outputs}
        self.stem = _stem(self.plan)
        self.stages = _stages(self.plan)
        last: list[nn.Module] = []
        if pre_activation:
            last = [nn.BatchNorm2d(width[-1], eps=bn_eps, momentum=bn_momentum), activation(act)]
        self.last = nn.Sequential(*last)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = _head(width[-1], num_outputs)
        _start(self, act)

    @property
    def num_outputs(self) -> int:
        """Width of the last layer."""
        return int(self.init_args["num_outputs"])

    def classifiers(self) -> dict[str, nn.Module]:
        """Every layer whose rows are outputs, by parameter prefix."""
        return {"head": self.head}

    def bind(self, info: DataInfo) -> None:
        """Give the head as many outputs as the data wants; the other weights stay.

        Raises:
            UserError: data without outputs.
        """
        if info.num_outputs < 1:
            raise UserError("StagedNet needs classes or target names, and the data has none")
        if info.num_outputs != self.num_outputs:
            self.init_args["num_outputs"] = info.num_outputs
            self.head = _head(self.head.in_features, info.num_outputs).to(self.head.weight)

    def features(self, images: Tensor) -> Tensor:
        """What the classifier sees: float [B, 3, H, W], normalised → [B, width of the last stage]."""
        out: Tensor = self.pool(self.last(self.stages(self.stem(images))))
        return out.flatten(1)

    def classify(self, features: Tensor) -> Tensor:
        """The last layer: [B, width of the last stage] → [B, num_outputs]."""
        out: Tensor = self.head(features)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """float [B, 3, H, W], normalised → [B, num_outputs]."""
        return self.classify(self.features(images))


def _stem(plan: StagePlan) -> nn.Sequential:
    channels = plan.width[0] // _EXPANSION if plan.block == "bottleneck" else plan.width[0]
    kernel, stride = (7, 2) if plan.early_pool else (3, 1)
    act = "none" if plan.pre_activation else plan.act  # the first block begins with its own
    conv = ConvBNAct(3, channels, kernel, stride=stride, act=act, bn_momentum=plan.bn_momentum, bn_eps=plan.bn_eps)
    stem = nn.Sequential(conv)
    if plan.early_pool:
        stem.append(nn.MaxPool2d(3, 2, 1))
    return stem


def _stages(plan: StagePlan) -> nn.Sequential:
    """Stages of blocks; the first block of a stage changes the width and the map's size."""
    kernel = plan.kernel if plan.kernel is not None else 7 if plan.block == "conv1xn" else 3
    shared: dict[str, Any] = {
        name: getattr(plan, name)
        for name in ("act", "pre_activation", "zero_init", "shortcut", "bn_momentum", "bn_eps")
    }
    channels = plan.width[0] // _EXPANSION if plan.block == "bottleneck" else plan.width[0]
    done, total = 0, sum(plan.depth)
    stages = nn.Sequential()
    for depth, width, stride, dilation in zip(plan.depth, plan.width, plan.strides, plan.dilations, strict=True):
        stage = nn.Sequential()
        for index in range(depth):
            args = shared | {
                "stride": stride if index == 0 else 1,
                "dilation": dilation,
                "kernel": kernel,
                "conv1xn": plan.block == "conv1xn",
                "drop_path": plan.drop_path * done / max(1, total - 1),
            }
            kind = Bottleneck if plan.block == "bottleneck" else ResidualBlock
            stage.append(kind(channels, width, **args))
            channels, done = width, done + 1
        stages.append(stage)
    return stages


def _head(features: int, outputs: int) -> nn.Linear:
    head = nn.Linear(features, outputs)
    nn.init.normal_(head.weight, std=_HEAD_STD)
    nn.init.zeros_(head.bias)
    return head


def _start(net: StagedNet, act: str) -> None:
    """Kernels by the activation."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            if act in ("tanh", "sigmoid"):
                nn.init.xavier_normal_(module.weight)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if net.plan.zero_init:
        for module in net.modules():
            if isinstance(module, Bottleneck | ResidualBlock):
                module.zero_branch()
