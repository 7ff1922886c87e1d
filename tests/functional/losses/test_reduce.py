"""Reduction and sample weights, by hand."""

import pytest
import torch

from dlrecipes.functional.losses.reduce import check_same_shape, reduce_loss, safe_pow, upcast

LOSS = torch.tensor([[1.0, 3.0], [5.0, 7.0]])


@pytest.mark.parametrize(
    ("reduction", "weight", "mass", "expected"),
    [
        ("mean", None, None, 4.0),
        ("sum", None, None, 16.0),
        ("mean", [1.0, 3.0], None, (4 + 36) / 8),
        ("sum", [1.0, 3.0], None, 40.0),
        ("none", [1.0, 3.0], None, [[1.0, 3.0], [15.0, 21.0]]),
        ("mean", [[1.0, 0.0], [0.0, 1.0]], None, 4.0),
        ("mean", None, [[1.0, 1.0], [2.0, 0.0]], 4.0),
        ("mean", [1.0, 3.0], [[1.0, 1.0], [2.0, 0.0]], 40 / 8),
        ("sum", None, [[1.0, 1.0], [2.0, 0.0]], 16.0),  # the loss itself already has its class weights
        ("mean", [0.0, 0.0], None, 0.0),
        ("mean", None, [[0.0, 0.0], [0.0, 0.0]], 16.0),
    ],
)
def test_by_hand(reduction: str, weight: list | None, mass: list | None, expected: object) -> None:
    value = reduce_loss(
        LOSS,
        reduction,
        None if weight is None else torch.tensor(weight),
        mass=None if mass is None else torch.tensor(mass),
    )
    torch.testing.assert_close(value, torch.tensor(expected))


def test_weights_in_half_precision_do_not_narrow_the_loss() -> None:
    assert reduce_loss(LOSS, "mean", torch.ones(2, dtype=torch.float16)).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 2, 1), (1,), ()])
def test_weights_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"sample_weight has shape .*: give one weight a sample, \[2\], or \[2, 2\]"):
        reduce_loss(LOSS, "mean", torch.ones(shape))


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction is 'average': use 'none', 'mean' or 'sum'"):
        reduce_loss(LOSS, "average")


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"targets has shape \[2\], but logits has \[2, 2\]"):
        check_same_shape(LOSS, LOSS[0], ("logits", "targets"))


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float16, 4), (torch.bfloat16, 4), (torch.float64, 8)])
def test_only_half_precision_is_widened(dtype: torch.dtype, expected: int) -> None:
    assert upcast(LOSS.to(dtype)).element_size() == expected


@pytest.mark.parametrize("exponent", [0.01, 0.5, 1.0, 3.0])
def test_a_power_of_zero_has_a_finite_gradient(exponent: float) -> None:
    base = torch.tensor([0.0, 0.25], requires_grad=True)
    safe_pow(base, exponent).sum().backward()
    assert base.grad is not None
    torch.testing.assert_close(base.grad, torch.tensor([0.0, exponent * 0.25 ** (exponent - 1)]))
