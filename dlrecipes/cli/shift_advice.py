"""What to do about a shift, by what was found: each rule rests on a test, not on a guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dlrecipes.errors import UserError
from dlrecipes.shift.density_ratio import logistic_ratio
from dlrecipes.shift.features import PCA, ShiftFeatures
from dlrecipes.shift.report import ShiftReport, compare

__all__ = ["Remedies", "next_steps", "remedies"]

_FEWEST = 50  # reference images that must be left with the new class shares
_LEAST_EFFICIENCY = 0.1  # as in density_ratio.importance_weights
_MOST_APART = 0.95  # AUC of a classifier between old and new: beyond, hardly an old image looks like a new one
_COMPONENTS = 16  # as in dlrecipes reweight
_CLASSES = 5


@dataclass(frozen=True)
class Remedies:
    """What was tried.

    Attributes:
        label_shift: other class shares explain all: a reference drawn with them is not told apart from the new data.
            None: not tried, since the predicted classes have not moved, or nothing is known of them.
        entropy: mean entropy of the network's answers as it is, and with batch norms adapted; None: it has none.
        efficiency: effective sample size of density-ratio weights, as a share of the reference.
    """

    label_shift: bool | None = None
    entropy: tuple[float, float] | None = None
    efficiency: float | None = None


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
    return Remedies(_explained_by_labels(report, reference, new, seed), entropy, _efficiency(reference, new, seed))


def _efficiency(reference: ShiftFeatures, new: ShiftFeatures, seed: int) -> float | None:
    """Of weights by features, or by properties where there are no features."""
    if reference.embedding is not None and new.embedding is not None:
        pca = PCA.fit(torch.cat((reference.embedding, new.embedding)), _COMPONENTS)
        return logistic_ratio(pca(reference.embedding), pca(new.embedding), seed=seed).efficiency
    if reference.properties is None or new.properties is None:
        return None
    vary = torch.cat((reference.properties, new.properties)).std(0) > 0
    if not vary.any():
        return None
    return logistic_ratio(reference.properties[:, vary], new.properties[:, vary], seed=seed).efficiency


def _explained_by_labels(report: ShiftReport, reference: ShiftFeatures, new: ShiftFeatures, seed: int) -> bool | None:
    """Whether reference images drawn with the estimated class shares are like the new ones."""
    moved = report.test("χ²")
    if report.label_shift is None or reference.labels is None or moved is None or moved.p_value > report.alpha:
        return None
    weights = report.label_shift.weights[reference.labels.cpu().numpy()]
    kept = np.random.default_rng(seed).random(len(weights)) * weights.max() < weights  # rejection: no image comes twice
    if kept.sum() < _FEWEST:
        return None
    drawn = replace(reference.select(torch.from_numpy(kept)), labels=None)
    try:
        return not compare(drawn, new, alpha=report.alpha, permutations=200, seed=seed).shifted
    except UserError:
        return None


def next_steps(report: ShiftReport, tried: Remedies, *, run: str | None, classes: Sequence[str] = ()) -> list[str]:
    """Sentences, the first thing to do first.

    1. No shift: nothing.
    2. Class shares explain it: correct the predictions' prior, nothing else.
    3. Else, with notable or unknown harm: adapt the batch norms if the network is surer then; train with density-ratio
       weights if old images look like new ones (weights rest on a tenth of them at least, and a classifier does not
       tell the two apart with an AUC above .95), and collect labels if they do not.
    4. Harm that is not notable: look at the images, watch on.

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
    steps = []
    if tried.label_shift and report.label_shift is not None:
        shares = report.label_shift
        order = np.argsort(-np.abs(shares.shares - shares.reference_shares))[:_CLASSES]
        moved = ", ".join(
            f"{classes[i] if i < len(classes) else i} {shares.reference_shares[i]:.0%} → {shares.shares[i]:.0%}"
            for i in order
        )
        return [
            f"Classes have other shares, and that alone explains it ({moved}, by BBSE): correct predictions with "
            "dlrecipes.shift.adjust_predictions(probabilities, old shares, new shares).",
            "Do not adapt batch norms: they would take other classes for another light.",
        ]
    if report.harm is not None and not report.harm.notable:
        steps.append("The network is hardly worse on these images: nothing must be done now. Look at the most shifted.")
    if tried.entropy is not None and tried.entropy[1] < tried.entropy[0]:
        steps.append(
            f"Adapt the batch norms: with statistics of the new images the network is surer of them (mean entropy "
            f"{tried.entropy[0]:.3g} → {tried.entropy[1]:.3g}): dlrecipes.shift.adapt_bn(model, batches)."
        )
    elif tried.entropy is not None:
        steps.append("Leave the batch norms alone: with statistics of the new images the network is less sure of them.")
    return [*steps, *_by_weights(report, tried), *_by_property(report)]


def _by_weights(report: ShiftReport, tried: Remedies) -> list[str]:
    """Weights need old images that look like new ones: none are left where a classifier tells all apart."""
    if tried.efficiency is None:
        return []
    test = report.test("C2ST")
    apart = 0.5 if test is None else test.effect
    if tried.efficiency < _LEAST_EFFICIENCY or apart > _MOST_APART:
        return [
            "Collect labels of new images, the most shifted first: the reference hardly covers them (a classifier "
            f"tells the two apart with an AUC of {apart:.2f}; density-ratio weights would rest on "
            f"{tried.efficiency:.1%} of it in effect)."
        ]
    return [
        f"Or train again with weights that make old images stand for new ones (they rest on {tried.efficiency:.0%} of "
        "the reference in effect): dlrecipes reweight TRAINING_DATA NEW."
    ]


def _by_property(report: ShiftReport) -> list[str]:
    named = [culprit.name for culprit in report.culprits if culprit.kind == "image property"][:3]
    if not named:
        return []
    return [
        f"Ask where the images come from: {', '.join(named)} moved, which a camera, a light, a codec or a resize "
        "changes; if that cannot be put right at the source, train with such variation (--data.augment strong)."
    ]
