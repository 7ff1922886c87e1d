import numpy as np
import pytest

from dlrecipes.optim import suggest_lr

LRS = np.logspace(-6, 1, 150)


def curve(floor: float = 1e-2, noise: float = 0.0, seed: int = 0, fall: float = 1.5) -> np.ndarray:
    """A plateau of 2.3 that falls towards ``floor``, and a blow-up after it."""
    x = np.log10(LRS / floor)
    clean = 2.3 - fall / (1 + np.exp(-4 * (x + 1))) + 3 * np.maximum(x - 0.2, 0) ** 2
    return clean + noise * np.random.default_rng(seed).standard_normal(len(LRS))


@pytest.mark.parametrize("floor", [1e-4, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_within_a_decade_below_the_floor(floor: float, noise: float) -> None:
    found = [suggest_lr(LRS, curve(floor, noise, seed)) for seed in range(20)]
    right = [s.lr is not None and floor / 20 <= s.lr <= floor * 1.3 for s in found]
    assert sum(right) >= 19


def test_a_blow_up_to_nan_or_infinity_ends_the_valley() -> None:
    for end in (np.nan, np.inf, 1e30):
        losses = curve(1e-2)
        losses[LRS > 0.03] = end
        found = suggest_lr(LRS, losses)
        assert found.lr is not None
        assert 1e-3 < found.lr < 2e-2


def test_one_wild_batch_changes_little() -> None:
    losses = curve(1e-2, 0.05)
    calm = suggest_lr(LRS, losses).lr
    losses[40] = 500.0
    assert suggest_lr(LRS, losses).lr == pytest.approx(calm, rel=0.3)


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        (2.3 + 0.3 * np.random.default_rng(1).standard_normal(150), "noise"),
        (np.full(150, 2.3), "noise"),
        (np.linspace(2.3, 0.5, 150), "still falls"),
        (np.linspace(0.5, 9.0, 150), "begin lower"),
        (np.r_[np.full(10, 2.3), np.full(140, np.nan)], "only 10 finite"),
        (np.r_[2.3, np.full(149, 1e6)], "unsure"),
    ],
)
def test_unsure_rather_than_a_guess(losses: np.ndarray, reason: str) -> None:
    found = suggest_lr(LRS, losses)
    assert not found.sure
    assert found.lr is None
    assert found.reason.startswith("unsure")
    assert reason in found.reason


def test_pure_noise_is_hardly_ever_a_valley() -> None:
    random = np.random.default_rng(0)
    assert sum(suggest_lr(LRS, 2.3 + 0.3 * random.standard_normal(150)).sure for _ in range(200)) <= 2


def test_losses_may_have_any_unit() -> None:
    wanted = suggest_lr(LRS, curve(1e-2, 0.1)).lr
    assert suggest_lr(LRS, 1000 * curve(1e-2, 0.1)).lr == pytest.approx(wanted)


@pytest.mark.parametrize(("lrs", "losses"), [([1, 2], [1]), ([0, 1], [1, 1]), ([2, 1], [1, 1])])
def test_wrong_input_is_named(lrs: list[float], losses: list[float]) -> None:
    with pytest.raises(ValueError, match="lrs"):
        suggest_lr(lrs, losses)
