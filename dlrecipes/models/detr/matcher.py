"""Which query answers for which object: the cheapest one-to-one assignment, all layers and images in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from dlrecipes.functional.boxes import cxcywh_to_xyxy, pairwise_giou

__all__ = ["HungarianMatcher", "PaddedTargets", "pad_targets", "solve"]

_WORST = 1e8  # above any finite cost, small enough to be added up in float64


class PaddedTargets(TypedDict):
    """Targets of a batch in one tensor each.

    Keys:
        labels: int64 [B, T], 0 where there is no object.
        boxes: float32 [B, T, 4], a unit box where there is no object.
        valid: bool [B, T].
        counts: objects in each image, on the host.
    """

    labels: Tensor
    boxes: Tensor
    valid: Tensor
    counts: list[int]


def pad_targets(targets: Sequence[dict[str, Tensor]], device: torch.device, repeat: int = 1) -> PaddedTargets:
    """Put the targets of a batch side by side; T is the most objects in one image, times ``repeat``.

    Args:
        targets: per image ``{"labels": int64 [n], "boxes": float32 [n, 4]}``, cxcywh.
        device: of the result.
        repeat: copies of each object (one-to-many matching).
    """
    counts = np.array([len(t["labels"]) for t in targets], dtype=np.int64)
    total = int(counts.sum())
    column, n = np.arange(counts.max(initial=0) * repeat), counts[:, None]
    # where each place finds its object among those of all images, which a unit box follows as the padding
    row = np.where(column < n * repeat, (counts.cumsum() - counts)[:, None] + column % n.clip(min=1), total)
    index = torch.from_numpy(row).to(device, non_blocking=True)
    labels = [t["labels"].to(device, non_blocking=True) for t in targets]
    boxes = [t["boxes"].to(device, non_blocking=True).float() for t in targets]
    return {
        "labels": torch.cat([*labels, torch.zeros(1, dtype=torch.int64, device=device)])[index],
        "boxes": torch.cat([*boxes, torch.full((1, 4), 0.5, device=device)])[index],
        "valid": index < total,
        "counts": (counts * repeat).tolist(),
    }


def solve(costs: Sequence[Tensor], counts: Sequence[int], repeats: Sequence[int] | None = None) -> list[Tensor]:
    """Assign queries to every object, for several cost arrays with one copy to the host and one back.

    Args:
        costs: arrays float32 [L_i, B, Q_i, T].
        counts: objects of each image (columns beyond are padding).
        repeats: for each array how many queries an object gets, R_i; default 1.

    Returns:
        For each array int64 [L_i, B, R_i · T] on its device: the query of each object, in the order of
        ``pad_targets(..., repeat=R_i)``; Q_i in the padding.

    Raises:
        ValueError: more objects than queries.
    """
    flat = torch.cat([c.detach().float().transpose(2, 3).flatten() for c in costs])
    # A NaN is matched last instead of raising here, where one rank would leave the others waiting: the criterion makes
    # the loss NaN, and NonFiniteStop then ends all ranks together.
    flat = flat.nan_to_num(_WORST, _WORST, _WORST)
    host = flat.cpu().double().numpy()  # the step's only wait for the device
    start, found = 0, []
    for cost, repeat in zip(costs, repeats or [1] * len(costs), strict=True):
        layers, batch, queries, width = cost.shape
        if max(counts, default=0) * repeat > queries:
            times = "" if repeat == 1 else f", each to be matched {repeat} times,"
            raise ValueError(
                f"an image has {max(counts)} objects{times} but there are only {queries} queries: raise num_queries"
            )
        array = host[start : start + cost.numel()].reshape(layers, batch, width, queries)
        start += cost.numel()
        query_of = np.full((layers, batch, width * repeat), queries, dtype=np.int64)
        for layer in range(layers):
            for image, n in enumerate(counts):
                if n:
                    rows = np.concatenate([array[layer, image, :n]] * repeat) if repeat > 1 else array[layer, image, :n]
                    query_of[layer, image, : n * repeat] = linear_sum_assignment(rows)[1]
        found.append(torch.from_numpy(query_of))
    joined = torch.cat([query_of.flatten() for query_of in found]).to(flat.device, non_blocking=True)
    ends = np.cumsum([query_of.numel() for query_of in found])
    return [joined[end - query_of.numel() : end].view_as(query_of) for end, query_of in zip(ends, found, strict=True)]


class HungarianMatcher(nn.Module):
    r"""Cost of giving query q to object t, and the assignment with the least sum (Carion et al., 2020, eq. 1).

    .. math:: C = \lambda_c\, c_{cls} + \lambda_1 \lVert b_q - b_t \rVert_1 - \lambda_g\, \text{GIoU}(b_q, b_t)

    :math:`c_{cls}` is :math:`-p_q(t)` for a softmax head; for a sigmoid head the difference of the focal losses of
    a positive and a negative, α .25, γ 2 (Deformable DETR). Costs are float32 and never pair different images.

    Args:
        cost_class, cost_bbox, cost_giou: the weights λ; 1, 5, 2 in the paper, 2, 5, 2 with a sigmoid head.
        sigmoid: kind of class head.

    Raises:
        ValueError: all weights are 0.

    Example:
        >>> out = {"pred_logits": torch.tensor([[[0.0, 9.0], [9.0, 0.0]]]), "pred_boxes": torch.full((1, 2, 4), 0.5)}
        >>> HungarianMatcher()(out, [{"labels": torch.tensor([0]), "boxes": torch.full((1, 4), 0.5)}])
        [(tensor([1]), tensor([0]))]
    """

    def __init__(
        self, cost_class: float = 1.0, cost_bbox: float = 5.0, cost_giou: float = 2.0, *, sigmoid: bool = False
    ) -> None:
        super().__init__()
        if not (cost_class or cost_bbox or cost_giou):
            raise ValueError("cost_class, cost_bbox and cost_giou are all 0: nothing to match by")
        self.cost_class, self.cost_bbox, self.cost_giou, self.sigmoid = cost_class, cost_bbox, cost_giou, sigmoid

    def _class_cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[L, B, T, Q]."""
        scores = (logits if self.sigmoid else logits.softmax(-1)).transpose(2, 3)
        chosen = scores.gather(2, labels[None, :, :, None].expand(len(logits), -1, -1, logits.shape[2]))
        if not self.sigmoid:
            return -chosen
        p = chosen.sigmoid()
        positive = 0.25 * (1 - p) ** 2 * nn.functional.softplus(-chosen)
        negative = 0.75 * p**2 * nn.functional.softplus(chosen)
        return positive - negative

    @torch.no_grad()
    def costs(self, logits: Tensor, boxes: Tensor, targets: PaddedTargets) -> Tensor:
        """Costs [L, B, Q, T] of logits [L, B, Q, C'] and boxes [L, B, Q, 4] (cxcywh); columns of padding are finite."""
        boxes, goal = boxes.float(), targets["boxes"][None]
        # worked out as [L, B, T, Q], coordinates first: loops over the long axis are the fast ones
        cost = self.cost_class * self._class_cost(logits.float(), targets["labels"])
        predicted, wanted = (x.movedim(-1, 0).contiguous() for x in (boxes, goal))
        cost += self.cost_bbox * (predicted[..., None, :] - wanted[..., None]).abs().sum(0)
        cost -= self.cost_giou * pairwise_giou(cxcywh_to_xyxy(goal), cxcywh_to_xyxy(boxes))
        return cost.transpose(2, 3)

    @torch.no_grad()
    def forward(
        self, outputs: dict[str, Tensor], targets: Sequence[dict[str, Tensor]]
    ) -> list[tuple[Tensor, Tensor]] | list[list[tuple[Tensor, Tensor]]]:
        """Assign.

        Args:
            outputs: ``pred_logits`` [B, Q, C'] and ``pred_boxes`` [B, Q, 4], or both with a leading layer dimension.
            targets: per image ``labels`` and ``boxes``.

        Returns:
            For each image (queries, objects), both int64 on the host, sorted by query; with a layer dimension, such a
            list for each layer.
        """
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        layered = logits.dim() == 4
        if not layered:
            logits, boxes = logits[None], boxes[None]
        padded = pad_targets(targets, logits.device)
        assigned = solve([self.costs(logits, boxes, padded)], padded["counts"])[0].cpu()
        pairs = [
            [
                (query.sort().values, query.argsort())
                for query in (row[:n] for row, n in zip(layer, padded["counts"], strict=True))
            ]
            for layer in assigned
        ]
        return pairs if layered else pairs[0]
