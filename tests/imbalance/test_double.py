"""Which losses balance, so that a sampler should not."""

import pytest
import torch
from torch import nn

from dlrecipes.imbalance import double_balance
from dlrecipes.losses import BCELoss, CrossEntropyLoss, FocalLoss, LogitAdjustedLoss


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropyLoss(class_weights="inverse"),
        FocalLoss(class_weights=[1.0, 2.0]),
        BCELoss(class_weights="effective"),
        LogitAdjustedLoss(),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0])),
        nn.Sequential(nn.Identity(), LogitAdjustedLoss()),
    ],
)
def test_both_balance(loss):
    text = double_balance("sqrt", loss)
    assert text is not None
    assert text.startswith(f"The sampler ('sqrt') and {type(loss).__name__} both balance")
    assert double_balance("instance", loss) is None


@pytest.mark.parametrize(
    "loss",
    [
        None,
        CrossEntropyLoss(),
        BCELoss(),
        FocalLoss(),
        LogitAdjustedLoss(tau=0.0),
        nn.CrossEntropyLoss(weight=torch.tensor([2.0, 2.0])),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)),
        nn.Sequential(nn.Linear(2, 2), nn.MSELoss()),
    ],
)
def test_only_the_sampler_balances(loss):
    assert double_balance("class", loss) is None
