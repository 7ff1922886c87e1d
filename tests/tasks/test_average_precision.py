"""Average precision from histograms against scikit-learn, which keeps every score."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from dlrecipes.tasks.average_precision import AveragePrecision, LabelPrecision, MeanPrecision


def labelled(count: int, classes: int, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    """Probabilities that crowd near 0 and 1, and what is true."""
    generator = torch.Generator().manual_seed(count + classes)
    truth = torch.rand(count, classes, generator=generator) < 0.2
    logits = spread * (torch.randn(count, classes, generator=generator) + 2.0 * truth - 3.0)
    return logits.sigmoid(), truth


def expected(probabilities: Tensor, truth: Tensor) -> np.ndarray:
    return np.array([average_precision_score(t, p) for t, p in zip(truth.T, probabilities.T, strict=True)])


@pytest.mark.parametrize("spread", [0.2, 1.0, 5.0])
@pytest.mark.parametrize(("count", "classes", "tolerance"), [(27, 5, 1e-5), (3000, 5, 2e-4), (500, 1100, 0.03)])
def test_equals_scikit_learn(count: int, classes: int, tolerance: float, spread: float) -> None:
    probabilities, truth = labelled(count, classes, spread)
    metric = AveragePrecision(classes)
    for p, t in zip(probabilities.split(13), truth.split(13), strict=True):
        metric.update(p, t)
    some = slice(None, None, 1 + classes // 100)  # classes from first to last; scikit-learn takes a second for all
    found = metric.compute().numpy()[some]
    np.testing.assert_allclose(found, expected(probabilities[:, some], truth[:, some]), atol=tolerance)


def test_equal_scores_are_one_step_and_the_ends_belong_to_the_range() -> None:
    scores = torch.tensor([0.0, 0.0, 0.25, 0.25, 0.25, 1.0, 1.0, 1e-30])[:, None]
    truth = torch.tensor([1, 0, 1, 0, 0, 1, 0, 0])[:, None]
    metric = AveragePrecision(1)
    metric.update(scores.half(), truth)
    assert metric.compute().item() == pytest.approx(average_precision_score(truth, scores.half().float()), abs=1e-6)


def test_a_class_without_positives_does_not_count() -> None:
    probabilities, truth = labelled(60, 3)
    truth[:, 1] = False
    metric = LabelPrecision(("a", "b", "c"))
    metric.update(probabilities, truth)
    found = metric.compute()
    assert set(found) == {"map", "ap_class/a", "ap_class/c"}
    assert found["map"].item() == pytest.approx(np.nanmean([found["ap_class/a"], found["ap_class/c"]]))
    metric.reset()
    metric.update(probabilities[:1], truth[:1] & False)
    assert metric.compute()["map"].isnan()


def test_one_label_an_image() -> None:
    probabilities = labelled(80, 4)[0].softmax(1)
    labels = torch.arange(80) % 3
    metric = MeanPrecision(4)
    metric.update(probabilities, labels)
    wanted = expected(probabilities[:, :3], torch.nn.functional.one_hot(labels, 4)[:, :3]).mean()
    assert metric.compute().item() == pytest.approx(wanted, abs=5e-4)


def test_a_broken_network_gives_a_number_and_no_index_error() -> None:
    metric = AveragePrecision(2)
    metric.update(torch.full((3, 2), torch.nan), torch.tensor([[1, 0], [0, 1], [0, 0]]))
    assert metric.compute().tolist() == pytest.approx([1 / 3, 1 / 3])


def test_memory_is_bounded() -> None:
    assert AveragePrecision(1000).total.numel() <= 2**21
    assert AveragePrecision(21_000).bins == 200


def test_a_split_of_one_class_has_no_mean_precision() -> None:
    """All its images are positives: a test of 60 good parts and no defect said AUPRC 1.000."""
    metric = MeanPrecision(2)
    metric.update(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([1, 1]))
    assert metric.compute().isnan()
    metric.update(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
    assert metric.compute().isfinite()
