"""Probabilities of exclusive classes: exact at a loss's optimum, safe far from it."""

import pytest
import torch
from torch import Tensor

from dlrecipes.functional.links import class_probabilities, tempered_link


def test_softmax_is_torchs() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(class_probabilities(logits), logits.softmax(1))


def test_sigmoids_are_divided_by_their_sum() -> None:
    logits = 3 * torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = logits.sigmoid() / logits.sigmoid().sum(1, keepdim=True)
    torch.testing.assert_close(class_probabilities(logits, "sigmoid"), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [100.0, 1e4])
def test_far_logits_stay_probabilities(size: float) -> None:
    """Sigmoids of −1e4 are 0 each, and 0 / 0 would be no number."""
    signs = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, -1.0], [1.0, 1.0, -1.0]])
    found = class_probabilities(size * signs, "sigmoid")
    torch.testing.assert_close(found, torch.tensor([[1.0, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0]]))


def by_bisection(logits: Tensor, t: float) -> Tensor:
    """exp_t(z − λ) with the λ at which the row sums to 1, by halving where it may lie."""
    z, k = logits.double(), t - 1
    low = z.amax(1, keepdim=True)
    high = low + (z.shape[1] ** k - 1) / k
    for _ in range(100):
        middle = (low + high) / 2
        above = (1 + k * (middle - z)).pow(-1 / k).sum(1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (1 + k * (high - z)).pow(-1 / k)


@pytest.mark.parametrize("t", [1.01, 1.2, 2.0, 4.0])
@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("classes", [2, 1000])
def test_a_tempered_softmax_is_the_papers(t: float, size: float, classes: int) -> None:
    """Eq. 4 of Amid et al. (2019): λ is the root of a sum that falls."""
    logits = size * torch.randn(7, classes, generator=torch.Generator().manual_seed(0))
    found = class_probabilities(logits, f"tempered:{t}")
    torch.testing.assert_close(found.double(), by_bisection(logits, t), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.sum(1), torch.ones(7))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_answer_and_nothing_before(dtype: torch.dtype) -> None:
    logits = (30 * torch.randn(7, 10, generator=torch.Generator().manual_seed(0))).to(dtype)
    found = class_probabilities(logits, "tempered:1.2")
    assert found.dtype == dtype
    assert torch.equal(found, class_probabilities(logits.float(), "tempered:1.2").to(dtype))


def test_temperature_1_is_the_ordinary_softmax() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(class_probabilities(logits, tempered_link(1.0)), logits.softmax(1))
    torch.testing.assert_close(
        class_probabilities(logits, tempered_link(1 + 1e-4)), logits.softmax(1), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("link", ["probit", "tempered:", "tempered:hot", "tempered:0.5", "tempered:nan"])
def test_an_unknown_link_is_named(link: str) -> None:
    with pytest.raises(ValueError, match=f"link is '{link}'"):
        class_probabilities(torch.zeros(1, 2), link)
