"""Box losses against torchvision and identities, and where boxes have no area; the papers' formulas: contract table."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from dlrecipes.functional.losses import ciou_loss, diou_loss, giou_loss, iou_loss

ALL = [iou_loss, giou_loss, diou_loss, ciou_loss]


def boxes(n: int, seed: int) -> Tensor:
    corner, size = torch.rand(2, n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.cat((corner, corner + 0.05 + size * 0.6), dim=1)


def gradient(loss: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(x, y, reduction="none").sum(), x)
    return grad


@pytest.mark.parametrize(
    ("loss", "theirs"),
    [
        (giou_loss, generalized_box_iou_loss),
        (diou_loss, distance_box_iou_loss),
        (ciou_loss, complete_box_iou_loss),
    ],
)
def test_value_and_gradient_are_torchvisions(loss: Callable[..., Tensor], theirs: Callable[..., Tensor]) -> None:
    x, y = boxes(200, 0), boxes(200, 1)
    disjoint = iou_loss(x, y, reduction="none") == 1
    assert disjoint.any()
    assert not disjoint.all()
    ours = loss(x, y, reduction="none")
    torch.testing.assert_close(ours, theirs(x, y), rtol=1e-4, atol=1e-4)  # theirs adds 1e-7 to every divisor
    torch.testing.assert_close(gradient(loss, x, y), gradient(theirs, x, y), rtol=1e-3, atol=1e-3)


def test_gradient_of_ciou_holds_alpha_constant() -> None:
    y = boxes(5, 1)

    def aspect(x: Tensor) -> Tensor:
        def angle(b: Tensor) -> Tensor:
            return ((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1])).atan()

        return 4 / math.pi**2 * (angle(y) - angle(x)).square()

    x = boxes(5, 0).requires_grad_()
    v = aspect(x.detach())
    alpha = v / (iou_loss(x.detach(), y, reduction="none") + v)

    def with_constant_alpha(x: Tensor) -> Tensor:
        return diou_loss(x, y, reduction="none") + alpha * aspect(x)

    assert torch.autograd.gradcheck(with_constant_alpha, x)
    (expected,) = torch.autograd.grad(with_constant_alpha(x).sum(), x)
    torch.testing.assert_close(gradient(ciou_loss, x, y), expected)


def test_ciou_of_equal_shapes_is_diou() -> None:
    x = boxes(50, 0)
    y = 0.7 * x + 0.1
    torch.testing.assert_close(ciou_loss(x, y, reduction="none"), diou_loss(x, y, reduction="none"))


@pytest.mark.parametrize("loss", [giou_loss, diou_loss, ciou_loss])
def test_no_penalty_is_negative(loss: Callable[..., Tensor]) -> None:
    x, y = boxes(200, 0), boxes(200, 1)
    assert (loss(x, y, reduction="none") >= iou_loss(x, y, reduction="none")).all()


def test_giou_of_a_box_inside_another_is_iou() -> None:
    outer, inner = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[1.0, 1, 3, 2]])
    assert iou_loss(inner, outer).item() == giou_loss(inner, outer).item() == pytest.approx(1 - 2 / 16)


@pytest.mark.parametrize("loss", ALL)
def test_identical_boxes_cost_nothing(loss: Callable[..., Tensor]) -> None:
    x = boxes(20, 0)
    torch.testing.assert_close(loss(x, x, reduction="none"), torch.zeros(20, dtype=torch.float64))
    assert torch.isfinite(gradient(loss, x, x)).all()


@pytest.mark.parametrize("loss", ALL)
def test_units_and_order_of_the_pair_do_not_matter(loss: Callable[..., Tensor]) -> None:
    x, y = boxes(100, 0), boxes(100, 1)
    value = loss(x, y, reduction="none")
    torch.testing.assert_close(loss(1333 * x - 50, 1333 * y - 50, reduction="none"), value)
    torch.testing.assert_close(loss(1e-4 * x, 1e-4 * y, reduction="none"), value)
    torch.testing.assert_close(loss(y, x, reduction="none"), value)


@pytest.mark.parametrize("loss", [giou_loss, diou_loss, ciou_loss])
def test_boxes_apart_are_pulled_together(loss: Callable[..., Tensor]) -> None:
    x, y = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[3.0, 0, 4, 1]])
    assert loss(x - gradient(loss, x, y), y) < loss(x, y)
    assert not gradient(iou_loss, x, y).any()


FLAT = {
    "one point twice": ([0.0, 0, 0, 0], [0.0, 0, 0, 0]),
    "one far point twice": ([1e4, 1e4, 1e4, 1e4], [1e4, 1e4, 1e4, 1e4]),
    "two points": ([0.0, 0, 0, 0], [1e4, 1e4, 1e4, 1e4]),
    "a point in a box": ([1.0, 1, 1, 1], [0.0, 0, 2, 2]),
    "a point far from a box": ([-1e4, 1e4, -1e4, 1e4], [0.0, 0, 1, 1]),
    "a point as the target": ([0.0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5]),
    "one upright line twice": ([0.0, 0, 0, 1e4], [0.0, 0, 0, 1e4]),
    "one level line twice": ([0.0, 3, 1e4, 3], [0.0, 3, 1e4, 3]),
    "two lines in a row": ([0.0, 0, 0, 1], [0.0, 5, 0, 1e4]),
    "two lines side by side": ([0.0, 0, 0, 1e4], [5.0, 0, 5, 1e4]),
    "a cross": ([0.0, 1, 2, 1], [1.0, 0, 1, 2]),
    "a line on a box's side": ([0.0, 0, 0, 1], [0.0, 0, 1, 1]),
    "smaller than float32 squares": ([0.0, 0, 1e-30, 1e-30], [0.0, 0, 1e-30, 1e-30]),
    "smaller than their inverse squares can be": ([0.0, 0, 1e-20, 1e-20], [0.0, 0, 1e-20, 3e-20]),
    "denormal width": ([0.0, 0, 1e-42, 1e4], [0.0, 0, 1e-42, 1e4]),
    "corners swapped": ([1.0, 1, 0, 0], [0.0, 0, 1, 1]),
    "one axis swapped": ([1e4, 0, -1e4, 1], [0.0, 0, 1, 1]),
    "touching": ([0.0, 0, 1, 1], [1.0, 0, 2, 1]),
}


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("name", FLAT)
def test_without_area_value_and_gradient_are_finite(loss: Callable[..., Tensor], name: str) -> None:
    x, y = (torch.tensor([box]) for box in FLAT[name])
    assert torch.isfinite(loss(x, y))
    assert torch.isfinite(gradient(loss, x, y)).all()


@pytest.mark.parametrize("loss", ALL)
def test_a_flat_pair_changes_no_other(loss: Callable[..., Tensor]) -> None:
    x, y = boxes(3, 0), boxes(3, 1)
    expected, grad = loss(x, y, reduction="none"), gradient(loss, x, y)
    line = torch.tensor([[0.0, 0, 0, 1]], dtype=torch.float64)
    x, y = torch.cat((x, line)), torch.cat((y, line))
    torch.testing.assert_close(loss(x, y, reduction="none")[:3], expected)
    torch.testing.assert_close(gradient(loss, x, y)[:3], grad)
    assert loss(x, y, reduction="none")[3] == 1


@pytest.mark.parametrize("loss", ALL)
def test_nan_stays_nan(loss: Callable[..., Tensor]) -> None:
    assert math.isnan(loss(torch.full((1, 4), math.nan), torch.tensor([[0.0, 0, 1, 1]])))


@pytest.mark.parametrize("loss", ALL)
def test_what_is_no_matched_pair_is_refused(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"target has shape \[1, 4\], but input has \[3, 4\]"):
        loss(torch.zeros(3, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"input has shape \[3, 5\]: boxes are"):
        loss(torch.zeros(3, 5), torch.zeros(3, 5))
