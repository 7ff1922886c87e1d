import numpy as np
import pytest
import torch

from dlrecipes.errors import UserError
from dlrecipes.shift import bbse, bbse_test


def draw(prior: list[float], rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and predictions that are right in 70 % and else uniform."""
    random = np.random.default_rng(seed)
    labels = random.choice(len(prior), rows, p=prior)
    wrong = random.random(rows) < 0.3
    return labels, np.where(wrong, random.integers(0, len(prior), rows), labels)


def test_shares_are_found_through_a_model_that_errs() -> None:
    labels, outputs = draw([0.5, 0.3, 0.2], 20_000, 0)
    new_labels, new_outputs = draw([0.1, 0.3, 0.6], 20_000, 1)
    found = bbse(labels, outputs, new_outputs)
    true = np.bincount(new_labels) / 20_000
    np.testing.assert_allclose(found.shares, true, atol=0.02)
    np.testing.assert_allclose(found.weights, true / (np.bincount(labels) / 20_000), atol=0.05)
    assert found.effect == pytest.approx(0.4, abs=0.02)
    assert abs(np.bincount(new_outputs) / 20_000 - true).max() > 0.05  # counting predictions does not do


def test_weights_solve_the_papers_equation() -> None:
    labels, outputs, new = [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0]
    confusion = np.array([[2, 1], [1, 2]]) / 6
    expected = np.linalg.solve(confusion, [2 / 6, 4 / 6])
    np.testing.assert_allclose(bbse(labels, outputs, new).weights, expected.clip(min=0) / (expected.clip(min=0).mean()))
    soft = bbse(labels, np.eye(2)[outputs], torch.from_numpy(np.eye(2)[new]))
    np.testing.assert_allclose(soft.weights, bbse(labels, outputs, new).weights)


def test_predicted_classes_are_tested() -> None:
    _, outputs = draw([0.5, 0.3, 0.2], 300, 0)
    assert bbse_test(outputs, draw([0.2, 0.3, 0.5], 300, 1)[1]).rejected(0.001)
    assert not bbse_test(np.eye(3)[outputs], np.eye(3)[draw([0.5, 0.3, 0.2], 300, 2)[1]]).rejected(0.01)


@pytest.mark.parametrize(
    ("labels", "reference", "new", "message"),
    [
        ([0, 1], [0, 1], [[0.5, 0.5]], "shapes"),
        ([0, 1, 1], [0, 1], [0], "3"),
        ([0, 2], [[0.5, 0.5]] * 2, [[0.5, 0.5]], "from 0 to 2, but outputs have 2"),
        ([0, 0], [0, 1], [0], "class 1 has no reference sample"),
        ([0, 1], [0, 0], [0], "condition number"),
    ],
)
def test_what_cannot_be_estimated_is_refused(labels: object, reference: object, new: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        bbse(labels, reference, new)
