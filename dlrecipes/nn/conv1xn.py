"""1 × N and N × 1 instead of N × N."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from dlrecipes.nn.activations import activation

__all__ = ["Conv1xN", "KernelCost", "compare_kernels"]


class Conv1xN(nn.Sequential):
    """A 1 × N convolution and an N × 1 one: the field of N × N for 2N weights a pair of channels instead of N²
    (Szegedy et al., 2016, arXiv:1512.00567, section 3.2).

    It is less than the square where N > 2: without an activation between, each pair of channels sees a kernel of a rank
    of at most ``mid_channels``. Szegedy et al. found it to work on maps of 12 to 20 cells, and not in the first layers.
    It stands where ``nn.Conv2d(..., padding="same", bias=False)`` would: batch norm and activation come after it.

    Args:
        in_channels, out_channels: of the pair.
        n: N, odd, so that the map keeps its size.
        mid_channels: between the two; default ``out_channels``.
        stride, dilation: in both directions: along the row in the first, down the column in the second.
        groups: of both.
        between: a name of ``ACTIVATIONS``, put behind a batch norm between the two; ``"none"``: neither.
        bn_momentum, bn_eps: of that batch norm.

    Raises:
        ValueError: an even ``n``, or a value that a convolution cannot have.

    Example:
        >>> import torch
        >>> conv = Conv1xN(16, 16, 7)
        >>> tuple(conv(torch.zeros(1, 16, 20, 20)).shape), sum(p.numel() for p in conv.parameters()) // 16**2
        ((1, 16, 20, 20), 14)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n: int = 7,
        *,
        mid_channels: int | None = None,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        between: str = "none",
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.init_args: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if n < 1 or n % 2 == 0:
            raise ValueError(f"n={n}: an odd number is needed")
        mid = out_channels if mid_channels is None else mid_channels
        pad = dilation * (n - 1) // 2
        self.row = nn.Conv2d(in_channels, mid, (1, n), (1, stride), (0, pad), (1, dilation), groups, bias=False)
        if between != "none":
            self.bn = nn.BatchNorm2d(mid, eps=bn_eps, momentum=bn_momentum)
            self.act = activation(between)
        self.column = nn.Conv2d(mid, out_channels, (n, 1), (stride, 1), (pad, 0), (dilation, 1), groups, bias=False)


class KernelCost(NamedTuple):
    """What one way to see N × N places costs.

    Attributes:
        name: ``"7x7"``, ``"1x7 + 7x1"``, ``"3 of 3x3"``.
        layers: convolutions one behind the other.
        weights: of all of them.
        field: side of the receptive field.
    """

    name: str
    layers: int
    weights: int
    field: int


def compare_kernels(in_channels: int, out_channels: int, n: int) -> list[KernelCost]:
    """Three ways to a receptive field of N × N: the square, the pair, and (N − 1) / 2 squares of 3 × 3.

    Args:
        in_channels, out_channels: c and k of the whole; between the layers there are k.
        n: N, odd and at least 3.

    Returns:
        N² c k, N (c + k) k and 9 (c + (N − 3) / 2 · k) k weights.

    Raises:
        ValueError: an even ``n``, or one below 3.

    Example:
        >>> [(cost.name, cost.weights) for cost in compare_kernels(1, 1, 7)]
        [('7x7', 49), ('1x7 + 7x1', 14), ('3 of 3x3', 27)]
    """
    if n < 3 or n % 2 == 0:
        raise ValueError(f"n={n}: an odd number of at least 3 is needed")
    small = (n - 1) // 2
    pair = n * (in_channels + out_channels) * out_channels
    stack = 9 * (in_channels + (small - 1) * out_channels) * out_channels
    return [
        KernelCost(f"{n}x{n}", 1, n * n * in_channels * out_channels, n),
        KernelCost(f"1x{n} + {n}x1", 2, pair, n),
        KernelCost(f"{small} of 3x3", small, stack, n),
    ]
