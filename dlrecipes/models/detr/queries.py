"""Two-stage queries: the encoder proposes the boxes that the decoder starts from.

Deformable DETR (Zhu et al., 2021, arXiv:2010.04159, section 4.2) lets every feature cell predict a class and a box and
hands the best cells to the decoder. The dense loss on the cells is what makes little data enough.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dlrecipes.functional.boxes import inverse_sigmoid
from dlrecipes.models.detr.position import grid_positions
from dlrecipes.models.detr.transformer import MLP

__all__ = ["Proposals", "TwoStageQueries", "foreground_score", "init_classifier"]


class Proposals(NamedTuple):
    """Keys: ``logits`` [B, N, C'] and ``boxes`` [B, N, 4] of every cell; ``query`` [B, Q, D] and ``reference``
    [B, Q, 4] of the chosen ones. Boxes are (cx, cy, w, h) relative to the unpadded image."""

    logits: Tensor
    boxes: Tensor
    query: Tensor
    reference: Tensor


def foreground_score(logits: Tensor, *, sigmoid: bool) -> Tensor:
    """Probability of the best class [..., C'] → [...]; a softmax head's last entry is "no object"."""
    scores = logits.sigmoid() if sigmoid else logits.softmax(-1)[..., :-1]
    return scores.amax(-1)


def init_classifier(layer: nn.Linear, *, sigmoid: bool, prior: float = 0.01) -> None:
    """Start a sigmoid classifier at probability ``prior``, so that the many negatives do not drown the first steps
    (RetinaNet, Lin et al., 2017, arXiv:1708.02002, section 4.1: bias −log((1 − .01) / .01) = −4.595)."""
    if sigmoid:
        nn.init.constant_(layer.bias, -torch.tensor((1 - prior) / prior).log().item())


class TwoStageQueries(nn.Module):
    """Choose the ``num_queries`` most object-like feature cells.

    Args:
        dim: feature size D.
        num_queries: Q.
        class_outputs: C', classes, plus one for a softmax head.
        sigmoid: kind of class head.
        anchor_cells: side of each cell's initial box in cells.
    """

    def __init__(
        self, dim: int, num_queries: int, class_outputs: int, *, sigmoid: bool, anchor_cells: float = 3.0
    ) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.sigmoid = sigmoid
        self.anchor_cells = anchor_cells
        self.project = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.class_embed = nn.Linear(dim, class_outputs)
        self.bbox_embed = MLP(dim, dim, dim, 4)
        self.to_query = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        init_classifier(self.class_embed, sigmoid=sigmoid)
        self.bbox_embed.zero_last()  # each cell starts from its own anchor

    def _anchors(self, height: int, width: int, mask: Tensor | None, device: torch.device) -> Tensor:
        y, x = grid_positions(height, width, mask, device)  # at a cell's far edge
        step_y, step_x = y[:, :1, :1], x[:, :1, :1]
        sides = (self.anchor_cells * step_x).expand_as(x), (self.anchor_cells * step_y).expand_as(y)
        return torch.stack((x - step_x / 2, y - step_y / 2, *sides), dim=-1).flatten(1, 2)

    def forward(self, memory: Tensor, height: int, width: int, mask: Tensor | None) -> Proposals:
        """memory: [B, height · width, D]; mask: bool [B, height, width], True = padding, or None.

        Where there are fewer cells than queries, every cell becomes one.
        """
        cells = self.project(memory)
        logits = self.class_embed(cells)
        anchors = self._anchors(height, width, mask, memory.device)
        boxes = (self.bbox_embed(cells) + inverse_sigmoid(anchors)).float().sigmoid()
        score = foreground_score(logits.detach().float(), sigmoid=self.sigmoid)
        if mask is not None:
            score = score.masked_fill(mask.flatten(1), -1.0)
        chosen = score.topk(min(self.num_queries, height * width), dim=1).indices[..., None]
        reference = boxes.detach().gather(1, chosen.expand(-1, -1, 4))
        query = self.to_query(cells.gather(1, chosen.expand(-1, -1, cells.shape[-1])))
        return Proposals(logits, boxes, query, reference)
