"""Box maths against torchvision's own."""

import torch
import torchvision.ops

from dlrecipes.functional.boxes import box_giou, box_iou, cxcywh_to_xyxy, inverse_sigmoid, pairwise_giou, xyxy_to_cxcywh


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


def test_boxes_without_area_give_finite_values() -> None:
    point = torch.zeros(1, 4)
    assert box_iou(point, point).item() == 0.0
    assert torch.isfinite(box_giou(point, point)).all()


def test_conversions_are_inverse() -> None:
    boxes = random_boxes(4, 6)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)


def test_inverse_sigmoid_is_finite_at_the_border_and_inverts_inside() -> None:
    p = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    x = inverse_sigmoid(p)
    assert torch.isfinite(x).all()
    torch.testing.assert_close(x[1].sigmoid(), p[1])
