import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import nn

from dlrecipes.optim import add_proximal_l1, soft_threshold_, zero_share


def problem(orthonormal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    if orthonormal:
        x = torch.linalg.qr(x)[0] * 60**0.5  # x'x / n = 1
    truth = torch.tensor([2.0, -1.5, 0.6, 0.08, *[0.0] * 8], dtype=torch.float64)
    return x, x @ truth + 0.3 * torch.randn(60, generator=generator, dtype=torch.float64)


def descend(x: torch.Tensor, y: torch.Tensor, strength: float, *, as_gradient: bool = False) -> nn.Linear:
    layer = nn.Linear(12, 1, bias=False, dtype=torch.float64)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    sgd = torch.optim.SGD(layer.parameters(), lr=0.3)
    if not as_gradient:
        add_proximal_l1(sgd, strength)
    for _ in range(1500):
        sgd.zero_grad()
        loss = (layer(x)[:, 0] - y).square().mean() / 2
        (loss + strength * layer.weight.abs().sum() if as_gradient else loss).backward()
        sgd.step()
    return layer


def test_orthonormal_columns_have_the_closed_form() -> None:
    x, y = problem(orthonormal=True)
    expected = x.t() @ y / len(x)  # least squares, then the threshold
    soft_threshold_([expected], 0.2)
    found = descend(x, y, 0.2).weight[0]
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-12)
    assert torch.equal(found == 0, expected == 0)
    assert 0 < int((found == 0).sum()) < 12


def test_the_limit_is_the_lasso() -> None:
    x, y = problem(orthonormal=False)
    lasso = Lasso(alpha=0.15, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x.numpy(), y.numpy())
    found = descend(x, y, 0.15).weight[0].detach().numpy()
    np.testing.assert_allclose(found, lasso.coef_, atol=1e-8)
    np.testing.assert_array_equal(found == 0, lasso.coef_ == 0)


def test_the_same_term_in_the_loss_has_no_zeros() -> None:
    x, y = problem(orthonormal=False)
    assert zero_share(descend(x, y, 0.15)) > 0.3
    assert zero_share(descend(x, y, 0.15, as_gradient=True)) == 0.0


def test_each_group_by_its_own_rate_and_biases_only_if_wanted() -> None:
    for biases in (False, True):
        fast, slow, bias = (nn.Parameter(torch.ones(shape)) for shape in ((2, 2), (2, 2), (2,)))
        frozen = nn.Parameter(torch.ones(2, 2))
        groups = [{"params": [fast, bias], "lr": 0.1}, {"params": [slow, frozen], "lr": 0.01}]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        handle = add_proximal_l1(optimizer, 1.0, biases=biases)
        for p in (fast, slow, bias):
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert [float(p.detach().flatten()[0]) for p in (fast, slow, bias, frozen)] == pytest.approx(
            [0.9, 0.99, 0.9 if biases else 1.0, 1.0]
        )
        handle.remove()
        optimizer.step()
        assert float(fast.detach()[0, 0]) == pytest.approx(0.9)


def test_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"strength=-0\.1"):
        add_proximal_l1(torch.optim.SGD([nn.Parameter(torch.ones(1))]), -0.1)
    with pytest.raises(ValueError, match="amount=-1"):
        soft_threshold_([torch.ones(1)], -1)
