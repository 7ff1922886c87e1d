"""Queries for training only, beside the main ones: groups, hybrid and denoising queries.

Group DETR (Chen et al., 2023, arXiv:2207.13085) trains K sets of queries with the same decoder, each matched one to
one, and keeps the first. H-DETR (Jia et al., 2023, arXiv:2207.13080) adds one set that is matched one to many. DN-DETR
(Li et al., 2022, arXiv:2203.01305) adds noised objects. All of them give the decoder more to learn from an image and
leave inference as it was.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["QuerySets"]


class QuerySets(NamedTuple):
    """What stands side by side in the decoder, in this order. No set sees another.

    Attributes:
        main: queries that find the objects, Q.
        groups: further groups of Q queries, K − 1.
        hybrid: queries that are matched one to many, T.
        noised: int64 [N], the denoising group of each denoising query; None: there are none.

    Example:
        >>> QuerySets(1, groups=1, hybrid=1).apart(torch.device("cpu"))
        tensor([[False,  True,  True],
                [ True, False,  True],
                [ True,  True, False]])
    """

    main: int
    groups: int = 0
    hybrid: int = 0
    noised: Tensor | None = None

    @property
    def total(self) -> int:
        """S, all queries."""
        return self.main * (1 + self.groups) + self.hybrid + (0 if self.noised is None else self.noised.shape[0])

    def apart(self, device: torch.device) -> Tensor | None:
        """Bool [S, S], True where a query must not see another; None if there are only main queries."""
        if not (self.groups or self.hybrid) and self.noised is None:
            return None
        groups = torch.arange(self.groups + 1, device=device)[:, None].expand(-1, self.main).flatten()
        blocks = [groups, torch.full((self.hybrid,), self.groups + 1, device=device)]
        if self.noised is not None:
            blocks.append(self.noised + self.groups + 2)
        block = torch.cat(blocks)
        return block[:, None] != block

    def split(self, logits: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """The decoder's logits [L, B, S, C'] and boxes [L, B, S, 4] by set.

        Returns:
            ``pred_`` [L, B, Q, ...] and, of the sets that are there, ``group_`` [L, B, K − 1, Q, ...], ``hybrid_``
            [L, B, T, ...] and ``denoising_`` [L, B, N, ...], each with ``logits`` and ``boxes``.
        """
        sizes = [self.main, self.groups * self.main, self.hybrid]
        sizes.append(self.total - sum(sizes))
        out = {}
        for kind, values in (("logits", logits), ("boxes", boxes)):
            main, groups, hybrid, noised = torch.split(values, sizes, dim=2)
            out[f"pred_{kind}"] = main
            if self.groups:
                out[f"group_{kind}"] = groups.reshape(*groups.shape[:2], self.groups, self.main, groups.shape[-1])
            if self.hybrid:
                out[f"hybrid_{kind}"] = hybrid
            if self.noised is not None:
                out[f"denoising_{kind}"] = noised
        return out
