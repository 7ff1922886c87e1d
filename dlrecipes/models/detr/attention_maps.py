"""Where attention looks: the weights of every attention of a model, taken while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

__all__ = ["record_attention"]


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    r"""Keep the weights of each ``nn.MultiheadAttention`` inside a model, by its name there, as long as it runs.

    .. math:: A = \text{softmax}(Q K^\top / \sqrt{d} + \text{mask})

    for each head, whose size is d: how much each query takes from each cell or other query. ``DETR`` has them at
    ``transformer.encoder.layers.0.self_attn`` (cells, row by row), ``transformer.decoder.layers.0.multihead_attn``
    (learned queries) or ``box_decoder.layers.0.look.attention`` (queries with boxes, ``cross_attention="global"``).

    The model gives what it gave, but for rounding: torch's fused attention has no weights to show, so they cost its
    speed and memory. An attention that is called several times leaves the last of its weights.

    Args:
        model: not compiled. With dropout in training, the weights are those after it.

    Yields:
        Float [B, heads, Q, N] of each attention that has run, without gradient; their rows sum to 1.

    Example:
        >>> import torch
        >>> attention = nn.MultiheadAttention(8, 2, batch_first=True)
        >>> with record_attention(nn.ModuleDict({"look": attention})) as weights:
        ...     out = attention(torch.zeros(1, 3, 8), torch.zeros(1, 4, 8), torch.zeros(1, 4, 8), need_weights=False)
        >>> weights["look"].shape, weights["look"][0, 0, 0].tolist()
        (torch.Size([1, 2, 3, 4]), [0.25, 0.25, 0.25, 0.25])
    """
    found: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            hooks.append(module.register_forward_pre_hook(_ask, with_kwargs=True))
            hooks.append(module.register_forward_hook(partial(_keep, found, name)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _ask(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Call the attention with its weights, each head's."""
    return args, {**kwargs, "need_weights": True, "average_attn_weights": False}


def _keep(
    found: dict[str, Tensor], name: str, _module: nn.Module, _args: tuple[Any, ...], out: tuple[Tensor, Tensor]
) -> None:
    found[name] = out[1].detach()
