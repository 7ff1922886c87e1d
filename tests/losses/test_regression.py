"""What a task asks of a regression loss, and arguments out of range."""

import math

import pytest
import torch

from dlrecipes.losses import (
    CIoULoss,
    GaussianNLLLoss,
    HuberLoss,
    L1Loss,
    LaplaceNLLLoss,
    QuantileLoss,
    SmoothL1Loss,
    TukeyLoss,
)
from dlrecipes.parts import build_part, part_spec


def test_outputs_per_target() -> None:
    assert [loss.outputs_per_target for loss in (L1Loss(), HuberLoss(), CIoULoss())] == [1, 1, 1]
    assert [loss.outputs_per_target for loss in (GaussianNLLLoss(), LaplaceNLLLoss())] == [2, 2]
    assert QuantileLoss((0.05, 0.25, 0.5, 0.75, 0.95)).outputs_per_target == 5


@pytest.mark.parametrize(
    ("loss", "column"),
    [
        (GaussianNLLLoss(), 0),
        (LaplaceNLLLoss(), 0),
        (QuantileLoss(), 1),
        (QuantileLoss((0.4, 0.9)), 0),
        (QuantileLoss((0.1, 0.45, 0.8)), 1),
    ],
)
def test_point(loss: GaussianNLLLoss | LaplaceNLLLoss | QuantileLoss, column: int) -> None:
    output = torch.arange(4 * 3 * loss.outputs_per_target).reshape(4, 3, loss.outputs_per_target)
    torch.testing.assert_close(loss.point(output), output[:, :, column])


def test_arguments_survive_a_checkpoint() -> None:
    loss = build_part(part_spec(QuantileLoss((0.2, 0.7), reduction="sum")))
    assert (loss.quantiles, loss.reduction) == ((0.2, 0.7), "sum")
    loss = build_part(part_spec(GaussianNLLLoss(beta=0.5, log_variance_range=(-2, 3))))
    assert (loss.beta, loss.log_variance_range) == (0.5, (-2, 3))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (HuberLoss, {"delta": 0.0}, "delta is 0.0"),
        (HuberLoss, {"delta": math.nan}, "delta is nan"),
        (SmoothL1Loss, {"beta": -0.5}, "beta is -0.5"),
        (TukeyLoss, {"c": math.inf}, "c is inf"),
        (QuantileLoss, {"quantiles": ()}, r"quantiles are \(\)"),
        (QuantileLoss, {"quantiles": (0.5, 0.5)}, "ascending"),
        (QuantileLoss, {"quantiles": (0.5, 1.0)}, "strictly between 0 and 1"),
        (GaussianNLLLoss, {"beta": 1.5}, "beta is 1.5"),
        (GaussianNLLLoss, {"log_variance_range": (1.0, -1.0)}, "log_variance_range is"),
        (LaplaceNLLLoss, {"log_scale_range": (1.0,)}, "log_scale_range is"),
        (L1Loss, {"reduction": "average"}, "reduction is 'average'"),
        (CIoULoss, {"reduction": "average"}, "reduction is 'average'"),
    ],
)
def test_arguments_out_of_range_are_named(make: type, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)
