"""The images with the largest errors of an evaluation, kept while the batches pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dlrecipes.ranks import gather_in_order
from dlrecipes.runs.pictures.tiles import to_uint8

__all__ = ["WorstImage", "WorstImages"]

_THUMBNAIL = 256


@dataclass(frozen=True)
class WorstImage:
    """One of the worst images.

    Attributes:
        score: how bad; larger is worse.
        image: uint8 [3, h, w], at most 256 pixels a side.
        path: of the file.
        values: float32 [V], what was kept of it.
    """

    score: float
    image: Tensor
    path: str
    values: Tensor


class WorstImages:
    """The ``k`` images with the highest scores, as thumbnails on the batches' device: no batch waits for the host.

    Args:
        k: how many.

    Raises:
        ValueError: ``k`` is below 1.
    """

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k
        self._kept: tuple[Tensor, ...] | None = None  # scores, thumbnails, values, positions in _paths
        self._paths: list[str] = []

    def update(self, scores: Tensor, images: Tensor, values: Tensor, paths: Sequence[str]) -> None:
        """See one batch.

        Args:
            scores: float32 [B]; an image whose score is not above 0 is no candidate.
            images: [B, 3, H, W], 0..255; all batches of one size.
            values: float32 [B, V], kept with the image.
            paths: B file names.
        """
        top, chosen = scores.nan_to_num(posinf=torch.finfo(scores.dtype).max).topk(min(self.k, len(scores)))
        batch = (top, _thumbnails(images[chosen]), values[chosen], chosen + len(self._paths))
        self._paths += paths
        if self._kept is None:
            self._kept = batch
            return
        both = [torch.cat(pair) for pair in zip(self._kept, batch, strict=True)]
        order = both[0].topk(min(self.k, len(both[0]))).indices
        self._kept = tuple(part[order] for part in both)

    def gather(self) -> list[WorstImage]:
        """The worst of all ranks, worst first; every rank must call it."""
        found: list[WorstImage] = []
        if self._kept is not None:
            scores, images, values, positions = (part.cpu() for part in self._kept)
            found = [
                WorstImage(score, images[i].clone(), self._paths[position], values[i].clone())
                for i, (score, position) in enumerate(zip(scores.tolist(), positions.tolist(), strict=True))
                if score > 0
            ]
        return sorted(gather_in_order(found), key=lambda worst: -worst.score)[: self.k]


def _thumbnails(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    scale = _THUMBNAIL / max(height, width)
    if scale >= 1:
        return to_uint8(images)
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    return to_uint8(F.interpolate(images.float(), size=size, mode="bilinear", antialias=True))
