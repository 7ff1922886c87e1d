import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from dlrecipes.errors import UserError
from dlrecipes.shift import estimate_harm, fit_temperature


def calibrated(rows: int, sharpness: float, seed: int, temperature: float = 1.0) -> tuple[NDArray, NDArray]:
    """Probabilities of four classes and labels that are drawn from them; then made surer or less sure."""
    random = np.random.default_rng(seed)
    logits = sharpness * random.standard_normal((rows, 4))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (random.random(rows)[:, None] > true.cumsum(1)).sum(1).clip(max=3)
    shown = np.exp(logits / temperature)
    return shown / shown.sum(1, keepdims=True), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_is_found(temperature: float) -> None:
    probabilities, labels = calibrated(20_000, 2.0, 0, temperature)
    assert fit_temperature(probabilities, labels) == pytest.approx(1 / temperature, rel=0.05)


def test_more_hard_samples_lower_both_estimates_to_the_accuracy() -> None:
    easy, hard = calibrated(40_000, 60.0, 0, 0.5), calibrated(40_000, 0.7, 1, 0.5)  # shown twice as sure as they are

    def mixture(start: int, easy_ones: int) -> tuple[NDArray, ...]:
        rows = slice(start, start + easy_ones), slice(start, start + 10_000 - easy_ones)
        parts = [tuple(values[piece] for values in sample) for sample, piece in zip((easy, hard), rows, strict=True)]
        return tuple(np.concatenate(values) for values in zip(*parts, strict=True))

    (reference, labels), (new, new_labels) = mixture(0, 8000), mixture(20_000, 5000)
    true = (new.argmax(1) == new_labels).mean()
    harm = estimate_harm(reference, labels, new)
    assert harm.reference_accuracy == pytest.approx((reference.argmax(1) == labels).mean())
    assert harm.reference_accuracy - true > 0.1
    assert harm.accuracy == pytest.approx(true, abs=0.04)
    assert harm.accuracy_by_confidence == pytest.approx(true, abs=0.04)
    assert harm.notable


def test_both_estimates_are_their_definitions() -> None:
    reference, labels = calibrated(300, 2.0, 0)
    new, _ = calibrated(200, 1.0, 1)
    harm = estimate_harm(reference, labels, new)
    old, now = (p ** (1 / harm.temperature) for p in (reference, new))
    old, now = (p / p.sum(1, keepdims=True) for p in (old, now))
    right = int((reference.argmax(1) == labels).sum())
    threshold = np.sort((old * np.log(old)).sum(1))[-right]  # as many reach it as are right
    assert harm.accuracy == pytest.approx(((now * np.log(now)).sum(1) >= threshold).mean())
    assert harm.accuracy_by_confidence == pytest.approx(right / 300 - old.max(1).mean() + now.max(1).mean())


def test_no_shift_no_harm() -> None:
    reference, labels = calibrated(4000, 2.0, 0)
    drops = [estimate_harm(reference, labels, calibrated(1000, 2.0, seed)[0]) for seed in range(1, 21)]
    assert sum(harm.notable for harm in drops) <= 2
    errors = np.array([harm.drop / harm.standard_error for harm in drops])
    assert abs(errors).max() < 3.5
    same = estimate_harm(reference, labels, reference)
    assert same.drop == pytest.approx(0, abs=1e-3)
    assert same.accuracy_by_confidence == pytest.approx(same.reference_accuracy)


def test_a_model_that_is_always_right_or_wrong() -> None:
    reference, _ = calibrated(50, 2.0, 0)
    assert estimate_harm(reference, reference.argmax(1), reference).accuracy == 1.0
    assert estimate_harm(reference, (reference.argmax(1) + 1) % 4, reference).accuracy == 0.0


def test_estimate_follows_a_real_classifier_to_harder_data() -> None:
    random = np.random.default_rng(0)

    def draw(rows: int, distance: float) -> tuple[NDArray, NDArray]:
        labels = random.integers(0, 2, rows)
        return random.standard_normal((rows, 2)) + distance * labels[:, None], labels

    model = LogisticRegression().fit(*draw(2000, 2.0))
    x, y = draw(2000, 2.0)
    closer = np.concatenate([draw(1000, 2.0)[0], 1.0 + 0.5 * random.standard_normal((3000, 2))])
    harm = estimate_harm(model.predict_proba(x), y, model.predict_proba(closer))
    assert harm.accuracy < harm.reference_accuracy - 0.1
    assert str(harm).startswith(f"estimated accuracy {harm.accuracy:.3f} instead of {harm.reference_accuracy:.3f}")


@pytest.mark.parametrize(
    ("reference", "labels", "new", "message"),
    [
        (np.ones((2, 3)), [0, 1], np.ones((2, 2)), r"\(2, 3\) and \(2, 2\)"),
        (np.ones((2, 3)), [0], np.ones((2, 3)), "labels of shape"),
        (np.ones((2, 3)), [0, 3], np.ones((2, 3)), "label 3 is not among the 3"),
        (np.ones((2, 3)), [0.0, 1.0], np.ones((2, 3)), "float64 labels"),
    ],
)
def test_what_does_not_fit_is_refused(reference: object, labels: object, new: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        estimate_harm(reference, labels, new)
