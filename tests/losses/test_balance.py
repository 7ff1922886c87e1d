"""Losses that learn from the training set how often each class occurs."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from dlrecipes import losses
from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.losses import BCELoss, CrossEntropyLoss, FocalLoss, LogitAdjustedLoss
from dlrecipes.parts import build_part, part_spec

INFO = DataInfo(
    task="classification",
    classes=("cat", "dog", "owl"),
    category_ids=(0, 1, 2),
    class_counts=(60, 30, 10),
    num_train=100,
    max_objects=0,
    image_size=32,
)
LOGITS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])


@pytest.mark.parametrize("cls", [CrossEntropyLoss, FocalLoss])
def test_bind_weighs_classes(cls: type[CrossEntropyLoss] | type[FocalLoss]) -> None:
    loss = cls(class_weights="inverse")
    loss.bind(INFO)
    given = cls(class_weights=[1 / 3, 2 / 3, 2.0])  # of 1/60, 1/30, 1/10, with mean 1
    torch.testing.assert_close(loss(LOGITS, LABELS), given(LOGITS, LABELS))


def test_bind_weighs_positives() -> None:
    loss = BCELoss(class_weights="inverse")
    loss.bind(replace(INFO, task="multilabel"))
    targets = torch.eye(3)[LABELS]
    expected = nn.functional.binary_cross_entropy_with_logits(
        LOGITS, targets, pos_weight=torch.tensor([40 / 60, 70 / 30, 90 / 10])
    )
    torch.testing.assert_close(loss(LOGITS, targets), expected)


def test_bind_again_replaces_the_weights() -> None:
    loss = CrossEntropyLoss(class_weights="inverse")
    loss.bind(INFO)
    loss.bind(replace(INFO, class_counts=(10, 10, 10)))
    torch.testing.assert_close(loss(LOGITS, LABELS), nn.functional.cross_entropy(LOGITS, LABELS))


def test_logit_adjustment_takes_the_counts_as_priors() -> None:
    loss = LogitAdjustedLoss(tau=2.0)
    loss.bind(INFO)
    expected = nn.functional.cross_entropy(LOGITS + 2 * torch.tensor([0.6, 0.3, 0.1]).log(), LABELS)
    torch.testing.assert_close(loss(LOGITS, LABELS), expected)


def test_logit_adjustment_stays_finite_for_a_class_without_samples() -> None:
    loss = LogitAdjustedLoss()
    loss.bind(replace(INFO, class_counts=(60, 40, 0)))
    prior = LogitAdjustedLoss(prior=[60.0, 40.0, 1.0])
    assert torch.isfinite(loss(LOGITS, LABELS))
    torch.testing.assert_close(loss(LOGITS, LABELS), prior(LOGITS, LABELS))


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropyLoss(class_weights="effective"),
        FocalLoss(class_weights="inverse"),
        BCELoss(class_weights="sqrt_inverse"),
        LogitAdjustedLoss(),
    ],
    ids=lambda loss: type(loss).__name__,
)
class TestWhatTheDataDecides:
    def test_unbound_it_says_what_is_missing(self, loss: nn.Module) -> None:
        with pytest.raises(
            UserError, match=rf"^{type(loss).__name__}.* must see the training data first: call loss.bind"
        ):
            loss(LOGITS, LABELS)

    def test_it_travels_with_the_module_and_not_with_its_state(self, loss: nn.Module) -> None:
        bound = copy.deepcopy(loss)
        bound.bind(INFO)
        assert bound.state_dict() == {}
        assert [buffer.shape for buffer in bound.buffers()] == [(3,)]
        assert [buffer.device.type for buffer in copy.deepcopy(bound).to("meta").buffers()] == ["meta"]

    def test_a_checkpoint_rebuilds_it_and_binds_it_again(self, loss: nn.Module) -> None:
        bound = copy.deepcopy(loss)
        bound.bind(INFO)
        again = build_part(part_spec(bound))
        again.bind(DataInfo.from_dict(INFO.to_dict()))
        assert torch.equal(again(LOGITS, LABELS), bound(LOGITS, LABELS))


@pytest.mark.parametrize(
    "loss",
    [CrossEntropyLoss(class_weights=[1.0, 2.0]), BCELoss(class_weights=[1.0, 2.0]), LogitAdjustedLoss(prior=[1, 2])],
)
def test_another_number_of_classes_is_named(loss: nn.Module) -> None:
    with pytest.raises(UserError, match=r"2 .*3.*cat, dog, owl"):
        loss.bind(INFO)
    with pytest.raises(ValueError, match=r"(weight|prior) has shape \[2\]: .* \[3\]"):
        loss(LOGITS, LABELS)


@pytest.mark.parametrize("name", losses.__all__)
def test_each_refuses_the_data_that_it_is_not_for(name: str) -> None:
    """Shapes may fit: a softmax of one output, or three quantiles of three labels, would train and learn nothing."""
    loss = getattr(losses, name)()
    loss.bind(replace(INFO, task="detection"))  # a criterion of boxes may be made of any
    for kind in ("classification", "multilabel", "regression"):
        if kind in type(loss).kinds:
            loss.bind(replace(INFO, task=kind))
        else:
            with pytest.raises(UserError, match=rf"^{name} is not for this data, .*: use dlrecipes\.losses\."):
                loss.bind(replace(INFO, task=kind))


def test_losses_named_as_remedy_are_for_the_data() -> None:
    for kind in ("classification", "multilabel", "regression"):
        wrong = losses.L1Loss() if kind != "regression" else losses.FocalLoss()
        with pytest.raises(UserError) as caught:
            wrong.bind(replace(INFO, task=kind))
        named = re.findall(r"\w+Loss", str(caught.value))[1:]
        assert len(named) >= 3
        for name in named:
            getattr(losses, name)().bind(replace(INFO, task=kind))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropyLoss(class_weights="inverted"), "class_weights='inverted': use 'inverse'"),
        (lambda: CrossEntropyLoss(class_weights=[1.0, -1.0]), r"class_weights=\[1.0, -1.0\]: finite"),
        (lambda: CrossEntropyLoss(class_weights="effective", effective_beta=1.0), "effective_beta=1.0"),
        (lambda: LogitAdjustedLoss(prior=[1.0, 0.0]), r"prior=\[1.0, 0.0\]: finite numbers above 0"),
        (lambda: LogitAdjustedLoss(tau=-1.0), "tau=-1.0"),
    ],
)
def test_arguments_out_of_range_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
