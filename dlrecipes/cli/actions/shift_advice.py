"""What to do about a shift, by what was found: each rule rests on a test, not on a guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dlrecipes.shift.density_ratio import logistic_ratio
from dlrecipes.shift.features import ShiftFeatures
from dlrecipes.shift.report import ShiftReport
from dlrecipes.shift.two_sample_classifier import c2st

__all__ = ["Remedies", "next_steps", "remedies"]

_LEAST_EFFICIENCY = 0.1  # as in density_ratio.importance_weights
_MOST_APART = 0.95  # AUC of a classifier between old and new: beyond, hardly an old image looks like a new one
_CLASSES = 5
_LABELS = 50  # new images to label: twice the standard error of accuracy is .14 at most


@dataclass(frozen=True)
class Remedies:
    """What was tried.

    Attributes:
        entropy: mean entropy of the network's answers as it is, and with batch norms adapted; None: it has none.
        efficiency: effective sample size of density-ratio weights by image properties, as a share of the reference.
        apart: AUC of a classifier that tells old from new images by these properties.
    """

    entropy: tuple[float, float] | None = None
    efficiency: float | None = None
    apart: float | None = None


def remedies(
    report: ShiftReport,
    reference: ShiftFeatures,
    new: ShiftFeatures,
    entropy: tuple[float, float] | None = None,
    *,
    seed: int = 0,
) -> Remedies:
    """Try what can be tried without new labels; nothing where nothing shifted.

    Args:
        report: of the comparison.
        reference, new: what was compared.
        entropy: see ``Remedies``.
        seed: of draws.
    """
    if not report.shifted:
        return Remedies()
    efficiency, apart = _coverage(reference, new, seed)
    return Remedies(entropy, efficiency, apart)


def _coverage(reference: ShiftFeatures, new: ShiftFeatures, seed: int) -> tuple[float | None, float | None]:
    """Efficiency of weights, and the AUC, by what ``dlrecipes reweight`` goes by: image properties."""
    if reference.properties is None or new.properties is None:
        return None, None
    spread = torch.cat((reference.properties, new.properties)).std(0)
    vary = spread > 0
    if not vary.any():
        return None, None
    old, now = (side.properties[:, vary] / spread[vary] for side in (reference, new) if side.properties is not None)
    return logistic_ratio(old, now, seed=seed).efficiency, c2st(old, now, 1, seed).effect


def next_steps(report: ShiftReport, tried: Remedies, *, run: str | None, classes: Sequence[str] = ()) -> list[str]:
    """Sentences, the first thing to do first.

    1. No shift: nothing.
    2. Measure: some labels of new images tell what no estimate can.
    3. Class shares would explain it: look whether they do; then correct the predictions' prior, nothing else.
    4. Adapt the batch norms if the network is surer then; train with density-ratio weights if old images look like new
       ones (weights rest on a tenth of them at least, and a classifier does not tell the two apart with an AUC above
       .95), and collect labels if they do not.
    5. Look where the images come from.

    Args:
        report: of the comparison.
        tried: of ``remedies``.
        run: run folder, for commands to type; None: compared without a network.
        classes: names.
    """
    if not report.shifted:
        return ["Nothing: no shift is seen. Fewer images see less: compare again when there are more."]
    if run is None:
        return [
            "Look at the most shifted images. If they are what the network will meet, repeat this with --run RUN: "
            "that estimates what they cost.",
            *_by_weights(report, tried),
            *_by_property(report),
        ]
    steps = [_by_labels(report, run), *_by_shares(report, classes)]
    if tried.entropy is not None and tried.entropy[1] < tried.entropy[0]:
        steps.append(
            f"Adapt the batch norms: with statistics of the new images the network is surer of them (mean entropy "
            f"{tried.entropy[0]:.3g} → {tried.entropy[1]:.3g}): dlrecipes.shift.adapt_bn(model, batches)."
        )
    elif tried.entropy is not None:
        steps.append("Leave the batch norms alone: with statistics of the new images the network is less sure of them.")
    return [*steps, *_by_weights(report, tried), *_by_property(report)]


def _by_labels(report: ShiftReport, run: str) -> str:
    error = np.sqrt(0.25 / _LABELS)
    why = "it is not estimated here" if report.harm is None else "estimates alone decide nothing"
    return (
        f"Measure what it costs, since {why}: draw {_LABELS} of the new images at random, look at them, and count how "
        f"many are right in the table that dlrecipes predict {run} NEW writes: the accuracy, ± {2 * error:.2f} at most."
    )


def _by_shares(report: ShiftReport, classes: Sequence[str]) -> list[str]:
    if not report.explained_by_labels or report.label_shift is None:
        return []
    shares = report.label_shift
    order = np.argsort(-np.abs(shares.shares - shares.reference_shares))[:_CLASSES]
    moved = ", ".join(
        f"{classes[i] if i < len(classes) else i} {shares.reference_shares[i]:.0%} → {shares.shares[i]:.0%}"
        for i in order
    )
    return [
        f"Other class shares would explain it ({moved}, by BBSE): look whether classes have these. If so, correct "
        "predictions with dlrecipes.shift.adjust_predictions(probabilities, old shares, new shares), and do not adapt "
        "batch norms, which would take other classes for another light.",
        "If classes are as common as before, go on:",
    ]


def _by_weights(report: ShiftReport, tried: Remedies) -> list[str]:
    """Weights need old images that look like new ones, and image properties that show what moved."""
    if tried.efficiency is None:
        return []
    test = report.test("C2ST")
    aucs = [0.5 if test is None else test.effect, 0.5 if tried.apart is None else tried.apart]
    if tried.efficiency < _LEAST_EFFICIENCY or max(aucs) > _MOST_APART:
        return [
            "Collect labels of new images, the most shifted first: the reference hardly covers them (a classifier "
            f"tells the two apart with an AUC of {max(aucs):.2f}; density-ratio weights by image properties would rest "
            f"on {tried.efficiency:.1%} of it in effect)."
        ]
    if report.culprits and not any(culprit.kind == "image property" for culprit in report.culprits):
        return [
            "Collect labels of new images, the most shifted first: what moved is no image property, by which "
            "dlrecipes reweight would weigh old ones."
        ]
    return [
        f"Or train again with weights that make old images stand for new ones (by image properties they rest on "
        f"{tried.efficiency:.0%} of the reference in effect): dlrecipes reweight TRAINING_DATA NEW."
    ]


def _by_property(report: ShiftReport) -> list[str]:
    named = [culprit.name for culprit in report.culprits if culprit.kind == "image property"][:3]
    if not named:
        return []
    return [
        f"Ask where the images come from: {', '.join(named)} moved, which a camera, a light, a codec or a resize "
        "changes; if that cannot be put right at the source, train with such variation (--data.augment strong)."
    ]
