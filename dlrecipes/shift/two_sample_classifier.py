"""Classifier two-sample test: if nothing shifted, no classifier tells on unseen rows which sample they are of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlrecipes.functional.permutation import permutation_p_value, permuted_labels
from dlrecipes.functional.precision import full_precision
from dlrecipes.shift.mmd import check_permutations
from dlrecipes.shift.two_sample import Sample, TwoSampleResult, as_samples, pooled

__all__ = ["Classifier", "c2st", "within_fold_wins"]

_FOLDS = 0x666F6C64
_RIDGE = 0.1  # of the training rows: features have variance 1, so that each is shrunk by a tenth
_ROUNDING = 1e-9  # of AUCs that are equal


class Classifier(Protocol):
    """A scikit-learn classifier, with ``decision_function`` or ``predict_proba``."""

    def fit(self, X: Any, y: Any) -> Any:
        """Rows [n, d] and 0 or 1 each."""
        ...


def c2st(
    x: Sample,
    y: Sample,
    permutations: int = 1000,
    seed: int = 0,
    *,
    estimator: Classifier | None = None,
    folds: int = 5,
) -> TwoSampleResult:
    r"""Whether a classifier tells unseen rows of x from rows of y (Friedman, 2003; Lopez-Paz and Oquab, 2017).

    Folds have equal shares of both samples; a classifier that learned from the others ranks the rows of each. The
    statistic is the area under the ROC curve inside the folds, over all folds. p = (1 + k) / (1 + B): labels are
    permuted inside the folds and the classifiers learn anew from each permutation, because AUCs of cross-fitted
    classifiers spread wider than the rank-sum test assumes. Exact at any sample size.

    Without ``estimator``: ridge regression on the labels, from the features and their squares, all of variance 1 (a
    quadratic discriminant). It is linear in the labels, so that all permutations cost one product: time O(B (m + n) d).

    Args:
        x, y: [m, d] and [n, d], numpy or torch.
        permutations: B; with ``estimator``, folds · (B + 1) classifiers are fitted, so take fewer.
        seed: of folds and permutations.
        estimator: any scikit-learn classifier with ``decision_function`` or ``predict_proba``; it is cloned.
        folds: 2 or more; as many as the smaller sample has rows, at most.

    Returns:
        ``statistic`` and ``effect`` are the AUC: .5 is chance.

    Raises:
        UserError: samples that cannot be compared.
        ValueError: permutations or folds out of range.

    Example:
        >>> x = torch.arange(80.0).reshape(40, 2)
        >>> c2st(x, x + 40).rejected(), c2st(x[::2], x[1::2]).rejected()
        (True, False)
    """
    check_permutations(permutations)
    if folds < 2:
        raise ValueError(f"folds={folds}: at least 2 are needed")
    first, second = as_samples(x, y, "c2st")
    rows, labels = pooled(first, second)
    fold = _stratified(labels, min(folds, len(first), len(second)), seed)
    places = [(fold == k).nonzero().flatten() for k in range(int(fold.max()) + 1)]
    labelled = [permuted_labels(labels[place], permutations, seed, stream=k) for k, place in enumerate(places)]
    scores = _ridge_scores(rows, places, labelled) if estimator is None else _fitted(rows, places, labelled, estimator)
    wins = torch.zeros(permutations + 1, dtype=torch.float64, device=rows.device)
    pairs = 0
    for score, label in zip(scores, labelled, strict=True):
        wins += within_fold_wins(score, label)
        ones = int(label[0].sum())
        pairs += ones * (len(label[0]) - ones)
    auc = wins / pairs
    observed = float(auc[0])
    p_value = permutation_p_value(auc, tolerance=_ROUNDING)
    return TwoSampleResult("C2ST", observed, p_value, observed, "AUC", (len(first), len(second)))


def _stratified(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Fold of each row: int64 [N], with each sample dealt out evenly."""
    random = np.random.default_rng((seed, _FOLDS))
    fold = np.empty(len(labels), dtype=np.int64)
    host = labels.cpu().numpy()
    for label in (True, False):
        rows = np.flatnonzero(host == label)
        fold[random.permutation(rows)] = np.arange(len(rows)) % folds
    return torch.from_numpy(fold).to(labels.device)


def within_fold_wins(scores: Tensor, labels: Tensor) -> Tensor:
    """How many pairs of a one and a zero have the one's score above, ties half: float64 [B] (Mann and Whitney, 1947).

    Args:
        scores: [B, n].
        labels: [B, n] of 0 and 1.

    Example:
        >>> within_fold_wins(torch.tensor([[3.0, 2.0, 2.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
        tensor([1.5000], dtype=torch.float64)
    """
    ordered = scores.sort(dim=1).values
    below = torch.searchsorted(ordered, scores)
    not_above = torch.searchsorted(ordered, scores, right=True)
    ranks = (below + not_above).double() / 2  # rows below, and half of those that tie, itself among them
    ones = labels.double().sum(1)
    return (ranks * labels).sum(1) - ones.square() / 2


def _ridge_scores(rows: Tensor, places: list[Tensor], labelled: list[Tensor]) -> Iterator[Tensor]:
    """Scores [1 + B, n] of each fold's rows, by ridge regressions on all the other rows' labels."""
    features = torch.cat((rows, rows.square()), 1)
    features = features - features.mean(0)
    spread = features.square().mean(0).sqrt()
    features = features / torch.where(spread > 0, spread, 1.0)
    ones = [label.double() for label in labelled]
    with full_precision(rows.device):
        products = [one @ features[place] for one, place in zip(ones, places, strict=True)]
        all_products, all_ones = torch.stack(products).sum(0), sum(float(one[0].sum()) for one in ones)
        sums, gram = features.sum(0), features.T @ features
        for place, one, product in zip(places, ones, products, strict=True):
            own = features[place]
            count = len(features) - len(own)
            mean = (sums - own.sum(0)) / count
            share = (all_ones - float(one[0].sum())) / count
            covariance = gram - own.T @ own - count * torch.outer(mean, mean)
            covariance.diagonal().add_(_RIDGE * count)
            cross = all_products - product - count * share * mean
            weights = torch.linalg.solve(covariance, cross.T)
            same, index = torch.unique_consecutive(own, dim=0, return_inverse=True)  # equal rows tie to the last bit
            yield (same @ weights).T[:, index].contiguous()


def _fitted(rows: Tensor, places: list[Tensor], labelled: list[Tensor], estimator: Any) -> Iterator[Tensor]:
    """As ``_ridge_scores``, by clones of a scikit-learn classifier that are fitted to each labelling."""
    from sklearn.base import clone

    data = rows.cpu().numpy()
    index = [place.cpu().numpy() for place in places]
    ones: list[NDArray[np.float32]] = [label.cpu().numpy() for label in labelled]
    for k, own in enumerate(index):
        others = [j for j in range(len(index)) if j != k]
        train = data[np.concatenate([index[j] for j in others])]
        targets = np.concatenate([ones[j] for j in others], axis=1).astype(np.int64)
        scores = np.empty((len(targets), len(own)))
        for row, target in enumerate(targets):
            fitted = clone(estimator).fit(train, target)
            scores[row] = (
                fitted.decision_function(data[own])
                if hasattr(fitted, "decision_function")
                else fitted.predict_proba(data[own])[:, 1]
            )
        yield torch.from_numpy(scores).to(rows.device)
