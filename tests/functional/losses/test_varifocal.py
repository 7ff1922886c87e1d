"""Loss formulas against hand-worked values, identities and numerical gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from dlrecipes.functional.losses import varifocal_loss


def test_varifocal_by_hand() -> None:
    p, q = 0.3, 0.8
    logit = math.log(p / (1 - p))
    positive = q * -(q * math.log(p) + (1 - q) * math.log(1 - p))
    negative = 0.75 * p**2 * -math.log(1 - p)
    loss = varifocal_loss(torch.tensor([logit, logit], dtype=torch.float64), torch.tensor([q, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([positive, negative], dtype=torch.float64))


def test_varifocal_with_quality_one_and_gamma_zero_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(50, dtype=torch.float64)
    quality = (torch.rand(50) > 0.5).double()
    expected = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    torch.testing.assert_close(varifocal_loss(logits, quality, alpha=1.0, gamma=0.0), expected)


def test_varifocal_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(20, dtype=torch.float64, requires_grad=True)
    quality = torch.rand(20, dtype=torch.float64) * (torch.rand(20) > 0.5)
    assert torch.autograd.gradcheck(lambda x: varifocal_loss(x, quality), logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_varifocal_is_finite_at_huge_logits(dtype: torch.dtype, logit: float) -> None:
    logits = torch.tensor([logit, logit], dtype=dtype, requires_grad=True)
    loss = varifocal_loss(logits, torch.tensor([0.7, 0.0]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()
