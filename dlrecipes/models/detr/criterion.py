"""The set criterion: every layer's predictions against the objects they were matched to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from dlrecipes.contracts import DataInfo
from dlrecipes.functional.boxes import box_giou, box_iou, cxcywh_to_xyxy
from dlrecipes.functional.losses import varifocal_loss
from dlrecipes.models.detr.matcher import HungarianMatcher, PaddedTargets, pad_targets, solve

__all__ = ["SetCriterion"]

_CLASS_LOSSES = ("ce", "focal", "varifocal")


class SetCriterion(nn.Module):
    r"""DETR's loss (Carion et al., 2020, section 3.1): class, L1 and GIoU of matched queries, no-object for the rest.

    Box losses are sums over matched pairs divided by the number of objects, averaged over processes. ``"ce"`` is a
    mean weighted by class, no-object counting ``no_object_weight``; ``"focal"`` (α .25, γ 2) and ``"varifocal"``
    (α .75, γ 2, quality = IoU) belong to a sigmoid head and are divided by the number of objects too.

    Args:
        num_classes: C, without no-object; a task sets it from the data.
        class_loss: ``"ce"``, ``"focal"`` or ``"varifocal"``.
        no_object_weight: weight of the no-object class of ``"ce"``.
        weights: weight of each loss in the total; default 1, 5, 2 for ``loss_ce``, ``loss_bbox``, ``loss_giou``.
        matcher: default ``HungarianMatcher`` with the paper's costs for ``"ce"``, Deformable DETR's otherwise.
        proposal_repeats: times each object is matched among the encoder's proposals of a two-stage model (fewer where
            there are not as many cells).

    Raises:
        ValueError: unknown ``class_loss``, ``proposal_repeats`` below 1.

    Example:
        >>> out = {"pred_logits": torch.zeros(1, 1, 5, 4), "pred_boxes": torch.full((1, 1, 5, 4), 0.5)}
        >>> target = {"labels": torch.tensor([2]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]])}
        >>> {k: round(v.item(), 4) for k, v in SetCriterion(num_classes=3)(out, [target]).items()}
        {'loss_ce': 1.3863, 'loss_bbox': 0.0, 'loss_giou': 0.0, 'cardinality_error': 4.0, 'class_error': 100.0}
    """

    def __init__(
        self,
        num_classes: int = 91,
        *,
        class_loss: str = "ce",
        no_object_weight: float = 0.1,
        weights: dict[str, float] | None = None,
        matcher: HungarianMatcher | None = None,
        proposal_repeats: int = 3,
    ) -> None:
        super().__init__()
        if class_loss not in _CLASS_LOSSES:
            raise ValueError(f"class_loss={class_loss!r}: choose one of {', '.join(_CLASS_LOSSES)}")
        if proposal_repeats < 1:
            raise ValueError(f"proposal_repeats={proposal_repeats}: at least 1")
        self.num_classes = num_classes
        self.class_loss = class_loss
        self.sigmoid = class_loss != "ce"
        self.no_object_weight = no_object_weight
        self.weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0} if weights is None else weights
        self.matcher: HungarianMatcher = matcher or HungarianMatcher(2.0 if self.sigmoid else 1.0, sigmoid=self.sigmoid)
        self.proposal_repeats = proposal_repeats

    def bind(self, info: DataInfo) -> None:
        """Take the number of classes of the data."""
        self.num_classes = info.num_classes

    def forward(self, outputs: dict[str, Tensor], targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Unweighted losses.

        Args:
            outputs: ``pred_logits`` [L, B, Q, C'] and ``pred_boxes`` [L, B, Q, 4], last layer last; a two-stage model
                adds ``proposal_logits`` [B, N, C'] and ``proposal_boxes`` [B, N, 4].
            targets: per image ``{"labels": int64 [n], "boxes": float32 [n, 4]}``, cxcywh relative to the image.

        Returns:
            Scalars ``loss_ce``, ``loss_bbox``, ``loss_giou`` of the last layer, with suffix ``_0``, ``_1`` ... of the
            layers before it, and ``_enc`` of the proposals. Beside them, without gradient and to be logged only, the
            authors' ``cardinality_error`` (mean absolute error of the number of objects, every layer) and
            ``class_error`` (percent of matched queries whose class is wrong, last layer).

        Raises:
            ValueError: an image has more objects than there are queries.

        A NaN or infinite prediction, matched or not, makes its losses NaN: nothing hides it.
        """
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        goals = [pad_targets(targets, logits.device)]
        predictions = [(logits, boxes)]
        if "proposal_logits" in outputs:
            most = max(1, *goals[0]["counts"], 0)
            repeats = max(1, min(self.proposal_repeats, outputs["proposal_logits"].shape[1] // most))
            goals.append(pad_targets(targets, logits.device, repeats))
            predictions.append((outputs["proposal_logits"][None], outputs["proposal_boxes"][None]))
        costs = [self.matcher.costs(*p, goal) for p, goal in zip(predictions, goals, strict=True)]
        assigned = solve(costs, [goal["counts"] for goal in goals])
        num_boxes = self._num_boxes(sum(goals[0]["counts"]), logits.device)

        losses = self._losses(*predictions[0], goals[0], assigned[0], num_boxes)
        losses["cardinality_error"] = self._cardinality_error(logits, goals[0])
        last = logits.shape[0] - 1
        out = {name: value[last] for name, value in losses.items()}
        out |= {f"{name}_{layer}": value[layer] for layer in range(last) for name, value in losses.items()}
        out["class_error"] = self._class_error(logits[-1], goals[0], assigned[0][-1])
        if len(goals) > 1:
            proposals = self._losses(*predictions[1], goals[1], assigned[1], num_boxes * repeats)
            out |= {f"{name}_enc": value[0] for name, value in proposals.items()}
        return out

    def _num_boxes(self, count: int, device: torch.device) -> Tensor:
        """Objects per process, averaged over all of them in training: every rank divides by the same number.

        Not in evaluation, where one rank may have a batch more than another and would wait for ever.
        """
        total = torch.full((), float(count), device=device)  # a fill: torch.tensor would wait for the device
        if self.training and dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
            total = total / dist.get_world_size()
        return total.clamp(min=1.0)

    def _losses(
        self, logits: Tensor, boxes: Tensor, goal: PaddedTargets, query_of: Tensor, num_boxes: Tensor
    ) -> dict[str, Tensor]:
        """Losses of each layer [L]. Padding takes part with weight 0, so that no shape depends on the data."""
        layers, queries = logits.shape[0], logits.shape[2]
        logits, boxes = logits.float(), boxes.float()
        matched = boxes.gather(2, query_of.clamp(max=queries - 1)[..., None].expand(-1, -1, -1, 4))
        goal_boxes = goal["boxes"][None].expand(layers, -1, -1, -1)
        valid = goal["valid"].float()
        l1 = (matched - goal_boxes).abs().sum(-1)
        giou = 1.0 - box_giou(cxcywh_to_xyxy(matched), cxcywh_to_xyxy(goal_boxes))
        poison = 0.0 * boxes.sum((1, 2, 3))  # 0, but NaN where a box is not finite, even if it was matched to nothing
        return {
            "loss_ce": self._class_losses(logits, matched, goal, query_of, num_boxes),
            "loss_bbox": (l1 * valid).sum((1, 2)) / num_boxes + poison,
            "loss_giou": (giou * valid).sum((1, 2)) / num_boxes,
        }

    def _class_losses(
        self, logits: Tensor, matched: Tensor, goal: PaddedTargets, query_of: Tensor, num_boxes: Tensor
    ) -> Tensor:
        layers, batch, queries, outputs = logits.shape
        # one slot more than there are queries: padding is written there and cut off
        label = torch.full((layers, batch, queries + 1), self.num_classes, device=logits.device)
        label.scatter_(2, query_of, goal["labels"].expand(layers, -1, -1))
        label = label[:, :, :queries]
        if self.class_loss == "ce":
            weight = torch.ones(outputs, device=logits.device)
            weight[self.num_classes] = self.no_object_weight
            loss = F.cross_entropy(logits.flatten(0, 2), label.flatten(), weight, reduction="none").view_as(label)
            return loss.sum((1, 2)) / weight[label].sum((1, 2))
        quality = torch.ones(label.shape, device=logits.device)
        if self.class_loss == "varifocal":
            iou = box_iou(cxcywh_to_xyxy(matched.detach()), cxcywh_to_xyxy(goal["boxes"]))
            quality = logits.new_zeros(layers, batch, queries + 1).scatter_(2, query_of, iou)[:, :, :queries]
        # no-object is written into a column of its own and cut off; F.one_hot would read values on the host
        target = logits.new_zeros(layers, batch, queries, self.num_classes + 1)
        target = target.scatter_(3, label[..., None], quality[..., None])[..., : self.num_classes]
        if self.class_loss == "varifocal":
            loss = varifocal_loss(logits, target)
        else:
            loss = sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2.0)
        return loss.sum((1, 2, 3)) / num_boxes

    @torch.no_grad()
    def _cardinality_error(self, logits: Tensor, goal: PaddedTargets) -> Tensor:
        is_object = logits.amax(-1) > 0 if self.sigmoid else logits.argmax(-1) != self.num_classes
        found = is_object.sum(2)
        return (found - goal["valid"].sum(1)).float().abs().mean(1)

    @torch.no_grad()
    def _class_error(self, logits: Tensor, goal: PaddedTargets, query_of: Tensor) -> Tensor:
        index = query_of.clamp(max=logits.shape[1] - 1)[..., None].expand(-1, -1, logits.shape[2])
        wrong = (logits.gather(1, index).argmax(-1) != goal["labels"]) & goal["valid"]
        return 100.0 * wrong.sum() / goal["valid"].sum().clamp(min=1)
