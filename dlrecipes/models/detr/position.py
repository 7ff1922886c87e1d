"""Where feature cells are, and sine position embeddings of cells and of boxes (section A.4 of the DETR paper; DAB-DETR,
eq. 4)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["CellGrid", "cell_grid", "sine_embedding", "sine_position_embedding"]


class CellGrid(NamedTuple):
    """Far edge of each cell as a share of the unpadded image: 1 at its last row and column.

    Attributes:
        y, x: float32 [B or 1, H, W]; what they say of the padding means nothing.
        padding: bool [B, H, W], True = padding, or None.

    Example:
        >>> cell_grid(1, 2, None, torch.device("cpu")).centres()[1]
        tensor([[0.2500, 0.7500]])
    """

    y: Tensor
    x: Tensor
    padding: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.y.shape[1], self.y.shape[2]

    def centres(self) -> tuple[Tensor, Tensor]:
        """The middle of each row [B or 1, H] and of each column [B or 1, W]."""
        y, x = self.y[:, :, 0], self.x[:, 0, :]
        return y - y[:, :1] / 2, x - x[:, :1] / 2

    def anchors(self, cells: float) -> Tensor:
        """A box round the middle of each cell, ``cells`` times as large: (cx, cy, w, h) [B or 1, H · W, 4]."""
        step_y, step_x = self.y[:, :1, :1], self.x[:, :1, :1]
        sides = (cells * step_x).expand_as(self.x), (cells * step_y).expand_as(self.y)
        return torch.stack((self.x - step_x / 2, self.y - step_y / 2, *sides), dim=-1).flatten(1, 2)


def cell_grid(height: int, width: int, mask: Tensor | None, device: torch.device) -> CellGrid:
    """The cells of a feature map.

    Args:
        height, width: of the feature map.
        mask: bool [B, height, width], True = padding, or None.
        device: of the result.
    """
    if mask is None:
        y = torch.arange(1, height + 1, device=device, dtype=torch.float32) / (height + 1e-6)
        x = torch.arange(1, width + 1, device=device, dtype=torch.float32) / (width + 1e-6)
        return CellGrid(y[None, :, None].expand(1, height, width), x[None, None, :].expand(1, height, width), None)
    inside = ~mask
    y, x = inside.cumsum(1, dtype=torch.float32), inside.cumsum(2, dtype=torch.float32)
    return CellGrid(y / (y[:, -1:, :] + 1e-6), x / (x[:, :, -1:] + 1e-6), mask)


def sine_embedding(values: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """sin and cos of ``values · 2π / temperature^(2⌊i/2⌋/dim)``, interleaved.

    Args:
        values: [...], in 0..1.
        dim: even number of features.
        temperature: longest wave length over the shortest.

    Returns:
        [..., dim] in the dtype of ``values``.
    """
    steps = torch.arange(dim, device=values.device, dtype=values.dtype)
    frequency = temperature ** (2 * torch.div(steps, 2, rounding_mode="floor") / dim)
    angles = (values * (2 * math.pi))[..., None] / frequency
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-2)


def sine_position_embedding(grid: CellGrid, dim: int, temperature: float = 10000.0) -> Tensor:
    """The encoder's position embedding: ``dim / 2`` features for y, then as many for x.

    Returns:
        float32 [B or 1, H · W, dim].
    """
    half = dim // 2
    axes = (sine_embedding(values, half, temperature) for values in (grid.y, grid.x))
    return torch.cat(tuple(axes), dim=-1).flatten(1, 2)
