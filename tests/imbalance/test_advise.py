"""The rules at their edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dlrecipes.imbalance import Advice, ClassInfo, advise


def of(*counts: int) -> Advice:
    return advise(ClassInfo(counts, sum(counts)))


@pytest.mark.parametrize(
    ("counts", "name"),
    [
        ((100, 100), "none"),
        ((199, 100), "none"),
        ((200, 100), "logit_adjust"),  # 2 : 1
        ((40, 20), "logit_adjust"),  # twenty are not few
        ((38, 19), "class_weights"),
        ((126, 90, 6), "class_weights"),  # the digits
        ((950, 19), "class_weights"),  # 50 : 1
        ((951, 19), "logit_adjust"),  # steeper
        ((5000, 2997, 50), "logit_adjust"),  # CIFAR-10-LT
        ((100, 100, 0), "none"),  # a class without images is no matter of balance
        ((100, 0), "none"),
        ((0, 0), "none"),
        ((7,), "none"),
    ],
)
def test_one_label(counts: tuple[int, ...], name: str) -> None:
    assert of(*counts).name == name


def test_says_why_and_what_it_costs() -> None:
    advice = of(126, 90, 6)
    assert advice.sentence.startswith(
        "class_weights, since the most frequent class has 21 times the images of the rarest (126 and 6), which is "
        "fewer than 20: on digits with 126 and 6"
    )
    assert "it costs no time, but few images weigh much" in advice.sentence
    assert advice.sentence.count(". ") == 0
    assert "mixup_drw may do better" in of(5000, 100).why
    assert "mixup_drw" not in of(4999, 100).why
    assert of(100, 90).cost == ""
    assert of(100, 90).sentence == (
        "none, since classes are balanced: "
        "the most frequent class has 1.11 times the images of the rarest (100 and 90)."
    )


@pytest.mark.parametrize(
    ("counts", "name"),
    [
        ((600, 100), "none"),  # a tenth of the images
        ((600, 99), "asymmetric"),
        ((990, 99), "repeat"),  # 10 : 1
        ((50, 40), "asymmetric"),  # all labels are rare
        ((990, 0), "none"),
    ],
)
def test_several_labels(counts: tuple[int, ...], name: str) -> None:
    advice = advise(ClassInfo(counts, 1000, exclusive=False))
    assert advice.name == name
    assert ("not of a measurement" in advice.why) == (name != "none")


def test_numbers_by_their_skewness() -> None:
    rng = np.random.default_rng(0)
    for values, name in (
        (rng.normal(size=4000), "none"),
        (rng.uniform(size=4000), "none"),
        (rng.exponential(size=4000), "lds"),
        (-rng.exponential(size=4000), "lds"),
        (np.full(30, 3.0), "none"),
    ):
        assert advise(ClassInfo.from_targets(values)).name == name
    for values, side in ((rng.exponential(size=4000), "large"), (-rng.exponential(size=4000), "small")):
        advice = advise(ClassInfo.from_targets(values, bins=400))
        assert f"({stats.skew(values):.1f}" in advice.why
        assert f"{side} values are rare" in advice.why
