"""Sine position embeddings of feature cells and of boxes (section A.4 of the DETR paper; DAB-DETR, eq. 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["grid_positions", "sine_embedding", "sine_position_embedding"]


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


def grid_positions(height: int, width: int, mask: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each cell as a share of the unpadded image: 1 at its last row and column.

    Args:
        height, width: of the feature map.
        mask: bool [B, height, width], True = padding, or None.
        device: of the result.

    Returns:
        y and x, float32 [B or 1, height, width].
    """
    if mask is None:
        y = torch.arange(1, height + 1, device=device, dtype=torch.float32) / (height + 1e-6)
        x = torch.arange(1, width + 1, device=device, dtype=torch.float32) / (width + 1e-6)
        return y[None, :, None].expand(1, height, width), x[None, None, :].expand(1, height, width)
    inside = ~mask
    y, x = inside.cumsum(1, dtype=torch.float32), inside.cumsum(2, dtype=torch.float32)
    return y / (y[:, -1:, :] + 1e-6), x / (x[:, :, -1:] + 1e-6)


def sine_position_embedding(
    height: int, width: int, mask: Tensor | None, dim: int, *, device: torch.device, temperature: float = 10000.0
) -> Tensor:
    """The encoder's position embedding: ``dim / 2`` features for y, then as many for x.

    Returns:
        float32 [B or 1, height · width, dim].
    """
    y, x = grid_positions(height, width, mask, device)
    half = dim // 2
    return torch.cat((sine_embedding(y, half, temperature), sine_embedding(x, half, temperature)), dim=-1).flatten(1, 2)
