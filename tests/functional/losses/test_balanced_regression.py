"""Balanced MSE: its limits, and that the closed form is what the batch estimates."""

import pytest
import torch
from torch import Tensor

from dlrecipes.functional.losses import balanced_mse_loss, gai_loss, l2_loss


@pytest.fixture
def values() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 9, 2, dtype=torch.float64, generator=generator)
    return x, y


def test_the_batch_is_the_label_of_a_cross_entropy(values: tuple[Tensor, Tensor]) -> None:
    """The published code for several targets: a softmax over the batch's normal densities."""
    x, y = values
    variance = 0.7**2
    normal = torch.distributions.MultivariateNormal(x.unsqueeze(1), variance * torch.eye(2, dtype=torch.float64))
    expected = torch.nn.functional.cross_entropy(normal.log_prob(y.unsqueeze(0)), torch.arange(9)) * 2 * variance
    torch.testing.assert_close(balanced_mse_loss(x, y, 0.7), expected)


def test_the_closed_form_is_the_limit_of_a_large_batch(values: tuple[Tensor, Tensor]) -> None:
    """With targets drawn from the mixture, the batch's mean density is the integral."""
    x, _ = values
    weights, means = torch.tensor([0.8, 0.2]).double(), torch.tensor([[0.0], [3.0]]).double()
    variances = torch.tensor([[1.0], [0.25]]).double()
    generator = torch.Generator().manual_seed(1)
    component = (torch.rand(200_000, generator=generator) > 0.8).long()
    noise = torch.randn(200_000, 1, dtype=torch.float64, generator=generator)
    drawn = means[component] + variances[component].sqrt() * noise
    prediction, target = x[:, :1], drawn[: len(x)]
    distance = (prediction - drawn.T).square()
    own = (prediction - target).square().squeeze(1)
    mean_density = torch.logsumexp(-distance / 2, 1) - torch.tensor(2e5).log()
    value = gai_loss(prediction, target, weights, means, variances, 1.0, reduction="none")
    torch.testing.assert_close(value, own + 2 * mean_density, rtol=0, atol=0.02)


def test_a_flat_distribution_of_targets_leaves_the_squared_error(values: tuple[Tensor, Tensor]) -> None:
    x, y = values
    wide = torch.full((1, 2), 1e8, dtype=torch.float64)
    grads = []
    for loss in (
        lambda p: gai_loss(p, y, torch.ones(1), torch.zeros(1, 2), wide, 0.6, reduction="sum"),
        lambda p: l2_loss(p, y, reduction="sum"),
    ):
        p = x.clone().requires_grad_()
        loss(p).backward()
        grads.append(p.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=1e-6)


def test_a_learned_noise_gets_a_gradient_and_the_factor_in_front_does_not(values: tuple[Tensor, Tensor]) -> None:
    x, y = values
    mixture = torch.ones(1), torch.zeros(1, 2), torch.ones(1, 2)
    for loss in (balanced_mse_loss, lambda x, y, noise: gai_loss(x, y, *mixture, noise)):
        noise = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
        loss(x, y, noise).backward()
        step = 1e-6  # of the loss without its factor, times the factor
        ends = [loss(x, y, 0.8 + s).item() / (2 * (0.8 + s) ** 2) for s in (step, -step)]
        assert noise.grad.item() == pytest.approx((ends[0] - ends[1]) / (2 * step) * 2 * 0.8**2, rel=1e-5)


def test_a_mean_regressor_is_drawn_towards_rare_values() -> None:
    """The point of it: with 9 targets at 0 and 1 at 4, noisy inputs that tell nothing but a little."""
    target = torch.tensor([[0.0]] * 9 + [[4.0]], dtype=torch.float64)
    middle = torch.full_like(target, 2.0, requires_grad=True)  # as near to the one as to the other
    balanced_mse_loss(middle, target, 2.0, reduction="sum").backward()
    plain = middle.detach().clone().requires_grad_()
    l2_loss(plain, target, reduction="sum").backward()
    assert plain.grad.sum() > 0  # the mean, 0.4, lies below
    frequent, rare = middle.grad[0].abs(), middle.grad[9].abs()
    assert rare > 5 * frequent


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: balanced_mse_loss(x, x[:3]), r"target has shape \[3, 2\]"),
        (lambda x: balanced_mse_loss(x[:, 0], x[:, 0]), r"input has shape \[9\]: \[batch, targets\]"),
        (lambda x: gai_loss(x, x, torch.ones(2), torch.ones(1, 2), torch.ones(1, 2)), r"mixture_means.*\[2, 2\]"),
    ],
)
def test_mistakes_are_named(call: object, message: str, values: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=message):
        call(values[0])
