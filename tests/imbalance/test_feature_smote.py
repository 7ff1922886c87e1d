"""SMOTE between body and head: what it makes, of whom, and what it never does."""

from collections import deque
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.imbalance import FeatureSMOTE
from dlrecipes.parts import build_part, part_spec

COUNTS = [100, 20, 60, 100]  # classes 1 and 2 are rare, and lack 80 and 40


def info(**changes: Any) -> DataInfo:
    facts: dict[str, Any] = {
        "task": "classification",
        "classes": ("a", "b", "c", "d"),
        "category_ids": (0, 1, 2, 3),
        "class_counts": tuple(COUNTS),
        "num_train": sum(COUNTS),
        "max_objects": 0,
        "image_size": 32,
    }
    return DataInfo(**(facts | changes))


def batch(size: int = 64, seed: int = 0, dim: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (size,), generator=generator)
    return torch.randn(size, dim, generator=generator) + 10 * labels[:, None], labels


def trained(**arguments: Any) -> FeatureSMOTE:
    """With queues that are filled."""
    torch.manual_seed(0)
    smote = FeatureSMOTE(6, class_counts=COUNTS, **arguments)
    for seed in range(4):
        smote(*batch(seed=seed))
    return smote


def test_adds_synthetic_features_of_rare_classes_behind_the_batch() -> None:
    smote, (features, labels) = trained(), batch(seed=9)
    more, classes = smote(features, labels)
    assert more.shape == (96, 6)
    assert torch.equal(more[:64], features)
    assert torch.equal(classes[:64], labels)
    assert set(classes[64:].tolist()) == {1, 2}
    centres = more[64:].mean(1) / 10  # classes lie 10 apart
    assert torch.equal(centres.round().long(), classes[64:])


def test_each_lies_between_two_features_of_its_class() -> None:
    smote = trained(ratio=4.0)
    features, labels = batch(seed=9)
    stored = smote.bank[:-1].clone()
    more, classes = smote(features, labels)
    for made, label in zip(more[64:], classes[64:], strict=True):
        ring = {1: stored[:32], 2: stored[32:]}[int(label)]
        near = torch.cat((features[labels == label], ring))
        near = near[near.any(1)]
        a, b = near[:, None], ring[ring.any(1)]
        way = b - a
        step = ((made - a) * way).sum(-1) / way.square().sum(-1).clamp(min=1e-12)
        off = (a + step.clamp(0, 1)[..., None] * way - made).abs().amax(-1)
        assert off.min() < 1e-4


def test_the_nearest_neighbours_are_gone_to() -> None:
    smote = FeatureSMOTE(1, class_counts=[9, 4], k_neighbors=1, ratio=50.0)
    ring = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    smote(ring, torch.ones(4, dtype=torch.int64))
    more, _ = smote(torch.tensor([[20.0]]), torch.tensor([1]))
    made = more[1:, 0]
    assert not ((made > 1) & (made < 10)).any()
    assert ((made > 0) & (made < 1)).any()
    assert ((made > 11) & (made < 20)).any()  # from the batch to its neighbour


def test_classes_are_drawn_by_what_they_lack() -> None:
    drawn = trained(ratio=60.0)(*batch())[1][64:].bincount(minlength=4)
    total = drawn.sum().item()
    assert drawn[[0, 3]].sum() == 0
    assert stats.chisquare(drawn[[1, 2]].numpy(), [total * 80 / 120, total * 40 / 120]).pvalue > 1e-4


def test_neighbours_and_steps_are_uniform() -> None:
    smote = FeatureSMOTE(1, class_counts=[9, 4], k_neighbors=2, ratio=8000.0)
    smote(torch.tensor([[0.0], [1.0], [3.0]]), torch.ones(3, dtype=torch.int64))
    made = smote(torch.tensor([[50.0]]), torch.tensor([0]))[0][1:, 0]
    # each of three is drawn equally often and goes to either of the others: 0–1, 0–3 and 1–3 a third each
    mixture = lambda x: (x.clip(0, 1) + x.clip(0, 3) / 3 + (x.clip(1, 3) - 1) / 2) / 3  # noqa: E731
    assert stats.kstest(made.numpy(), mixture).pvalue > 1e-4


def test_rows_of_the_batch_are_repeated_until_a_class_has_two() -> None:
    smote = FeatureSMOTE(6, class_counts=COUNTS)
    features, labels = batch()
    only_common = labels.remainder(2).mul(3)  # classes 0 and 3
    for _ in range(2):
        more, classes = smote(features, only_common)
        found = (more[64:, None] == features).all(-1)
        assert found.any(1).all()
        assert torch.equal(classes[64:], only_common[found.long().argmax(1)])


def test_the_queue_keeps_the_last_features_of_each_rare_class() -> None:
    smote = FeatureSMOTE(6, class_counts=COUNTS, queue=5)
    rings = {1: deque(maxlen=5), 2: deque(maxlen=5)}
    for seed, size in enumerate((7, 64, 3, 1, 200, 12)):
        features, labels = batch(size, seed)
        if size == 3:
            labels[0] = -100  # ignored by losses
        smote(features, labels)
        for feature, label in zip(features, labels.tolist(), strict=True):
            if label in rings:
                rings[label].append(feature)
        for place, label in enumerate(rings):
            stored = smote.bank[5 * place : 5 * place + 5]
            kept = stored[: int(smote.pushed[place].clamp(max=5))]
            assert sorted(kept.tolist()) == sorted(feature.tolist() for feature in rings[label])


@pytest.mark.parametrize(("rare", "slots"), [(1.0, [1, 2]), (0.6, [1]), (0.1, [])])
def test_which_classes_are_rare(rare: float, slots: list[int]) -> None:
    smote = FeatureSMOTE(6, class_counts=COUNTS, rare=rare)
    assert smote.class_of_slot.tolist() == slots
    features, labels = smote(*batch())
    assert len(features) == len(labels) == (96 if slots else 64)


def test_nothing_is_added_in_evaluation() -> None:
    smote, (features, labels) = trained().eval(), batch()
    before = {name: value.clone() for name, value in smote.state_dict().items()}
    more, classes = smote(features, labels)
    assert more is features
    assert classes is labels
    assert all(torch.equal(value, before[name]) for name, value in smote.state_dict().items())


def test_the_gradient_goes_to_the_batch_only() -> None:
    torch.manual_seed(0)
    smote = FeatureSMOTE(2, class_counts=[9, 4], ratio=40.0, k_neighbors=1)
    smote(torch.tensor([[0.0, 0.0], [0.0, 1.0]], requires_grad=True), torch.tensor([1, 1]))
    features = torch.tensor([[5.0, 5.0], [1.0, 0.0]], requires_grad=True)
    more, _ = smote(features, torch.tensor([0, 1]))
    more[2:].sum().backward()
    assert features.grad is not None
    assert features.grad[0].tolist() == [0, 0]
    # 1 − u for each that starts from the row of the batch: a third of 80, half each
    assert 4 < features.grad[1, 0] < 27
    assert features.grad[1, 0] == features.grad[1, 1]
    assert not smote.bank.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_keep_their_dtype(dtype: torch.dtype) -> None:
    smote = trained()
    features, labels = batch(seed=3)
    with torch.autocast("cpu", torch.bfloat16):
        more, _ = smote(features.to(dtype), labels)
    assert more.dtype == dtype
    assert smote.bank.dtype == torch.float32


class NoWaiting(TorchFunctionMode):
    """Fails at what would make a GPU's host wait, or a shape depend on the data."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func.__name__ not in {
            "item",
            "tolist",
            "__bool__",
            "nonzero",
            "cpu",
            "__int__",
            "masked_select",
            "unique",
        }
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device() -> None:
    smote = trained()
    features, labels = batch()
    with NoWaiting():
        smote(features, labels)


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu() -> None:
    smote = trained().cuda()
    features, labels = (t.cuda() for t in batch())
    smote(features, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        more, _ = smote(features, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert more.shape == (96, 6)


def test_state_goes_on_exactly() -> None:
    smote = trained()
    twin = FeatureSMOTE(6, class_counts=COUNTS)
    twin.load_state_dict(smote.state_dict())
    results = []
    for part in (smote, twin):
        torch.manual_seed(5)
        results.append(part(*batch(seed=8))[0])
    assert torch.equal(*results)


def test_the_data_brings_the_counts() -> None:
    smote = FeatureSMOTE(6)
    with pytest.raises(UserError, match="must see the training data first"):
        smote(*batch())
    smote.bind(info())
    assert smote.class_of_slot.tolist() == [1, 2]
    assert smote.lack.tolist() == [80, 40]
    assert len(smote(*batch())[0]) == 96


def test_a_checkpoint_rebuilds_it() -> None:
    twin = build_part(part_spec(FeatureSMOTE(6, class_counts=COUNTS, ratio=0.3, queue=7)))
    assert isinstance(twin, FeatureSMOTE)
    assert (twin.dim, twin.class_counts, twin.ratio, twin.queue) == (6, COUNTS, 0.3, 7)


def test_a_head_learns_the_rare_class_from_it() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    labels = (torch.arange(400) % 40 == 0).long()  # 10 of 400
    features = torch.randn(400, 2, generator=generator) + 2.0 * labels[:, None]
    recall = []
    for smote in (None, FeatureSMOTE(2, class_counts=[390, 10], ratio=1.0)):
        head = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
        for step in range(60):
            rows = torch.arange(40) + 40 * (step % 10)
            x, y = (features[rows], labels[rows]) if smote is None else smote(features[rows], labels[rows])
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(x), y).backward()
            optimizer.step()
        recall.append((head(features[labels == 1]).argmax(1) == 1).float().mean().item())
    assert recall[1] >= recall[0] + 0.2


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(4, 3, 8, 8), torch.zeros(4).long(), r"given \[4, 3, 8, 8\].*ghosts.*pooled features"),
        (torch.zeros(4, 5), torch.zeros(4).long(), r"FeatureSMOTE\(dim=6\) was given \[4, 5\]"),
        (torch.zeros(4, 6), torch.zeros(4, 4), r"labels of shape \[4, 4\].*without mixup"),
        (torch.zeros(4, 6), torch.zeros(4), r"dtype torch.float32"),
        (torch.zeros(4, 6), torch.zeros(3).long(), r"labels of shape \[3\]"),
    ],
)
def test_what_cannot_be_used_is_named(features: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FeatureSMOTE(6, class_counts=COUNTS)(features, labels)


@pytest.mark.parametrize(
    "arguments", [{"dim": 0}, {"ratio": 0.0}, {"rare": 1.5}, {"k_neighbors": 0}, {"queue": 1}, {"queue": 2.0}]
)
def test_arguments_are_checked(arguments: dict[str, Any]) -> None:
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        FeatureSMOTE(**({"dim": 6} | arguments))


@pytest.mark.parametrize("changes", [{"task": "multilabel"}, {"classes": ("a",), "class_counts": (3,)}])
def test_other_data_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="FeatureSMOTE"):
        FeatureSMOTE(6, class_counts=COUNTS).bind(info(**changes))
