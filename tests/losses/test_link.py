"""What a loss says its logits become probabilities by: the link under which its optimum is the classes' frequencies."""

import pytest
import torch
from timm.loss import BinaryCrossEntropy
from torch import nn

from dlrecipes import losses
from dlrecipes.functional.links import class_probabilities
from dlrecipes.losses.base import link_of

LABELS = torch.tensor([0] * 6 + [1] * 3 + [2])
FREQUENCIES = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)


class Wrapped(nn.Module):
    """A loss of one's own, which declares its link."""

    link = "sigmoid"


def logits_of(loss: nn.Module) -> torch.Tensor:
    """Those of the frequencies, by the loss's own formula."""
    inner = loss.loss if isinstance(loss, losses.ClassBalancedLoss) else loss
    if isinstance(inner, losses.BiTemperedLoss):
        return (FREQUENCIES.pow(1 - inner.t2) - 1) / (1 - inner.t2)  # the logarithm of that temperature
    return FREQUENCIES.log() if link_of(loss) == "softmax" else FREQUENCIES.logit()


@pytest.mark.parametrize(
    "loss",
    [
        losses.CrossEntropyLoss(),
        losses.BCELoss(),
        losses.SigmoidFocalLoss(alpha=None, gamma=0.0),
        losses.AsymmetricLoss(gamma_neg=0.0, clip=0.0),
        losses.ClassBalancedLoss(losses.BCELoss(), class_weights=None),
        losses.BiTemperedLoss(t1=0.8, t2=1.2),
        losses.BiTemperedLoss(t1=1.0, t2=3.0),
        losses.ClassBalancedLoss(losses.BiTemperedLoss(), class_weights=None),
        losses.ClassBalancedLoss(class_weights=None),
        nn.CrossEntropyLoss(),
        BinaryCrossEntropy(smoothing=0.0),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_the_best_constant_logits_are_the_frequencies(loss: nn.Module) -> None:
    logits = logits_of(loss).requires_grad_()
    loss(logits.expand(len(LABELS), 3), LABELS).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-9  # convex in the probabilities, so this is the optimum
    torch.testing.assert_close(class_probabilities(logits, link_of(loss)), FREQUENCIES)


@pytest.mark.parametrize(
    ("loss", "link"),
    [
        (losses.SigmoidFocalLoss(), "sigmoid"),
        (losses.AsymmetricLoss(), "sigmoid"),
        (losses.DistributionBalancedLoss(), "sigmoid"),
        (losses.ClassBalancedLoss(losses.SigmoidFocalLoss()), "sigmoid"),
        (losses.LDAMLoss(), "softmax"),
        (losses.BiTemperedLoss(t2=1.2), "tempered:1.2"),
        (losses.BiTemperedLoss(t2=1.0), "softmax"),
        (losses.ClassBalancedLoss(losses.BiTemperedLoss()), "tempered:1.2"),
        (nn.BCEWithLogitsLoss(), "sigmoid"),
        (Wrapped(), "sigmoid"),
        (None, "softmax"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_link(loss: nn.Module | None, link: str) -> None:
    assert link_of(loss) == link


def test_a_wrapper_hands_on_the_scale_of_cosines() -> None:
    assert losses.ClassBalancedLoss(losses.LDAMLoss(scale=20.0)).logit_scale == 20
    assert losses.ClassBalancedLoss().logit_scale == 1
