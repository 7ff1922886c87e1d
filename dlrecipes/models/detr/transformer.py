"""The transformer of DETR (Carion et al., 2020, arXiv:2005.12872, A.3). Parameter names are the official ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from dlrecipes.models.detr.position import CellGrid
from dlrecipes.models.detr.position_bias import BoxPositionBias

__all__ = ["MLP", "Decoder", "DecoderLayer", "Encoder", "EncoderLayer", "ResidualLayer", "Transformer"]


class MLP(nn.Module):
    """Linear layers with ReLU between them: ``dims = (in, hidden, ..., out)``."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        out: Tensor = self.layers[-1](x)
        return out

    def zero_last(self) -> None:
        """Start with output 0 for any input."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


def _add(x: Tensor, position: Tensor | None) -> Tensor:
    return x if position is None else x + position


class ResidualLayer(nn.Module):
    """What encoder and decoder layers share: attention, feed-forward, and where the norm goes."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        self.dropout = nn.Dropout(dropout)

    def block(self, x: Tensor, norm: nn.Module, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Post-norm: norm(x + f(x)); pre-norm: x + f(norm(x))."""
        if self.pre_norm:
            return torch.add(x, self.dropout(function(norm(x))))
        out: Tensor = norm(x + self.dropout(function(x)))
        return out

    def attend_to_self(
        self, x: Tensor, position: Tensor | None, padding: Tensor | None, apart: Tensor | None = None
    ) -> Tensor:
        """padding: bool [B, N], True = ignored by all; apart: bool [N, N] or [B · heads, N, N], True = ignored
        by this one."""
        query = _add(x, position)
        # need_weights=False is what lets torch take scaled_dot_product_attention
        out: Tensor = self.self_attn(query, query, x, key_padding_mask=padding, attn_mask=apart, need_weights=False)[0]
        return out

    def feed_forward(self, x: Tensor) -> Tensor:
        """float [B, N, dim] → [B, N, dim], each cell or query for itself."""
        out: Tensor = self.linear2(self.dropout(self.linear1(x).relu()))
        return out


class EncoderLayer(ResidualLayer):
    """Self-attention over feature cells, then a feed-forward network."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__(dim, heads, feedforward, dropout, pre_norm)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None = None) -> Tensor:
        """x: [B, N, D]; position: [B or 1, N, D]; padding: bool [B, N], True = ignore, or None."""
        x = self.block(x, self.norm1, partial(self.attend_to_self, position=position, padding=padding))
        return self.block(x, self.norm2, self.feed_forward)


class DecoderLayer(ResidualLayer):
    """Self-attention among queries, attention from queries to feature cells, then a feed-forward network."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__(dim, heads, feedforward, dropout, pre_norm)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        query_position: Tensor,
        position: Tensor,
        padding: Tensor | None = None,
        *,
        apart: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attend and transform.

        Args:
            x, query_position: [B, Q, D].
            memory: [B, N, D].
            position: [B or 1, N, D].
            padding: bool [B, N], True = ignore, or None.
            apart: bool [Q, Q], True where a query must not see another, or None.
            bias: [B · heads, Q, N], added to the logits of the attention to memory, −∞ in the padding; or None.

        Returns:
            [B, Q, D].
        """

        def attend_to_memory(q: Tensor) -> Tensor:
            out: Tensor = self.multihead_attn(
                q + query_position,
                memory + position,
                memory,
                key_padding_mask=padding if bias is None else None,
                attn_mask=bias,
                need_weights=False,
            )[0]
            return out

        attend = partial(self.attend_to_self, position=query_position, padding=None, apart=apart)
        x = self.block(x, self.norm1, attend)
        x = self.block(x, self.norm2, attend_to_memory)
        return self.block(x, self.norm3, self.feed_forward)


class Encoder(nn.Module):
    """A stack of encoder layers; a last norm only with ``pre_norm``."""

    def __init__(self, layers: int, dim: int, heads: int, feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, feedforward, dropout, pre_norm) for _ in range(layers))
        self.norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, position, padding)
        out: Tensor = self.norm(x)
        return out


class Decoder(nn.Module):
    """A stack of decoder layers; the same last norm is applied to the output of each."""

    def __init__(self, layers: int, dim: int, heads: int, feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, feedforward, dropout, pre_norm) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.position_bias: nn.ModuleList | None = None

    def add_position_bias(self, dim: int, heads: int) -> None:
        """Let every layer but the first, which has no box yet, look round the box of the layer before."""
        self.position_bias = nn.ModuleList(BoxPositionBias(heads, 2 * dim) for _ in self.layers[1:])

    def forward(
        self,
        memory: Tensor,
        query: Tensor,
        position: Tensor,
        padding: Tensor | None = None,
        *,
        apart: Tensor | None = None,
        grid: CellGrid | None = None,
        to_boxes: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Every layer's output.

        Args:
            memory: [B, N, D].
            query: learned embeddings [Q, D].
            position: [B or 1, N, D].
            padding: bool [B, N], True = ignore, or None.
            apart: bool [Q, Q], True where a query must not see another, or None.
            grid: the cells of memory; only a position bias needs them.
            to_boxes: a layer's output → its boxes [B, Q, 4]; only a position bias needs it.

        Returns:
            [L, B, Q, D].
        """
        query_position = query[None].expand(memory.shape[0], -1, -1)
        x = torch.zeros_like(query_position)
        states: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            bias = None
            if index and self.position_bias is not None and grid is not None and to_boxes is not None:
                with torch.no_grad():
                    boxes = to_boxes(states[-1])
                bias = self.position_bias[index - 1](boxes, grid)
            x = layer(x, memory, query_position, position, padding, apart=apart, bias=bias)
            states.append(self.norm(x))
        return torch.stack(states)


class Transformer(nn.Module):
    """Encoder and, for learned queries, decoder. Matrices start Xavier-uniform, as in the paper.

    Args:
        dim, heads, feedforward, dropout, pre_norm: of every layer.
        encoder_layers, decoder_layers: numbers of them.
        position_bias: of the decoder, see ``Decoder.add_position_bias``.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        encoder_layers: int,
        decoder_layers: int,
        feedforward: int,
        dropout: float,
        pre_norm: bool,
        position_bias: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(encoder_layers, dim, heads, feedforward, dropout, pre_norm)
        if decoder_layers:
            self.decoder = Decoder(decoder_layers, dim, heads, feedforward, dropout, pre_norm)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        if decoder_layers and position_bias:  # after Xavier, since it starts at 0
            self.decoder.add_position_bias(dim, heads)
