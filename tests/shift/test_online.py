"""The online detector: statistics against brute force, run length without a shift, delay with one, resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dlrecipes.errors import UserError
from dlrecipes.shift.online import OnlineMMD, run_length_thresholds, window_statistics


def _normal(count: int, seed: int, dim: int = 2) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _gauss(first: Tensor, second: Tensor, sigma: float) -> np.ndarray:
    return np.exp(-((first[:, None] - second[None]).numpy() ** 2).sum(2) / (2 * sigma**2))


def _mmd(window: Tensor, rest: Tensor, sigma: float) -> float:
    """Unbiased MMD², term by term."""
    own, other = _gauss(window, window, sigma), _gauss(rest, rest, sigma)
    w, r = len(window), len(rest)
    return (own.sum() - w) / (w * (w - 1)) + (other.sum() - r) / (r * (r - 1)) - 2 * _gauss(window, rest, sigma).mean()


def test_bootstrapped_statistics_are_those_of_each_window() -> None:
    rows = _normal(30, 0)
    streams = torch.stack([torch.randperm(30, generator=torch.Generator().manual_seed(s))[:8] for s in (1, 2)])
    found = window_statistics(torch.from_numpy(_gauss(rows, rows, 0.7)), streams, 4)
    for b, stream in enumerate(streams):
        rest = rows[[i for i in range(30) if i not in stream.tolist()]]
        expected = [_mmd(rows[stream[t : t + 4]], rest, 0.7) for t in range(1, 5)]
        assert found[b].tolist() == pytest.approx(expected, abs=1e-12)


def test_update_is_the_statistic_of_the_last_samples() -> None:
    reference, stream = _normal(50, 3), _normal(11, 4)
    detector = OnlineMMD(reference, ert=20, window=5, bandwidth=0.9, bootstraps=60, seed=6)
    order = np.random.default_rng((6, 0x73706C6974)).permutation(50)
    rows = reference[torch.from_numpy(order)]
    seen = torch.cat((rows[:5], stream))
    for step, sample in enumerate(stream, start=1):
        alarm = detector.update(sample)
        expected = _mmd(seen[step : step + 5], rows[10:], 0.9)
        assert detector.statistic == pytest.approx(expected, abs=1e-12)
        assert alarm == (expected > detector.thresholds[min(step, 5) - 1])


def test_a_share_of_one_in_ert_exceeds_each_threshold() -> None:
    rows = _normal(80, 7)
    kernel = torch.from_numpy(_gauss(rows, rows, 1.0))
    thresholds = run_length_thresholds(kernel, 10, 4, 2000, seed=1)
    random = np.random.default_rng(99)
    streams = np.stack([random.choice(80, 8, replace=False) for _ in range(2000)])
    alive = window_statistics(kernel, torch.from_numpy(streams), 4)
    for step in range(4):
        exceeds = alive[:, step] > thresholds[step]
        assert exceeds.double().mean().item() == pytest.approx(0.1, abs=0.04)
        alive = alive[~exceeds]


def _run_lengths(repetitions: int, ert: float, most: int, reference: int, window: int) -> list[int]:
    found = []
    for seed in range(repetitions):
        detector = OnlineMMD(_normal(reference, 10_000 + seed), ert=ert, window=window, seed=seed)
        found.append(detector.run(_normal(most, 20_000 + seed)) or most)
    return found


def test_runs_without_a_shift_are_as_long_as_asked_for() -> None:
    lengths = _run_lengths(repetitions=20, ert=30, most=120, reference=100, window=5)
    assert 30 / 1.6 < np.mean(lengths) < 30 * 1.6


@pytest.mark.slow
def test_runs_without_a_shift_are_as_long_as_asked_for_at_length() -> None:
    lengths = _run_lengths(repetitions=200, ert=200, most=2000, reference=500, window=20)
    assert 200 / 1.3 < np.mean(lengths) < 200 * 1.3


def test_a_shift_is_seen_soon() -> None:
    delays = []
    for seed in range(6):
        detector = OnlineMMD(_normal(150, 300 + seed), ert=200, window=10, bootstraps=1000, seed=seed)
        stream = _normal(100, 400 + seed)
        before = detector.run(stream[:20])
        if before is None:
            delays.append(detector.run(stream[20:] + 1.5) or 80)
    assert len(delays) >= 4
    assert np.mean(delays) < 12


def test_state_goes_on_where_it_was_and_reset_begins_anew() -> None:
    reference, stream = _normal(60, 8), _normal(20, 9)
    whole, first, second = (OnlineMMD(reference, ert=20, window=5, bootstraps=60) for _ in range(3))
    expected = [(whole.update(x), whole.statistic) for x in stream]
    found = [(first.update(x), first.statistic) for x in stream[:7]]
    second.load_state_dict(first.state_dict())
    first.update(stream[0])  # what is saved is a copy
    found += [(second.update(x), second.statistic) for x in stream[7:]]
    assert [alarm for alarm, _ in found] == [alarm for alarm, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-12)
    second.reset()
    assert second.steps == 0
    assert (second.update(stream[0]), second.statistic) == expected[0]


def test_wrong_arguments_are_named() -> None:
    reference = _normal(60, 10)
    for arguments, text in (
        ({"ert": 5}, "ert=5"),
        ({"window": 1}, "window=1"),
        ({"bandwidth": 0.0}, "bandwidth=0.0"),
        ({"ert": 100, "bootstraps": 150}, "bootstraps=150"),
    ):
        with pytest.raises(ValueError, match=text):
            OnlineMMD(reference, **arguments)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="60 reference samples for a window of 20"):
        OnlineMMD(reference, ert=20, window=20)
    detector = OnlineMMD(reference, ert=20, window=5, bootstraps=60)
    with pytest.raises(UserError, match="a sample of 3 numbers, 1 of them not finite"):
        detector.update([1.0, 2.0, float("nan")])
