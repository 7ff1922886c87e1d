"""Nearest class mean against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from dlrecipes.errors import UserError
from dlrecipes.functional.prototypes import class_means, prototype_logits
from dlrecipes.imbalance.prototypes import NearestClassMean
from dlrecipes.parts import build_part, part_spec

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(4, (60,), generator=GENERATOR)
FEATURES = torch.randn(60, 5, generator=GENERATOR) + torch.eye(5)[LABELS]
QUERIES = torch.randn(30, 5, generator=GENERATOR)


def test_classes_are_scikit_learns() -> None:
    theirs = NearestCentroid().fit(FEATURES.numpy(), LABELS.numpy())
    ncm = NearestClassMean(5, 4)
    ncm.update(FEATURES, LABELS)
    np.testing.assert_allclose(ncm.means.numpy(), theirs.centroids_, rtol=1e-5, atol=1e-6)
    assert ncm(QUERIES).argmax(1).tolist() == theirs.predict(QUERIES.numpy()).tolist()


def test_scores_are_squared_distances_and_keep_their_digits_far_from_zero() -> None:
    means, _ = class_means(FEATURES, LABELS, 4)
    expected = -torch.cdist(QUERIES.double(), means.double()).square().float()
    torch.testing.assert_close(prototype_logits(QUERIES, means), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prototype_logits(QUERIES + 1000, means + 1000), expected, rtol=1e-2, atol=1e-2)


def test_cosine_is_torchs() -> None:
    means, _ = class_means(FEATURES, LABELS, 4)
    expected = torch.nn.functional.cosine_similarity(QUERIES[:, None], means[None], dim=-1) / 0.1
    torch.testing.assert_close(prototype_logits(QUERIES, means, metric="cosine", temperature=0.1), expected)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_batches_in_any_order_give_the_means_of_all(metric: str) -> None:
    whole, parts = NearestClassMean(5, 4, metric=metric), NearestClassMean(5, 4, metric=metric)
    whole.update(FEATURES, LABELS)
    for index in torch.randperm(60, generator=GENERATOR).split(7):
        parts.update(FEATURES[index], LABELS[index])
    torch.testing.assert_close(parts.means, whole.means)
    assert torch.equal(parts.counts, torch.bincount(LABELS, minlength=4))


def test_a_class_that_was_not_seen_is_never_the_answer() -> None:
    ncm = NearestClassMean(5, 6)
    ncm.update(FEATURES, LABELS)
    assert ncm(torch.zeros(3, 5))[:, 4:].isneginf().all()
    assert class_means(FEATURES, LABELS, 6)[0][4:].abs().sum() == 0


def test_a_checkpoint_rebuilds_it() -> None:
    ncm = NearestClassMean(5, 4, metric="cosine", temperature=0.5)
    ncm.update(FEATURES, LABELS)
    again = build_part(part_spec(ncm))
    again.load_state_dict(ncm.state_dict())
    assert torch.equal(again(QUERIES), ncm(QUERIES))


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="metric is 'manhattan'"):
        NearestClassMean(5, 4, metric="manhattan")
    with pytest.raises(ValueError, match="dim=0"):
        NearestClassMean(0, 4)
    with pytest.raises(ValueError, match=r"labels has shape \[3\]"):
        class_means(FEATURES, LABELS[:3], 4)
    with pytest.raises(UserError, match=r"dim=5.*width 3"):
        NearestClassMean(5, 4)(FEATURES[:, :3])
