"""The set criterion: identities, empty images, what a NaN does, gradients. Its values are in test_parity.py."""

import math

import pytest
import torch
from torchvision.ops import box_convert, box_iou, generalized_box_iou, sigmoid_focal_loss

from dlrecipes.functional.losses import ia_bce_loss, mal_loss, varifocal_loss
from dlrecipes.models.detr.criterion import SetCriterion
from dlrecipes.models.detr.matcher import HungarianMatcher

CLASSES = 3
SIGMOID = {"focal": sigmoid_focal_loss, "varifocal": varifocal_loss, "mal": mal_loss, "ia_bce": ia_bce_loss}


def quality(kind: str, iou: torch.Tensor) -> torch.Tensor:
    """The target of a matched query; of a box that misses, MAL and IA-BCE must not see a negative."""
    return {"focal": torch.ones_like(iou), "varifocal": iou}.get(kind, iou.clamp(min=1e-6))


def make(
    counts: list[int], outputs: int, layers: int = 2, queries: int = 6, dtype: torch.dtype = torch.float32
) -> tuple:
    torch.manual_seed(0)
    predicted = {
        "pred_logits": torch.randn(layers, len(counts), queries, outputs, dtype=dtype),
        "pred_boxes": torch.rand(layers, len(counts), queries, 4, dtype=dtype) * 0.4 + 0.3,
    }
    targets = [{"labels": torch.randint(0, CLASSES, (n,)), "boxes": torch.rand(n, 4) * 0.4 + 0.3} for n in counts]
    return predicted, targets


@pytest.mark.parametrize("kind", SIGMOID)
def test_sigmoid_losses_equal_a_loop_over_images(kind: str) -> None:
    outputs, targets = make([2, 0, 3], CLASSES)
    losses = SetCriterion(CLASSES, class_loss=kind)(outputs, targets)
    pairs = HungarianMatcher(2.0, sigmoid=True)(outputs, targets)
    for layer, suffix in ((0, "_0"), (1, "")):
        total_class, total_l1, total_giou = 0.0, 0.0, 0.0
        for image, target in enumerate(targets):
            logits, boxes = outputs["pred_logits"][layer, image], outputs["pred_boxes"][layer, image]
            query, index = pairs[layer][image]
            goal = torch.zeros_like(logits)
            a, b = (box_convert(x, "cxcywh", "xyxy") for x in (boxes[query], target["boxes"][index]))
            goal[query, target["labels"][index]] = quality(kind, box_iou(a, b).diag())
            total_class += SIGMOID[kind](logits, goal).sum().item()
            total_l1 += (boxes[query] - target["boxes"][index]).abs().sum().item()
            total_giou += (1 - generalized_box_iou(a, b).diag()).sum().item()
        assert losses[f"loss_ce{suffix}"].item() == pytest.approx(total_class / 5, rel=1e-5)
        assert losses[f"loss_bbox{suffix}"].item() == pytest.approx(total_l1 / 5, rel=1e-5)
        assert losses[f"loss_giou{suffix}"].item() == pytest.approx(total_giou / 5, rel=1e-5)


@pytest.mark.parametrize("kind", ["ce", *SIGMOID])
def test_a_batch_without_objects_trains_on_background_only(kind: str) -> None:
    outputs, targets = make([0, 0], CLASSES + (kind == "ce"))
    outputs["pred_logits"].requires_grad_()
    losses = SetCriterion(CLASSES, class_loss=kind)(outputs, targets)
    assert losses["loss_bbox"].item() == losses["loss_giou"].item() == 0.0
    losses["loss_ce"].backward()
    assert outputs["pred_logits"].grad[-1].abs().sum() > 0


def test_uniform_logits_cost_log_of_the_classes() -> None:
    outputs, targets = make([2, 1], CLASSES + 1)
    outputs["pred_logits"].zero_()
    assert SetCriterion(CLASSES)(outputs, targets)["loss_ce"].item() == pytest.approx(math.log(CLASSES + 1))


def test_perfect_predictions_have_no_loss() -> None:
    outputs, targets = make([2], CLASSES + 1, layers=1)
    outputs["pred_logits"].fill_(-30.0)
    outputs["pred_logits"][..., -1] = 30.0
    for i, (label, box) in enumerate(zip(targets[0]["labels"], targets[0]["boxes"], strict=True)):
        outputs["pred_logits"][0, 0, i] = -30.0
        outputs["pred_logits"][0, 0, i, label] = 30.0
        outputs["pred_boxes"][0, 0, i] = box
    losses = SetCriterion(CLASSES)(outputs, targets)
    assert losses.pop("matched_iou").item() == pytest.approx(1, abs=1e-5)
    assert all(abs(value.item()) < 1e-5 for value in losses.values())


def test_matched_iou_is_the_mean_over_objects_of_the_last_layer() -> None:
    outputs, targets = make([2, 0, 3], CLASSES)
    outputs["pred_boxes"].requires_grad_()
    value = SetCriterion(CLASSES, class_loss="focal")(outputs, targets)["matched_iou"]
    pairs = HungarianMatcher(2.0, sigmoid=True)(outputs, targets)[-1]
    iou = []
    for boxes, target, (query, index) in zip(outputs["pred_boxes"][-1], targets, pairs, strict=True):
        found, goal = (box_convert(x, "cxcywh", "xyxy") for x in (boxes[query], target["boxes"][index]))
        iou += box_iou(found, goal).diag().tolist()
    assert value.item() == pytest.approx(sum(iou) / 5)
    assert not value.requires_grad


def test_a_box_that_misses_is_no_negative() -> None:
    outputs = {"pred_logits": torch.zeros(1, 1, 1, 1), "pred_boxes": torch.tensor([[[[0.1, 0.1, 0.1, 0.1]]]])}
    targets = [{"labels": torch.tensor([0]), "boxes": torch.tensor([[0.9, 0.9, 0.1, 0.1]])}]
    losses = {kind: SetCriterion(1, class_loss=kind)(outputs, targets)["loss_ce"].item() for kind in SIGMOID}
    assert losses["mal"] == pytest.approx(math.log(2), rel=1e-4)  # BCE(.5, 0), not weighed
    assert losses["ia_bce"] == pytest.approx(math.log(2), rel=1e-4)
    assert losses["varifocal"] == pytest.approx(0.75 * 0.25 * math.log(2))  # q = 0 is a negative, as in the paper


def test_gradient_reaches_boxes_and_logits_as_numbers_say() -> None:
    outputs, targets = make([2, 1], CLASSES, layers=1, queries=4, dtype=torch.float64)
    for target in targets:
        target["boxes"] = target["boxes"].double()
    criterion = SetCriterion(CLASSES, class_loss="focal")

    def total(logits: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        losses = criterion({"pred_logits": logits, "pred_boxes": boxes}, targets)
        return losses["loss_ce"] + losses["loss_bbox"] + losses["loss_giou"]

    logits, boxes = outputs["pred_logits"].requires_grad_(), outputs["pred_boxes"].requires_grad_()
    total(logits, boxes).backward()
    # costs and losses are float32, so central differences are taken at a step that float32 resolves
    for tensor, index in ((logits, (0, 0, 1, 2)), (boxes, (0, 1, 2, 3)), (boxes, (0, 0, 0, 0))):
        step, values = 1e-3, []
        for sign in (1, -1):
            moved = tensor.detach().clone()
            moved[index] += sign * step
            values.append(total(moved if tensor is logits else logits, moved if tensor is boxes else boxes).item())
        assert tensor.grad[index].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=2e-3)


@pytest.mark.parametrize("where", ["pred_logits", "pred_boxes"])
def test_a_nan_anywhere_makes_the_loss_nan(where: str) -> None:
    outputs, targets = make([1], CLASSES, layers=1)
    matched = HungarianMatcher(2.0, sigmoid=True)(outputs, targets)[0][0][0].item()
    outputs[where][0, 0, (matched + 1) % 6] = float("nan")  # of a query that is matched to nothing
    losses = SetCriterion(CLASSES, class_loss="focal")(outputs, targets)
    assert torch.stack([losses[k] for k in ("loss_ce", "loss_bbox", "loss_giou")]).isnan().any()


def test_proposals_are_matched_several_times() -> None:
    outputs, targets = make([2], CLASSES, layers=1, queries=9)
    outputs |= {"proposal_logits": outputs["pred_logits"][0], "proposal_boxes": outputs["pred_boxes"][0]}
    once = SetCriterion(CLASSES, class_loss="focal", proposal_repeats=1)(outputs, targets)
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        torch.testing.assert_close(once[f"{name}_enc"], once[name])
    thrice = SetCriterion(CLASSES, class_loss="focal", proposal_repeats=3)(outputs, targets)
    assert thrice["loss_bbox_enc"] > thrice["loss_bbox"]  # worse matches are averaged in


@pytest.mark.parametrize("kind", ["ce", *SIGMOID])
def test_half_precision_predictions_give_finite_float32_losses(kind: str) -> None:
    outputs, targets = make([2, 1], CLASSES + (kind == "ce"))
    outputs = {name: value.bfloat16() * (1e3 if name == "pred_logits" else 1) for name, value in outputs.items()}
    losses = SetCriterion(CLASSES, class_loss=kind)(outputs, targets)
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in losses.values())


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="class_loss='nll'"):
        SetCriterion(class_loss="nll")
    for name in ("proposal_repeats", "hybrid_repeats"):
        with pytest.raises(ValueError, match=f"{name}=0: at least 1"):
            SetCriterion(**{name: 0})
    with pytest.raises(ValueError, match=r"hybrid_weight=-1\.0: at least 0"):
        SetCriterion(hybrid_weight=-1.0)
