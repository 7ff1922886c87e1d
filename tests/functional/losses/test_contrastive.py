"""Contrastive losses against pytorch-metric-learning, and what they must be in special cases."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses import balanced_contrastive_loss, supervised_contrastive_loss
from dlrecipes.functional.losses.contrastive import normalise

T = 0.2


@pytest.fixture
def x() -> Tensor:
    return torch.randn(10, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 0, 2, 1, 1, 3, 0, 4, 1])  # 2, 3 and 4 have no positive


def test_value_and_gradient_are_pytorch_metric_learnings(x: Tensor, labels: Tensor) -> None:
    theirs = pytest.importorskip("pytorch_metric_learning.losses").SupConLoss(temperature=T)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    value, expected = supervised_contrastive_loss(mine, labels, temperature=T), theirs(other, labels)
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    torch.testing.assert_close(mine.grad, other.grad)


def test_with_two_views_and_a_label_each_it_is_nt_xent(x: Tensor) -> None:
    """SimCLR's loss, as a cross entropy whose answer is the other view."""
    views = x.reshape(5, 2, 6)
    rows = F.normalize(torch.cat([views[:, 0], views[:, 1]]), dim=1)
    similarity = (rows @ rows.T / T).fill_diagonal_(-torch.inf)
    expected = F.cross_entropy(similarity, (torch.arange(10) + 5) % 10)
    torch.testing.assert_close(supervised_contrastive_loss(views, torch.arange(5), temperature=T), expected)


@pytest.mark.parametrize("chunk", [1, 3, 10, 99])
def test_chunks_change_neither_value_nor_gradient(x: Tensor, labels: Tensor, chunk: int) -> None:
    whole, parts = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = supervised_contrastive_loss(whole, labels, temperature=T)
    value = supervised_contrastive_loss(parts, labels, temperature=T, chunk=chunk)
    torch.testing.assert_close(value, expected)
    expected.backward()
    value.backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_chunks_keep_no_matrix_of_all_similarities(x: Tensor, labels: Tensor) -> None:
    def kept(chunk: int | None) -> int:
        sizes = []

        def save(saved: Tensor) -> Tensor:
            sizes.append(saved.numel())
            return saved

        with torch.autograd.graph.saved_tensors_hooks(save, lambda saved: saved):
            supervised_contrastive_loss(x.clone().requires_grad_(), labels, temperature=T, chunk=chunk)
        return max(sizes)

    assert kept(None) >= 100
    assert kept(2) <= 60  # the embeddings themselves


def test_views_are_rows_of_their_own(x: Tensor) -> None:
    labels = torch.tensor([0, 1, 0, 1, 1])
    views = supervised_contrastive_loss(x.reshape(5, 2, 6), labels, temperature=T, reduction="none")
    rows = supervised_contrastive_loss(x, labels.repeat_interleave(2), temperature=T, reduction="none")
    torch.testing.assert_close(views, rows.reshape(5, 2))
    weight = torch.tensor([1.0, 0.0, 0.0, 0.0, 2.0])
    weighted = supervised_contrastive_loss(x.reshape(5, 2, 6), labels, temperature=T, sample_weight=weight)
    torch.testing.assert_close(weighted, (views.mean(1) * weight).sum() / 3)


def test_given_keys_stand_for_the_other_embeddings(x: Tensor, labels: Tensor) -> None:
    expected = supervised_contrastive_loss(x, labels, temperature=T, reduction="none")
    part = supervised_contrastive_loss(
        x[4:7], labels[4:7], temperature=T, keys=x, key_targets=labels, first_key=4, reduction="none"
    )
    torch.testing.assert_close(part, expected[4:7])


def test_without_a_place_among_the_keys_all_are_compared(x: Tensor, labels: Tensor) -> None:
    queue, queue_labels = x[5:], labels[5:]
    log_p = (F.normalize(x[:1], dim=1) @ F.normalize(queue, dim=1).T / T).log_softmax(1)
    expected = -log_p[0, queue_labels == 0].mean()
    value = supervised_contrastive_loss(x[:1], labels[:1], temperature=T, keys=queue, key_targets=queue_labels)
    torch.testing.assert_close(value, expected)


def test_anchors_without_a_positive_do_not_count(x: Tensor, labels: Tensor) -> None:
    elements = supervised_contrastive_loss(x, labels, temperature=T, reduction="none")
    assert (elements == 0).tolist() == [label in (2, 3, 4) for label in labels.tolist()]
    torch.testing.assert_close(supervised_contrastive_loss(x, labels, temperature=T), elements.sum() / 7)
    assert supervised_contrastive_loss(x, torch.arange(10)).item() == 0


def test_autocast_does_not_round_the_similarities(x: Tensor, labels: Tensor) -> None:
    x = x.float()
    exact = [
        supervised_contrastive_loss(x, labels, temperature=0.01),
        balanced_contrastive_loss(x, labels, x[:5], temperature=0.01),
    ]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = [
            supervised_contrastive_loss(x, labels, temperature=0.01),
            balanced_contrastive_loss(x, labels, x[:5], temperature=0.01),
        ]
    assert exact == rounded


def test_balanced_counts_a_class_once_however_often_it_is_shown(x: Tensor) -> None:
    """Copies of a sample of another class change its members' mean not at all; the plain loss they would."""
    prototypes = x[6:9]
    rows, labels = x[:3], torch.tensor([0, 0, 1])
    more, more_labels = torch.cat([rows, prototypes[1:2].repeat(4, 1)]), torch.tensor([0, 0, 1, 1, 1, 1, 1])
    same = torch.cat([rows[:2], prototypes[1:2]])
    first = balanced_contrastive_loss(same, labels, prototypes, temperature=T, reduction="none")[:2]
    rows = torch.cat([same, more[3:]])
    second = balanced_contrastive_loss(rows, more_labels, prototypes, temperature=T, reduction="none")[:2]
    torch.testing.assert_close(first, second)


def test_balanced_without_rows_of_other_classes_is_a_cosine_classifier(x: Tensor) -> None:
    prototypes, label = x[5:9], torch.tensor([2])
    cosines = F.normalize(x[:1], dim=1) @ F.normalize(prototypes, dim=1).T
    expected = F.cross_entropy(cosines / T, label)
    torch.testing.assert_close(balanced_contrastive_loss(x[:1], label, prototypes, temperature=T), expected)


def test_the_gradient_reaches_the_prototypes(x: Tensor, labels: Tensor) -> None:
    def loss(prototypes: Tensor) -> Tensor:
        return balanced_contrastive_loss(x, labels, prototypes, temperature=T)

    assert torch.autograd.gradcheck(loss, x[:5].clone().requires_grad_())


def test_short_and_long_vectors_get_length_one_and_zeros_stay() -> None:
    x = torch.tensor([[3e-3, 4e-3], [0.0, 0.0], [30.0, 40.0]], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(normalise(x), F.normalize(x, dim=-1))
    (gradient,) = torch.autograd.grad(normalise(x)[:, 0].sum(), x)
    assert gradient[1].tolist() == [0.0, 0.0]
    assert torch.autograd.gradcheck(normalise, x[::2].detach().requires_grad_())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: supervised_contrastive_loss(x[0], y), r"embeddings has shape \[6\]"),
        (lambda x, y: supervised_contrastive_loss(x, y[:4]), r"targets has shape \[4\]"),
        (lambda x, y: supervised_contrastive_loss(x, y.double()), r"targets has .* dtype torch.float64: int64"),
        (lambda x, y: supervised_contrastive_loss(x, y, temperature=0.0), "temperature is 0.0"),
        (lambda x, y: supervised_contrastive_loss(x, y, chunk=0), "chunk is 0"),
        (lambda x, y: supervised_contrastive_loss(x, y, keys=x), r"keys has shape \[10, 6\].*key_targets"),
        (lambda x, y: supervised_contrastive_loss(x, y, reduction="avg"), "reduction is 'avg'"),
        (lambda x, y: balanced_contrastive_loss(x, y, x[:, :3]), r"prototypes has shape \[10, 3\]"),
        (lambda x, y: balanced_contrastive_loss(x, y, x, temperature=0.0), "temperature is 0.0"),
    ],
)
def test_mistakes_are_named(call: object, message: str, x: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match=message):
        call(x, labels)
