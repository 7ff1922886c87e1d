"""Per-sample scores against other libraries' distances, p-values against their promise, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torch import Tensor

from dlrecipes.errors import UserError
from dlrecipes.shift.ood import OOD_METHODS, OODScorer, conformal_p_values


def _clusters(count: int, seed: int, *, spread: float = 1.0, shift: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Features of three classes in 6 dimensions, logits that fall with the distance to each class, labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, 3, (3, 6))
    labels = rng.integers(0, 3, count)
    features = centres[labels] + rng.normal(0, spread, (count, 6)) + shift
    logits = 8 - cdist(features, centres)
    return torch.from_numpy(features).float(), torch.from_numpy(logits).float(), torch.from_numpy(labels)


@pytest.mark.parametrize("method", OOD_METHODS)
def test_p_values_are_valid_on_average(method: str) -> None:
    """P(p ≤ α) ≤ α over references and new samples together; and not far below."""
    found = []
    for seed in range(40):
        features, logits, labels = _clusters(120, 1000 + seed)
        scorer = OODScorer(method, k=3, seed=seed).fit(features, logits, labels)
        found.append(scorer.p_values(*_clusters(200, 5000 + seed)[:2]))
    p = torch.cat(found)
    assert 0 < p.min() <= p.max() <= 1
    for alpha in (0.05, 0.1, 0.3):
        rate = (p <= alpha).double().mean().item()
        # the 40 references dominate the noise: each has a rate with variance α (1 − α) / (n + 2)
        assert alpha - 0.035 < rate < alpha + 4 * (alpha * (1 - alpha) / 60 / 40) ** 0.5


@pytest.mark.parametrize("method", OOD_METHODS)
def test_strange_samples_are_told_from_ordinary_ones(method: str) -> None:
    scorer = OODScorer(method).fit(*_clusters(600, 1))
    ordinary, strange = (scorer.scores(*_clusters(200, seed, shift=shift)[:2]) for seed, shift in ((2, 0), (3, 4.0)))
    truth = np.repeat([0, 1], 200)
    assert roc_auc_score(truth, torch.cat((ordinary, strange)).numpy()) > 0.9


def test_conformal_p_is_the_count_with_ties() -> None:
    reference = torch.tensor([3.0, 1.0, 2.0, 2.0])
    scores = torch.tensor([2.0, 0.0, 3.5, float("nan"), float("inf"), -float("inf")])
    expected = [(1 + sum(r >= s for r in reference.tolist())) / 5 for s in (2.0, 0.0, 3.5, 9.0, 9.0, -9.0)]
    assert conformal_p_values(scores, reference).tolist() == expected


def test_knn_is_the_distance_to_the_kth_unit_vector() -> None:
    features, _, _ = _clusters(100, 4)
    scorer = OODScorer("knn", k=4, seed=5).fit(features)
    bank = features[np.random.default_rng((5, 100)).permutation(100)[50:]].double().numpy()
    new = _clusters(30, 6)[0].double().numpy()
    length = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (new, bank)]
    expected = np.sort(cdist(*length), axis=1)[:, 3]
    assert scorer.scores(torch.from_numpy(new).float()).numpy() == pytest.approx(expected, abs=1e-6)


def test_mahalanobis_is_scipys_with_ledoit_and_wolfs_covariance() -> None:
    features, _, labels = _clusters(200, 7)
    scorer = OODScorer("mahalanobis", seed=8).fit(features, labels=labels)
    kept = np.random.default_rng((8, 200)).permutation(200)[100:]
    x, y = features[kept].double().numpy(), labels[kept].numpy()
    means = np.stack([x[y == c].mean(0) for c in range(3)])
    covariance = LedoitWolf(assume_centered=True).fit(x - means[y]).covariance_
    new = _clusters(30, 9)[0]
    expected = (cdist(new.double().numpy(), means, "mahalanobis", VI=np.linalg.inv(covariance)) ** 2).min(1)
    assert scorer.scores(new).numpy() == pytest.approx(expected, rel=1e-8)


def test_energy_is_the_negative_log_sum_at_its_temperature() -> None:
    _, logits, _ = _clusters(50, 10)
    scorer = OODScorer("energy", temperature=2.0).fit(logits=logits)
    expected = -2 * logsumexp(logits.double().numpy() / 2, axis=1)
    assert scorer.scores(logits=logits).numpy() == pytest.approx(expected)
    assert scorer.reference.tolist() == pytest.approx(sorted(expected))


@pytest.mark.parametrize("method", OOD_METHODS)
def test_a_file_gives_the_same_p_values(method: str, tmp_path: Path) -> None:
    features, logits, labels = _clusters(80, 11)
    scorer = OODScorer(method, k=2, temperature=1.5).fit(features, logits, labels)
    scorer.save(tmp_path / "ood.safetensors")
    again = OODScorer.load(tmp_path / "ood.safetensors")
    assert torch.equal(again.p_values(features, logits), scorer.p_values(features, logits))
    assert (again.method, again.k, again.temperature) == (method, 2, 1.5)


def test_what_is_always_zero_or_not_finite_has_an_answer() -> None:
    features, _, labels = _clusters(100, 12)
    features[:, 2] = 0
    for method in ("knn", "mahalanobis"):
        scorer = OODScorer(method).fit(features, labels=labels)
        assert torch.isfinite(scorer.scores(features)).all()
        broken = features[:2].clone()
        broken[0, 0] = float("nan")
        assert scorer.p_values(broken)[0].item() == pytest.approx(1 / 51)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    features, _, _ = _clusters(60, 13)
    for arguments, text in (
        ({"method": "msp"}, "method='msp'"),
        ({"k": 0}, "k=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"calibration": 1.0}, "calibration=1.0"),
    ):
        with pytest.raises(ValueError, match=text):
            OODScorer(**arguments)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has not been fitted"):
        OODScorer().p_values(features)
    with pytest.raises(UserError, match=r"energy needs logits \[n, D\], got none"):
        OODScorer("energy").fit(features)
    with pytest.raises(UserError, match="needs labels"):
        OODScorer("mahalanobis").fit(features)
    with pytest.raises(UserError, match="10 samples to calibrate"):
        OODScorer().fit(features[:20])
    with pytest.raises(UserError, match="row 7 is not"):
        OODScorer().fit(features.index_fill(0, torch.tensor([7]), float("inf")))
    with pytest.raises(UserError, match="does not exist"):
        OODScorer.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(UserError, match="is damaged"):
        OODScorer.load(tmp_path / "text.safetensors")
    save_file({"reference": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="holds no OODScorer"):
        OODScorer.load(tmp_path / "other.safetensors")
