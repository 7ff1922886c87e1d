"""A decoder whose queries are boxes: each layer looks where its box is and then moves it.

Refinement layer by layer is Deformable DETR's (arXiv:2010.04159, section 4.1); a box's sine embedding as query position
is DAB-DETR's (Liu et al., 2022, arXiv:2201.12329); features sampled inside the box instead of attention over the whole
image follow DE-DETR (Wang et al., 2022, arXiv:2203.09507), whose point is that this is what a DETR lacks on small data.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlrecipes.functional.boxes import inverse_sigmoid
from dlrecipes.models.detr.position import sine_embedding
from dlrecipes.models.detr.queries import init_classifier
from dlrecipes.models.detr.transformer import MLP, ResidualLayer

__all__ = ["BoxDecoder", "GlobalAttention", "InBoxSampling", "Scene"]


class Scene(NamedTuple):
    """What a decoder layer can look at.

    Attributes:
        features: [B, C, h, w], the map sampled inside boxes.
        scale: [B, 1, 1, 2], unpadded over padded (width, height); None = no padding.
        memory: [B, N, D], the encoder's output.
        position: [B or 1, N, D], its position embedding.
        padding: bool [B, N], True = padding, or None.
    """

    features: Tensor
    scale: Tensor | None
    memory: Tensor
    position: Tensor
    padding: Tensor | None


class InBoxSampling(nn.Module):
    """Bilinear samples of a feature map on a grid inside each query's box, joined by one linear layer.

    Args:
        dim: query size D.
        channels: of the sampled map.
        grid: points along each side.
        margin: side of the sampled window over side of the box; above 1 the box's surroundings are seen as well.
    """

    points: Tensor

    def __init__(self, dim: int, channels: int, *, grid: int = 5, margin: float = 1.0) -> None:
        super().__init__()
        line = ((torch.arange(grid) + 0.5) / grid - 0.5) * margin
        points = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).flatten(0, 1)
        self.register_buffer("points", points, persistent=False)
        self.join = nn.Linear(channels * grid * grid, dim)

    def forward(self, query: Tensor, query_position: Tensor, boxes: Tensor, scene: Scene) -> Tensor:
        """boxes: [B, Q, 4], (cx, cy, w, h) relative to the unpadded image. Returns [B, Q, D]."""
        at = boxes[:, :, None, :2] + self.points * boxes[:, :, None, 2:]
        if scene.scale is not None:
            at = at * scene.scale
        sampled = F.grid_sample(scene.features, (at * 2 - 1).to(scene.features.dtype), align_corners=False)
        out: Tensor = self.join(sampled.permute(0, 2, 3, 1).flatten(2))
        return out


class GlobalAttention(nn.Module):
    """DETR's own cross-attention over all cells, for comparison with sampling in the box."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)

    def forward(self, query: Tensor, query_position: Tensor, boxes: Tensor, scene: Scene) -> Tensor:
        """query, query_position: [B, Q, D]. Returns [B, Q, D]."""
        out: Tensor = self.attention(
            query + query_position,
            scene.memory + scene.position,
            scene.memory,
            key_padding_mask=scene.padding,
            need_weights=False,
        )[0]
        return out


class BoxDecoderLayer(ResidualLayer):
    """Self-attention among queries, a look at the image, a feed-forward network; then a class and a moved box."""

    def __init__(
        self, dim: int, heads: int, feedforward: int, dropout: float, pre_norm: bool, look: nn.Module, classes: int
    ) -> None:
        super().__init__(dim, heads, feedforward, dropout, pre_norm)
        self.look = look
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.out_norm = nn.LayerNorm(dim)
        self.class_embed = nn.Linear(dim, classes)
        self.bbox_embed = MLP(dim, dim, dim, 4)
        self.bbox_embed.zero_last()  # each layer starts as the identity on its box

    def forward(
        self, query: Tensor, query_position: Tensor, boxes: Tensor, scene: Scene
    ) -> tuple[Tensor, Tensor, Tensor]:
        """query, query_position: [B, Q, D]; boxes: [B, Q, 4]. Returns the new query, logits [B, Q, C'], new boxes."""
        query = self.block(query, self.norm1, partial(self.attend_to_self, position=query_position, padding=None))
        query = self.block(query, self.norm2, lambda q: self.look(q, query_position, boxes, scene))
        query = self.block(query, self.norm3, self.feed_forward)
        state = self.out_norm(query)
        moved = (self.bbox_embed(state) + inverse_sigmoid(boxes)).float().sigmoid()
        return query, self.class_embed(state), moved


class BoxDecoder(nn.Module):
    """Decoder layers that each refine every query's class and box.

    Args:
        layers, dim, heads, feedforward, dropout, pre_norm: as in the paper's decoder.
        classes: C', classes, plus one for a softmax head.
        sigmoid: kind of class head.
        in_box: sample inside the box (``InBoxSampling``) instead of attending to all cells.
        channels: of the sampled map.
        grid, margin: of ``InBoxSampling``.
    """

    def __init__(
        self,
        layers: int,
        dim: int,
        heads: int,
        feedforward: int,
        dropout: float,
        pre_norm: bool,
        *,
        classes: int,
        sigmoid: bool,
        in_box: bool,
        channels: int,
        grid: int,
        margin: float,
    ) -> None:
        super().__init__()
        self.box_dim = dim // 2

        def make() -> BoxDecoderLayer:
            look = (
                InBoxSampling(dim, channels, grid=grid, margin=margin)
                if in_box
                else GlobalAttention(dim, heads, dropout)
            )
            layer = BoxDecoderLayer(dim, heads, feedforward, dropout, pre_norm, look, classes)
            init_classifier(layer.class_embed, sigmoid=sigmoid)
            return layer

        self.layers = nn.ModuleList(make() for _ in range(layers))
        self.query_position = MLP(4 * self.box_dim, dim, dim)

    def forward(self, query: Tensor, boxes: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        """Refine.

        Args:
            query: [B, Q, D].
            boxes: [B, Q, 4], (cx, cy, w, h) relative to the unpadded image; no gradient flows into them.
            scene: what the layers look at.

        Returns:
            Logits [L, B, Q, C'] and boxes [L, B, Q, 4] after each layer.
        """
        all_logits, all_boxes = [], []
        for layer in self.layers:
            where = sine_embedding(boxes, self.box_dim, temperature=20.0).flatten(-2)
            query, logits, moved = layer(query, self.query_position(where.to(query.dtype)), boxes, scene)
            all_logits.append(logits)
            all_boxes.append(moved)
            boxes = moved.detach()
        return torch.stack(all_logits), torch.stack(all_boxes)
