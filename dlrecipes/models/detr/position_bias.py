"""Attention that knows where a query's box is: a learned bias of each cell, by its distances from the box's edges."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlrecipes.functional.boxes import cxcywh_to_xyxy
from dlrecipes.models.detr.position import CellGrid

__all__ = ["BoxPositionBias"]

_UNITS = 8.0  # distances are in eighths of the image, so that those within an object are of the order of 1


class BoxPositionBias(nn.Module):
    r"""Plain-DETR's box-to-pixel bias of the cross-attention (Lin et al., 2023, arXiv:2308.01904, section 4.1).

    .. math:: b_{q,(x,y)} = f(x_1^q - x,\; x_2^q - x) + g(y_1^q - y,\; y_2^q - y)

    for the corners of query q's box and the centre of each cell, with f and g of one hidden layer and an output for
    each head. Both start at 0, so that adding the bias to a trained model changes nothing at first. A shift of all
    cells would cancel in the softmax: the last layers have no constant.

    Args:
        heads: of the attention.
        hidden: width of f and g; twice that of the queries in the paper.

    Example:
        >>> grid = CellGrid(torch.ones(1, 1, 2), torch.tensor([[[0.5, 1.0]]]), None)
        >>> BoxPositionBias(heads=2)(torch.full((1, 3, 4), 0.5), grid).shape
        torch.Size([2, 3, 2])
    """

    def __init__(self, heads: int, hidden: int = 512) -> None:
        super().__init__()
        self.across, self.down = self._net(heads, hidden), self._net(heads, hidden)

    @staticmethod
    def _net(heads: int, hidden: int) -> nn.Module:
        last = nn.Linear(hidden, heads, bias=False)
        nn.init.zeros_(last.weight)
        return nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), last)

    def forward(self, boxes: Tensor, grid: CellGrid) -> Tensor:
        """What is added to the attention's logits.

        Args:
            boxes: [B, Q, 4], (cx, cy, w, h) relative to the unpadded image.
            grid: H by W cells.

        Returns:
            [B · heads, Q, H · W], −∞ in the padding: an ``attn_mask`` of ``nn.MultiheadAttention``.
        """
        y, x = grid.centres()
        left, top, right, bottom = cxcywh_to_xyxy(boxes).unbind(-1)
        across = self._distances(left, right, x, self.across)
        down = self._distances(top, bottom, y, self.down)
        bias = (down[..., :, None] + across[..., None, :]).flatten(-2)  # [B, heads, Q, H · W]
        if grid.padding is not None:
            bias = bias.masked_fill(grid.padding.flatten(1)[:, None, None], -torch.inf)
        return bias.flatten(0, 1)

    @staticmethod
    def _distances(low: Tensor, high: Tensor, cells: Tensor, net: nn.Module) -> Tensor:
        """low, high: [B, Q]; cells: [B or 1, S]. Returns [B, heads, Q, S]."""
        edges = torch.stack((low, high), dim=-1)[:, :, None]
        distance = (edges - cells[:, None, :, None]) * _UNITS
        out: Tensor = net(distance.to(next(net.parameters()).dtype))
        return out.permute(0, 3, 1, 2)
