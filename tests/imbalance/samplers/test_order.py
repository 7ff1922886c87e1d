"""The random orders: counts of a fixed sum, and cycles that can be entered anywhere."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from dlrecipes.imbalance.samplers.order import ClassCycles, fixed_sum_counts, generator, label_array


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_floor_or_ceiling_and_add_up(seed):
    random = np.random.default_rng(seed)
    share = random.random(random.integers(1, 40)) ** 4
    share[random.random(len(share)) < 0.2] = 0
    share[0] = 1
    total = int(random.integers(1, 500))
    counts, expected = fixed_sum_counts(share, total, random), share / share.sum() * total
    assert counts.sum() == total
    assert (counts >= np.floor(expected - 1e-5)).all()
    assert (counts <= np.ceil(expected + 1e-5)).all()


def test_counts_are_the_shares_on_average():
    share = np.array([0.03, 0.7, 1.0, 2.5, 0.001])
    draws = np.array([fixed_sum_counts(share, 4, generator(seed, 1)) for seed in range(20_000)])
    expected = share / share.sum() * 4
    part = expected % 1
    error = np.sqrt(part * (1 - part) / len(draws))  # a count is one of two numbers
    assert (np.abs(draws.mean(0) - expected) < 4 * error + 1e-5).all()


def test_whole_expectations_are_met_exactly_for_more_than_2_24():
    counts = np.array([2**24 + 3, 7, 12_345_679])
    for seed in range(50):
        drawn = fixed_sum_counts(counts / counts.sum(), int(counts.sum()), generator(seed, 1))
        assert drawn.tolist() == counts.tolist()


def test_cycles_hold_each_sample_once_and_can_be_entered_anywhere():
    labels = np.array([2, 0, 1, 2, 2, 0, 2, 2, 2] * 2 + [0])
    cycles = ClassCycles(labels, 3, seed=3)
    stop = np.array([2000, 900, 3000])  # over several blocks
    whole = np.split(cycles.take([0, 0, 0], stop), np.cumsum(stop)[:-1])
    for label, order in enumerate(whole):
        members = np.flatnonzero(labels == label)
        rows = order[: len(order) // len(members) * len(members)].reshape(-1, len(members))
        assert (np.sort(rows, axis=1) == members).all()
        possible = math.factorial(len(members))
        assert len({tuple(row) for row in rows.tolist()}) > min(0.9 * possible, 0.9 * len(rows))  # permutations differ
    start, end = np.array([255, 0, 1500]), np.array([1700, 0, 1501])
    pieces = [whole[label][start[label] : end[label]] for label in range(3)]
    assert cycles.take(start, end).tolist() == np.concatenate(pieces).tolist()


def test_every_order_of_a_class_is_equally_likely():
    found = Counter(tuple(ClassCycles(np.zeros(3, np.int64), 1, seed).take([0], [3]).tolist()) for seed in range(3000))
    assert len(found) == 6
    assert stats.chisquare(list(found.values())).pvalue > 1e-4


def test_purposes_and_positions_are_independent():
    numbers = {generator(*place).random() for place in ((0, 1), (0, 2), (1, 1), (0, 1, 1), (0, 1, 2), (0, 2, 1))}
    assert len(numbers) == 6


def test_an_empty_class_is_named():
    with pytest.raises(ValueError, match="class 1 of 4 has no sample \\(2 such"):
        ClassCycles(np.array([0, 2]), 4, seed=0)
    with pytest.raises(ValueError, match="labels has 2, but num_classes=2"):
        ClassCycles(np.array([0, 2]), 2, seed=0)


@pytest.mark.parametrize("labels", [[1, 0, 2], (1, 0, 2), np.array([1, 0, 2], np.uint8), torch.tensor([1, 0, 2])])
def test_takes_labels_in_any_form(labels):
    found = label_array(labels)
    assert found.dtype == np.int64
    assert found.tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [([], "shape"), ([[0, 1]], "shape"), ([0.5], "whole numbers"), ([0, -1], "has -1"), (["cat"], "whole numbers")],
)
def test_refuses_what_are_no_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        label_array(labels)
