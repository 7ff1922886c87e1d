"""Losses of one set of queries, once it is known which query answers for which object.

No shape depends on the data: what stands for nothing takes part with weight 0, so that the host never waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from dlrecipes.functional.boxes import box_iou_giou, cxcywh_to_xyxy
from dlrecipes.functional.losses import ia_bce_loss, mal_loss, varifocal_loss
from dlrecipes.models.detr.matcher import PaddedTargets

__all__ = ["CLASS_LOSSES", "ClassLoss", "Pairs", "SetLosses", "denoising_pairs", "matched_pairs", "set_losses"]

_SIGMOID_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "focal": sigmoid_focal_loss,  # α .25, γ 2
    "varifocal": varifocal_loss,
    "mal": mal_loss,
    "ia_bce": ia_bce_loss,
}
CLASS_LOSSES = ("ce", *_SIGMOID_LOSSES)
_LEAST_QUALITY = 1e-6  # of a box that misses its object: 0 would make the query a negative


class Pairs(NamedTuple):
    """Which query answers for which object.

    Attributes:
        query: int64 [L, B, P]; Q, the number of queries, where there is no pair.
        labels: int64 [B, P], anything where there is no pair.
        boxes: float32 [B, P, 4], cxcywh, anything where there is no pair.
        valid: bool [B, P], False where there is no pair.
        counted: bool [B, Q], the queries that the class loss counts; None: all of them.
    """

    query: Tensor
    labels: Tensor
    boxes: Tensor
    valid: Tensor
    counted: Tensor | None = None


class ClassLoss(NamedTuple):
    """The class loss and its settings: arguments of ``SetCriterion``."""

    kind: str
    num_classes: int
    no_object_weight: float


class SetLosses(NamedTuple):
    """Of each layer.

    Attributes:
        loss_ce, loss_bbox, loss_giou: [L].
        iou: [L, B, P], of each pair, without gradient; anything where there is none.
    """

    loss_ce: Tensor
    loss_bbox: Tensor
    loss_giou: Tensor
    iou: Tensor


def matched_pairs(goal: PaddedTargets, query_of: Tensor) -> Pairs:
    """Pairs of an assignment ``query_of`` int64 [L, B, T], as ``solve`` gives it."""
    return Pairs(query_of, goal["labels"], goal["boxes"], goal["valid"])


def denoising_pairs(goal: PaddedTargets, target: Tensor, layers: int) -> Pairs:
    """Pairs of denoising queries, which know their object: ``target`` int64 [B, N] from ``NoisedQueries``."""
    valid = target >= 0
    index = target.clamp(min=0)
    queries = target.shape[1]
    query = torch.arange(queries, device=target.device).where(valid, queries)
    return Pairs(
        query=query.expand(layers, -1, -1),
        labels=goal["labels"].gather(1, index),
        boxes=goal["boxes"].gather(1, index[..., None].expand(-1, -1, 4)),
        valid=valid,
        counted=target >= -1,
    )


def set_losses(logits: Tensor, boxes: Tensor, pairs: Pairs, num_boxes: Tensor, class_loss: ClassLoss) -> SetLosses:
    """Losses of each layer.

    Args:
        logits: float32 [L, B, Q, C'].
        boxes: float32 [L, B, Q, 4], cxcywh.
        pairs: of queries and objects; the other queries are background.
        num_boxes: what sums are divided by.
        class_loss: which.
    """
    matched = boxes.gather(2, pairs.query.clamp(max=boxes.shape[2] - 1)[..., None].expand(-1, -1, -1, 4))
    valid = pairs.valid.float()
    l1 = (matched - pairs.boxes).abs().sum(-1)
    iou, giou = box_iou_giou(cxcywh_to_xyxy(matched), cxcywh_to_xyxy(pairs.boxes))
    iou = iou.detach()
    poison = 0.0 * boxes.sum((1, 2, 3))  # 0, but NaN where a box is not finite, even if it was matched to nothing
    if class_loss.kind == "ce":
        loss = _softmax_loss(logits, pairs, class_loss)
    else:
        loss = _sigmoid_loss(logits, pairs, iou, class_loss.kind) / num_boxes
    return SetLosses(
        loss_ce=loss,
        loss_bbox=(l1 * valid).sum((1, 2)) / num_boxes + poison,
        loss_giou=((1.0 - giou) * valid).sum((1, 2)) / num_boxes,
        iou=iou,
    )


def _softmax_loss(logits: Tensor, pairs: Pairs, settings: ClassLoss) -> Tensor:
    """Cross entropy, a mean weighted by class."""
    layers, batch, queries, _ = logits.shape
    # one slot more than there are queries: what is no pair is written there and cut off
    label = torch.full((layers, batch, queries + 1), settings.num_classes, device=logits.device)
    label = label.scatter_(2, pairs.query, pairs.labels.expand(layers, -1, -1))[:, :, :queries]
    # no tensor of class weights: to write a number into one waits for the device
    mass = torch.where(label == settings.num_classes, settings.no_object_weight, 1.0)
    loss = F.cross_entropy(logits.flatten(0, 2), label.flatten(), reduction="none").view_as(label) * mass
    if pairs.counted is not None:
        loss, mass = loss * pairs.counted, mass * pairs.counted
    return loss.sum((1, 2)) / mass.sum((1, 2)).clamp(min=torch.finfo(mass.dtype).tiny)


def _sigmoid_loss(logits: Tensor, pairs: Pairs, iou: Tensor, kind: str) -> Tensor:
    """The sum of a loss on sigmoids, whose target is 0 but for the class of a paired query."""
    layers, batch, queries, classes = logits.shape
    place = torch.where(pairs.valid, pairs.query * classes + pairs.labels, queries * classes)  # the last is cut off
    target = logits.new_zeros(layers, batch, queries * classes + 1)
    if kind == "focal":
        target.scatter_(2, place, 1.0)
    else:
        target.scatter_(2, place, iou if kind == "varifocal" else iou.clamp(min=_LEAST_QUALITY))
    target = target[:, :, :-1].view_as(logits)
    loss: Tensor = _SIGMOID_LOSSES[kind](logits, target)
    if pairs.counted is not None:
        loss = loss * pairs.counted[..., None]
    return loss.sum((1, 2, 3))
