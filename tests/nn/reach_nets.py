"""Small networks that hold every way for pixels to come together."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlrecipes.nn import Bottleneck, Conv1xN, ResidualBlock


def conv(cin: int, cout: int, k: int | tuple[int, int], **args) -> nn.Conv2d:  # type: ignore[no-untyped-def]
    return nn.Conv2d(cin, cout, k, **args)


class Branches(nn.Module):
    """As in Inception: four ways of different reach, joined channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 4, 3, stride=2)
        self.a = conv(4, 2, 1)
        self.b = nn.Sequential(conv(4, 2, 1), conv(2, 2, (1, 5), padding=(0, 2)), conv(2, 2, (5, 1), padding=(2, 0)))
        self.c = conv(4, 2, 3, padding=3, dilation=3)
        self.d = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        return torch.cat([self.a(x), self.b(x), self.c(x), self.d(x)], 1)


class Hourglass(nn.Module):
    """Down and up again by transposed convolutions with a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = conv(3, 4, 3, stride=2, padding=1), conv(4, 4, 3, stride=2, padding=1)
        self.up1 = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1)
        self.up2 = nn.ConvTranspose2d(4, 2, 2, stride=3, dilation=2)  # leaves gaps that see nothing

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        return self.up2(self.up1(self.down2(first)) + first)


class Pyramid(nn.Module):
    """Maps of several strides, resized and added."""

    def __init__(self, mode: str, align: bool | None) -> None:
        super().__init__()
        self.mode, self.align = mode, align
        self.a, self.b = conv(3, 2, 3, stride=2, padding=1), conv(2, 2, 3, stride=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.a(x)
        coarse = self.b(fine)
        return fine + F.interpolate(coarse, size=fine.shape[-2:], mode=self.mode, align_corners=self.align)


class Shuffle(nn.Module):
    """Half of the channels go on, half are convolved one by one, then both are shuffled: ShuffleNet's unit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, 1)
        self.convs = nn.ModuleList(conv(4, 4, 3, padding=1, groups=4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.convs:
            left, right = x.chunk(2, 1)
            x = torch.cat([left, layer(right)], 1)
            x = x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        return x


class Grouped(nn.Module):
    """Groups keep what they have seen apart: a wide and a narrow one."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = conv(3, 2, 5, padding=2), conv(3, 2, 1)
        self.both = conv(4, 6, 3, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(torch.cat([self.narrow(x), self.wide(x)], 1))


class Rearranged(nn.Module):
    """Padding that mirrors and repeats, rolled and flipped maps, pixels turned into channels and back."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4, 3), conv(16, 8, 3, padding=1, padding_mode="replicate")

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(F.pad(x, (1, 1, 1, 1), mode="reflect"))
        x = F.pixel_unshuffle(x[:, :, 1:-1, 2:], 2)
        x = self.b(torch.roll(x, (1, -2), (2, 3)).flip(3))
        return F.pixel_shuffle(F.pad(x, (2, -1, 0, 1)), 2)


class Written(nn.Module):
    """Parts of a map are written to in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4, 3, padding=1), conv(2, 2, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        out = torch.zeros_like(x)
        out[:, :2] = x[:, :2]
        out[:, 2:, ::2] = self.b(x[:, 2:])[:, :, ::2]
        out[:, 1:3].add_(x[:, 2:])
        return out


class Windows(nn.Module):
    """Attention within windows of 4 x 4, after a convolution; channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.qkv, self.out = conv(3, 4, 3, stride=2, padding=1), nn.Linear(4, 12), nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        parts = x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(parts).chunk(3, -1)
        parts = self.out(F.scaled_dot_product_attention(q, k, v)) + parts
        back = parts.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return back.permute(0, 3, 1, 2)


class Columns(nn.Module):
    """Windows as columns and back again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 2, 1), nn.Conv1d(18, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = [(side + 2 - 5) // 2 + 2 for side in x.shape[-2:]]  # overlapping: one more than the number of windows
        columns = F.unfold(self.a(x), 3, dilation=2, padding=1, stride=2)
        return F.fold(self.b(columns), size, 2)


def _pools() -> nn.Module:
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)),
        conv(3, 4, 2, padding=1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AdaptiveAvgPool2d((3, 2)),
    )


def _plain() -> nn.Module:
    return nn.Sequential(conv(3, 4, 7, stride=2, padding=3), nn.ReLU(), conv(4, 2, (3, 2), stride=(2, 1)))


def _dilated() -> nn.Module:
    return nn.Sequential(conv(3, 4, 3, dilation=2), nn.BatchNorm2d(4), conv(4, 2, (1, 3), dilation=(1, 4)))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "plain": (_plain, (21, 23)),
    "dilated": (_dilated, (19, 21)),
    "branches": (Branches, (21, 18)),
    "1xn": (lambda: nn.Sequential(Conv1xN(3, 4, 5, stride=2, between="relu"), Conv1xN(4, 2, 3, dilation=2)), (20, 22)),
    "residual": (
        lambda: nn.Sequential(ResidualBlock(3, 4, stride=2), Bottleneck(4, 8, stride=2, dilation=2)),
        (22, 19),
    ),
    "padded": (lambda: ResidualBlock(3, 4, stride=3, shortcut="pad", pre_activation=True, conv1xn=True), (19, 22)),
    "hourglass": (Hourglass, (16, 12)),
    "nearest": (lambda: Pyramid("nearest", None), (21, 14)),
    "bilinear": (lambda: Pyramid("bilinear", False), (21, 14)),
    "aligned": (lambda: Pyramid("bilinear", True), (21, 14)),
    "bicubic": (lambda: Pyramid("bicubic", False), (24, 15)),
    "shuffle": (Shuffle, (9, 7)),
    "grouped": (Grouped, (9, 7)),
    "rearranged": (Rearranged, (14, 12)),
    "written": (Written, (12, 9)),
    "windows": (Windows, (16, 24)),
    "columns": (Columns, (12, 10)),
    "pools": (_pools, (23, 20)),
}
"""Name -> the network, and height and width of an image for it."""
