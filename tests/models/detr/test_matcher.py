"""The assignment against scipy on costs worked out one image and one layer at a time."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, generalized_box_iou, sigmoid_focal_loss

from dlrecipes.models.detr.matcher import HungarianMatcher, pad_targets, solve


def make(layers: int, counts: list[int], queries: int = 12, classes: int = 4) -> tuple[dict, list]:
    torch.manual_seed(1)
    outputs = {
        "pred_logits": torch.randn(layers, len(counts), queries, classes),
        "pred_boxes": torch.rand(layers, len(counts), queries, 4) * 0.5 + 0.2,
    }
    targets = [{"labels": torch.randint(0, classes - 1, (n,)), "boxes": torch.rand(n, 4) * 0.5 + 0.2} for n in counts]
    return outputs, targets


def cost_by_hand(logits: torch.Tensor, boxes: torch.Tensor, target: dict, sigmoid: bool) -> torch.Tensor:
    if sigmoid:
        ones, zeros = torch.ones_like(logits), torch.zeros_like(logits)
        # torchvision weighs positives by α and negatives by 1 − α, with α .25
        per_class = sigmoid_focal_loss(logits, ones, 0.25) - sigmoid_focal_loss(logits, zeros, 0.25)
        class_cost = 2 * per_class[:, target["labels"]]
    else:
        class_cost = -logits.softmax(-1)[:, target["labels"]]
    l1 = torch.cdist(boxes, target["boxes"], p=1)
    giou = generalized_box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(target["boxes"], "cxcywh", "xyxy"))
    return class_cost + 5 * l1 - 2 * giou


@pytest.mark.parametrize("sigmoid", [False, True])
def test_costs_and_assignment_equal_scipys_on_each_image(sigmoid: bool) -> None:
    outputs, targets = make(3, [5, 0, 1])
    matcher = HungarianMatcher(2.0 if sigmoid else 1.0, sigmoid=sigmoid)
    padded = pad_targets(targets, torch.device("cpu"))
    costs = matcher.costs(outputs["pred_logits"], outputs["pred_boxes"], padded)
    found = matcher(outputs, targets)
    for layer in range(3):
        for image, target in enumerate(targets):
            n = len(target["labels"])
            expected = cost_by_hand(
                outputs["pred_logits"][layer, image], outputs["pred_boxes"][layer, image], target, sigmoid
            )
            torch.testing.assert_close(costs[layer, image, :, :n], expected, atol=1e-5, rtol=1e-5)
            rows, columns = linear_sum_assignment(expected.numpy())
            query, index = found[layer][image]
            assert query.tolist() == rows.tolist()
            assert index.tolist() == columns.tolist()


def test_one_copy_serves_several_cost_arrays() -> None:
    outputs, targets = make(2, [2, 0, 3])
    matcher = HungarianMatcher()
    once, thrice = (pad_targets(targets, torch.device("cpu"), repeat) for repeat in (1, 3))
    costs, repeated = (matcher.costs(outputs["pred_logits"], outputs["pred_boxes"], goal) for goal in (once, thrice))
    together = solve([costs, costs, costs[:1]], once["counts"], [1, 3, 1])
    assert torch.equal(together[0], solve([costs], once["counts"])[0])
    assert torch.equal(together[1], solve([repeated], thrice["counts"])[0])  # the costs of copies are not worked out
    assert torch.equal(together[2], together[0][:1])
    assert len(set(together[1][0, 2].tolist())) == 9  # three objects, three different queries each
    assert (together[0][:, 0, 2:] == 12).all()  # padding points past the last query
    assert (together[1][:, 1] == 12).all()


@pytest.mark.parametrize("counts", [[0, 0], []])
def test_nothing_to_assign(counts: list[int]) -> None:
    outputs, targets = make(2, counts)
    padded = pad_targets(targets, torch.device("cpu"))
    costs = HungarianMatcher().costs(outputs["pred_logits"], outputs["pred_boxes"], padded)
    assert solve([costs], padded["counts"])[0].shape == (2, len(counts), 0)


def test_padding_is_repeated_and_valid_only_where_there_are_objects() -> None:
    target = {"labels": torch.tensor([3, 1]), "boxes": torch.rand(2, 4)}
    padded = pad_targets(
        [target, {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}], torch.device("cpu"), 2
    )
    assert padded["labels"].tolist() == [[3, 1, 3, 1], [0, 0, 0, 0]]
    assert padded["valid"].tolist() == [[True] * 4, [False] * 4]
    assert padded["counts"] == [4, 0]
    assert torch.equal(padded["boxes"][0], target["boxes"].repeat(2, 1))
    assert (padded["boxes"][1] == 0.5).all()


def test_targets_of_any_float_are_padded_in_float32() -> None:
    targets = [
        {"labels": torch.tensor([i]), "boxes": torch.full((1, 4), 0.25, dtype=dtype)}
        for i, dtype in enumerate((torch.float64, torch.float32, torch.float16))
    ]
    padded = pad_targets(targets, torch.device("cpu"))
    assert padded["boxes"].dtype == torch.float32
    assert (padded["boxes"] == 0.25).all()
    assert padded["labels"].tolist() == [[0], [1], [2]]


def test_more_objects_than_queries_is_an_error() -> None:
    outputs, targets = make(1, [5], queries=4)
    with pytest.raises(ValueError, match="5 objects but there are only 4 queries"):
        HungarianMatcher()(outputs, targets)
    costs = torch.zeros(1, 1, 9, 5)
    with pytest.raises(ValueError, match="5 objects, each to be matched 2 times, but there are only 9 queries"):
        solve([costs], [5], [2])


def test_no_weights_is_an_error() -> None:
    with pytest.raises(ValueError, match="all 0"):
        HungarianMatcher(0, 0, 0)
