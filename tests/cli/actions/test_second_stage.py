"""What ``dlrecipes second-stage`` says of a run whose training balanced the classes already."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from dlrecipes.cli.actions.second_stage import balance_notes
from dlrecipes.imbalance import FeatureSMOTE
from dlrecipes.losses import BalancedSoftmaxLoss, CrossEntropyLoss

OWN = {"class_path": "dlrecipes.callbacks.DeferredReweighting", "init_args": {"share": 0.5}}
OTHER = {"class_path": "dlrecipes.callbacks.LossEarlyStopping"}


def notes(loss: nn.Module | None = None, part: nn.Module | None = None, **config: Any) -> list[str]:
    data = {"class_path": "dlrecipes.data.ClassificationData", "init_args": config.pop("data", None)}
    task = SimpleNamespace(loss=loss or CrossEntropyLoss(), feature_part=part)
    return balance_notes(task, {"data": data, "imbalance": None, "trainer": {"callbacks": None}, **config}, "crt")


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ({"loss": BalancedSoftmaxLoss()}, "BalancedSoftmaxLoss, which balances"),
        ({"data": {"sampler": "class"}}, "the sampler 'class', which balances"),
        ({"data": {"mix": "remix"}}, "Remix, which balances"),
        ({"part": FeatureSMOTE(4)}, "FeatureSMOTE, which balances"),
        ({"imbalance": "mixup_drw"}, "deferred class weighting, which balances"),
        ({"trainer": {"callbacks": [OTHER, OWN]}}, "deferred class weighting, which balances"),
        ({"trainer": {"callbacks": OWN}}, "deferred class weighting, which balances"),
        ({"imbalance": "drw", "data": {"mix": "remix"}}, "Remix and deferred class weighting, which balance"),
    ],
)
def test_a_training_that_balanced_is_told(given: dict[str, Any], means: str) -> None:
    assert notes(**given) == [f"advice: this run was trained with {means} the classes already; crt does so again."]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"data": {"sampler": "instance", "mix": "mixup"}, "imbalance": "focal"},
        {"part": nn.Identity(), "trainer": {"callbacks": [OTHER]}},
    ],
)
def test_one_that_did_not_is_not(given: dict[str, Any]) -> None:
    assert notes(**given) == []
