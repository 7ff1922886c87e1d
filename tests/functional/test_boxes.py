"""Box maths against torchvision's own."""

from collections.abc import Callable

import pytest
import torch
import torchvision.ops

from dlrecipes.functional.boxes import (
    box_giou,
    box_iou,
    box_iou_giou,
    cxcywh_to_xyxy,
    inverse_sigmoid,
    pairwise_giou,
    xyxy_to_cxcywh,
)


def random_boxes(*shape: int) -> torch.Tensor:
    corner = torch.rand(*shape, 2, dtype=torch.float64)
    return torch.cat((corner, corner + torch.rand(*shape, 2, dtype=torch.float64)), dim=-1)


def test_iou_and_giou_equal_torchvision_for_each_leading_index() -> None:
    torch.manual_seed(0)
    a, b = random_boxes(3, 2, 7), random_boxes(3, 2, 5)
    iou, giou = box_iou(a[..., :, None, :], b[..., None, :, :]), pairwise_giou(a, b)
    assert iou.shape == giou.shape == (3, 2, 7, 5)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(iou[i, j], torchvision.ops.box_iou(a[i, j], b[i, j]))
            torch.testing.assert_close(giou[i, j], torchvision.ops.generalized_box_iou(a[i, j], b[i, j]))


def test_giou_gradient() -> None:
    torch.manual_seed(0)
    a, b = random_boxes(6).requires_grad_(), random_boxes(6)
    assert torch.autograd.gradcheck(lambda x: box_giou(x, b), a)


def test_both_measures_at_once_are_each_alone() -> None:
    torch.manual_seed(0)
    a, b = random_boxes(50), random_boxes(50)
    iou, giou = box_iou_giou(a, b)
    assert torch.equal(iou, box_iou(a, b))
    assert torch.equal(giou, box_giou(a, b))


# pairs without area, then what IoU and GIoU are of them
FLAT = {
    "one point twice": ([0.3, 0.3, 0.3, 0.3], [0.3, 0.3, 0.3, 0.3], 0, 0),
    "one upright line twice": ([0.5, 0.0, 0.5, 1e4], [0.5, 0.0, 0.5, 1e4], 0, 0),
    "overlapping upright lines": ([0.5, 0.2, 0.5, 0.7], [0.5, 0.4, 0.5, 0.9], 0, 0),
    "overlapping level lines": ([0.2, 0.5, 0.7, 0.5], [0.4, 0.5, 0.9, 0.5], 0, 0),
    "lines in a row": ([0.5, 0.0, 0.5, 0.1], [0.5, 0.4, 0.5, 0.9], 0, 0),
    "lines side by side": ([0.0, 0.0, 0.0, 1.0], [0.5, 0.0, 0.5, 1.0], 0, -1),
    "a cross": ([0.0, 0.5, 1.0, 0.5], [0.5, 0.0, 0.5, 1.0], 0, -1),
}


@pytest.mark.parametrize("measure", [box_iou, box_giou, pairwise_giou])
@pytest.mark.parametrize("name", FLAT)
def test_without_area_value_and_gradient_are_finite(measure: Callable[..., torch.Tensor], name: str) -> None:
    a, b = (torch.tensor([box], requires_grad=True) for box in FLAT[name][:2])
    value = measure(a, b)
    assert value.item() == FLAT[name][2 if measure is box_iou else 3]
    (value * 1e4).sum().backward()
    assert torch.isfinite(a.grad).all()
    assert torch.isfinite(b.grad).all()
    if FLAT[name][3] == 0:
        assert not a.grad.any()


def test_a_pair_without_area_changes_no_other() -> None:
    torch.manual_seed(0)
    a, b = random_boxes(4).requires_grad_(), random_boxes(3)
    (alone,) = torch.autograd.grad(pairwise_giou(a, b).sum(), a)
    line = torch.tensor([[0.5, 0.0, 0.5, 1.0]], dtype=torch.float64)
    with_line = torch.cat((a.detach(), line)).requires_grad_()
    giou = pairwise_giou(with_line, torch.cat((b, line)))
    assert giou[-1, -1] == 0
    (grad,) = torch.autograd.grad(giou[:, :-1].sum(), with_line, retain_graph=True)
    torch.testing.assert_close(grad[:-1], alone)
    (whole,) = torch.autograd.grad(giou.sum(), with_line)
    assert torch.isfinite(whole).all()


def test_nan_stays_nan() -> None:
    box, unknown = torch.tensor([0.0, 0, 1, 1]), torch.full((4,), torch.nan)
    assert box_iou(box, unknown).isnan()
    assert box_giou(unknown, box).isnan()


def test_conversion_is_torchvisions() -> None:
    torch.manual_seed(0)
    boxes = torch.rand(3, 5, 4)
    assert torch.equal(cxcywh_to_xyxy(boxes), torchvision.ops.box_convert(boxes, "cxcywh", "xyxy"))


def test_conversions_are_inverse() -> None:
    boxes = random_boxes(4, 6)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)


def test_inverse_sigmoid_is_finite_at_the_border_and_inverts_inside() -> None:
    p = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    x = inverse_sigmoid(p)
    assert torch.isfinite(x).all()
    torch.testing.assert_close(x[1].sigmoid(), p[1])
