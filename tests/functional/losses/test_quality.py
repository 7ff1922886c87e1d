"""Quality losses against the papers' formulas worked out in Python floats, identities and numerical gradients."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses import ia_bce_loss, mal_loss, sigmoid_focal_loss, varifocal_loss

ALL = [varifocal_loss, mal_loss, ia_bce_loss]
DTYPE = torch.float64


def bce(p: float, target: float) -> float:
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def varifocal(p: float, q: float) -> float:
    return q * bce(p, q) if q > 0 else 0.75 * p**2 * bce(p, 0)


def mal(p: float, q: float) -> float:
    return bce(p, q**1.5) if q > 0 else p**1.5 * bce(p, 0)


def ia_bce(p: float, q: float) -> float:
    return bce(p, p**0.25 * q**0.75) if q > 0 else p**2 * bce(p, 0)


@pytest.fixture
def logits() -> Tensor:
    return 2 * torch.randn(40, dtype=DTYPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def quality() -> Tensor:
    q = torch.rand(40, dtype=DTYPE, generator=torch.Generator().manual_seed(1))
    q[:5] = 1e-6  # of a positive whose box misses
    q[20:] = 0.0
    return q


def gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    logits = logits.detach().clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(logits).sum(), logits)
    return grad


@pytest.mark.parametrize(("loss", "by_hand"), [(varifocal_loss, varifocal), (mal_loss, mal), (ia_bce_loss, ia_bce)])
def test_value_is_the_formulas(loss: Callable[..., Tensor], by_hand: Callable, logits: Tensor, quality: Tensor) -> None:
    p = logits.sigmoid().tolist()
    expected = torch.tensor([by_hand(*pair) for pair in zip(p, quality.tolist(), strict=True)], dtype=DTYPE)
    torch.testing.assert_close(loss(logits, quality), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", [varifocal_loss, mal_loss])
def test_gradient(loss: Callable[..., Tensor], logits: Tensor, quality: Tensor) -> None:
    assert torch.autograd.gradcheck(lambda x: loss(x, quality), logits.requires_grad_())


def test_gradient_of_ia_bce_holds_the_target_constant(logits: Tensor, quality: Tensor) -> None:
    positive = quality > 0
    target = torch.where(positive, logits.sigmoid().pow(0.25) * quality.pow(0.75), 0.0)

    def with_constant_target(x: Tensor) -> Tensor:
        weight = torch.where(positive, 1.0, x.sigmoid().square())
        return weight * F.binary_cross_entropy_with_logits(x, target, reduction="none")

    assert torch.autograd.gradcheck(with_constant_target, logits.clone().requires_grad_())
    expected = gradient(with_constant_target, logits)
    torch.testing.assert_close(gradient(lambda x: ia_bce_loss(x, quality), logits), expected)
    torch.testing.assert_close(expected[positive], (logits.sigmoid() - target)[positive])  # what BCE's gradient is


@pytest.mark.parametrize(
    ("loss", "plain"),
    [
        (varifocal_loss, {"alpha": 1.0, "gamma": 0.0}),
        (mal_loss, {"gamma": 0.0}),
        (ia_bce_loss, {"alpha": 0.0, "gamma": 0.0}),
    ],
)
def test_of_perfect_boxes_without_focus_is_cross_entropy(
    loss: Callable[..., Tensor], plain: dict[str, float], logits: Tensor, quality: Tensor
) -> None:
    label = (quality > 0).to(DTYPE)
    expected = F.binary_cross_entropy_with_logits(logits, label, reduction="none")
    torch.testing.assert_close(loss(logits, label, **plain), expected)


def test_negatives_are_those_of_the_focal_loss(logits: Tensor) -> None:
    none = torch.zeros_like(logits)
    expected = sigmoid_focal_loss(logits, none, alpha=None, gamma=2.0, reduction="none")
    torch.testing.assert_close(varifocal_loss(logits, none), 0.75 * expected)
    torch.testing.assert_close(ia_bce_loss(logits, none), expected)
    torch.testing.assert_close(mal_loss(logits, none, gamma=2.0), expected)


def test_ia_bce_of_share_one_has_no_gradient_in_positives_and_keeps_negatives(logits: Tensor, quality: Tensor) -> None:
    grad = gradient(lambda x: ia_bce_loss(x, quality, alpha=1.0), logits)  # the target is the score itself
    torch.testing.assert_close(grad[:20], torch.zeros(20, dtype=DTYPE))
    torch.testing.assert_close(grad[20:], gradient(lambda x: ia_bce_loss(x, quality), logits)[20:])


def test_mal_tells_a_bad_match_what_varifocal_hardly_does() -> None:
    logits, quality = torch.tensor([1.0], dtype=DTYPE), torch.tensor([0.05], dtype=DTYPE)
    pushed = [gradient(lambda x, loss=loss: loss(x, quality), logits).item() for loss in (varifocal_loss, mal_loss)]
    assert pushed[1] > 15 * pushed[0] > 0


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_finite_at_huge_logits(loss: Callable[..., Tensor], dtype: torch.dtype, logit: float) -> None:
    logits = torch.tensor([logit, logit], dtype=dtype, requires_grad=True)
    value = loss(logits, torch.tensor([0.7, 0.0]))
    value.sum().backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", ALL)
def test_no_gradient_flows_into_the_quality(loss: Callable[..., Tensor], logits: Tensor, quality: Tensor) -> None:
    quality.requires_grad_()
    loss(logits.requires_grad_(), quality).sum().backward()
    assert quality.grad is None


@pytest.mark.parametrize("loss", ALL)
def test_shapes_must_be_the_same(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"quality has shape \[3\], but logits has \[2, 3\]"):
        loss(torch.zeros(2, 3), torch.zeros(3))
