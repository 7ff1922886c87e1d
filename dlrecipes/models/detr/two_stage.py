"""Two-stage queries: the encoder proposes the boxes that the decoder starts from.

Deformable DETR (Zhu et al., 2021, arXiv:2010.04159, section 4.2) lets every feature cell predict a class and a box and
hands the best cells to the decoder. The dense loss on the cells is what makes little data enough.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dlrecipes.functional.boxes import inverse_sigmoid
from dlrecipes.models.detr.position import CellGrid
from dlrecipes.models.detr.queries import StartingQueries, init_classifier
from dlrecipes.models.detr.query_sets import QuerySets
from dlrecipes.models.detr.transformer import MLP

__all__ = ["ProposalHead", "Proposals", "TwoStageQueries", "foreground_score"]


def foreground_score(logits: Tensor, *, sigmoid: bool) -> Tensor:
    """Probability of the best class [..., C'] → [...]; a softmax head's last entry is "no object"."""
    scores = logits.sigmoid() if sigmoid else logits.softmax(-1)[..., :-1]
    return scores.amax(-1)


class Proposals(NamedTuple):
    """``logits`` [B, N, C'] and ``boxes`` [B, N, 4] of every cell; ``query`` [B, Q, D] and ``reference`` [B, Q, 4] of
    the chosen ones, best first. Boxes are (cx, cy, w, h) relative to the unpadded image."""

    logits: Tensor
    boxes: Tensor
    query: Tensor
    reference: Tensor


class ProposalHead(nn.Module):
    """Let each feature cell predict a class and a box, and choose the most object-like cells.

    Args:
        dim: feature size D.
        class_outputs: C', classes, plus one for a softmax head.
        sigmoid: kind of class head.
        anchor_cells: side of each cell's initial box in cells.
    """

    def __init__(self, dim: int, class_outputs: int, *, sigmoid: bool, anchor_cells: float = 3.0) -> None:
        super().__init__()
        self.sigmoid = sigmoid
        self.anchor_cells = anchor_cells
        self.project = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.class_embed = nn.Linear(dim, class_outputs)
        self.bbox_embed = MLP(dim, dim, dim, 4)
        self.to_query = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        init_classifier(self.class_embed, sigmoid=sigmoid)
        self.bbox_embed.zero_last()  # each cell starts from its own anchor

    def forward(self, memory: Tensor, grid: CellGrid, count: int) -> Proposals:
        """``memory`` [B, H · W, D] of the cells of ``grid``; ``count`` cells are chosen, all where there are fewer."""
        cells = self.project(memory)
        logits = self.class_embed(cells)
        boxes = (self.bbox_embed(cells) + inverse_sigmoid(grid.anchors(self.anchor_cells))).float().sigmoid()
        score = foreground_score(logits.detach().float(), sigmoid=self.sigmoid)
        if grid.padding is not None:
            score = score.masked_fill(grid.padding.flatten(1), -1.0)
        best = score.topk(min(count, cells.shape[1]), dim=1).indices[..., None]
        reference = boxes.detach().gather(1, best.expand(-1, -1, 4))
        query = self.to_query(cells.gather(1, best.expand(-1, -1, cells.shape[-1])))
        if grid.padding is not None:
            logits = _silence(logits, grid.padding.flatten(1), self.sigmoid)
        return Proposals(logits, boxes, query, reference)


class TwoStageQueries(nn.Module):
    """Start from the cells that the encoder proposes.

    Each further group has a proposal head of its own, as in Group DETR's two-stage models: the groups then start from
    other cells and boxes. Sharing the best cells would give all groups the same start, and dealing out the cells of one
    head would give the main queries worse ones in training than at inference. Hybrid queries are the next best cells of
    the main head, as in H-DETR.

    Args:
        dim: feature size D.
        num_queries: Q.
        class_outputs: C', classes, plus one for a softmax head.
        sigmoid: kind of class head.
        groups: further groups of Q, in training only.
        hybrid: further queries, in training only.
    """

    def __init__(
        self, dim: int, num_queries: int, class_outputs: int, *, sigmoid: bool, groups: int = 0, hybrid: int = 0
    ) -> None:
        super().__init__()
        self.num_queries, self.groups, self.hybrid = num_queries, groups, hybrid
        self.head = ProposalHead(dim, class_outputs, sigmoid=sigmoid)
        self.group_heads = nn.ModuleList(ProposalHead(dim, class_outputs, sigmoid=sigmoid) for _ in range(groups))

    def forward(self, memory: Tensor, grid: CellGrid) -> StartingQueries:
        """``memory`` [B, H · W, D] of the cells of ``grid``.

        Where there are fewer cells than queries, every cell becomes one, and hybrid queries may be main ones, too.
        Outputs: ``proposal_logits`` [B, N, C'] and ``proposal_boxes`` [B, N, 4] of all N cells, background without
        gradient in the padding; with groups also ``group_proposal_`` [groups, B, N, ...].
        """
        groups, hybrid = (self.groups, self.hybrid) if self.training else (0, 0)
        found = self.head(memory, grid, self.num_queries + hybrid)
        cells = found.query.shape[1]
        main, hybrid = min(self.num_queries, cells), min(hybrid, cells)
        queries, boxes = [found.query[:, :main]], [found.reference[:, :main]]
        outputs = {"proposal_logits": found.logits, "proposal_boxes": found.boxes}
        if groups:
            others = [head(memory, grid, self.num_queries) for head in self.group_heads]
            queries += [other.query for other in others]
            boxes += [other.reference for other in others]
            outputs["group_proposal_logits"] = torch.stack([other.logits for other in others])
            outputs["group_proposal_boxes"] = torch.stack([other.boxes for other in others])
        if hybrid:
            queries.append(found.query[:, cells - hybrid :])
            boxes.append(found.reference[:, cells - hybrid :])
        sets = QuerySets(main, groups, hybrid)
        return StartingQueries(torch.cat(queries, dim=1), torch.cat(boxes, dim=1), sets, outputs)


def _silence(logits: Tensor, padding: Tensor, sigmoid: bool) -> Tensor:
    """Cells of padding are no proposals: surely background, with no gradient."""
    background = torch.full_like(logits, -20.0)
    if not sigmoid:
        background[..., -1] = 20.0
    return torch.where(padding[..., None], background, logits)
