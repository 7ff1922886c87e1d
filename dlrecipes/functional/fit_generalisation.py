"""Rules on what is learnt of training and validation images: by heart, wrong, or too surely? See `fit_rules`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlrecipes.contracts import Verdict
from dlrecipes.functional.fit_curves import (
    Curves,
    Series,
    accuracy_gap,
    jitter,
    measured,
    score_size,
    score_text,
    smooth,
)

__all__ = ["label_noise", "over_confident", "over_fitting"]

_SOURCE = "fit doctor"
_FEWEST = 5  # validations that a rule needs


def label_noise(curves: Curves) -> Verdict | None:
    """First the true labels are learnt, then the wrong ones by heart, and the accuracy falls again (Arpit et al., 2017,
    arXiv:1706.05394; Liu et al., 2020, arXiv:2007.00151)."""
    where, scores = measured(curves.accuracy)
    trained = curves.train_accuracy
    if len(where) < 2 * _FEWEST or not np.isfinite(trained).all() or _rise(curves) is None:
        return None
    smoothed = smooth(scores)
    best = int(np.argmax(smoothed))
    fell, climbed = smoothed[best] - smoothed[-1], smooth(trained)[-1] - trained[where[best]]
    if fell < max(0.04, 3 * jitter(scores)) or climbed < 0.1:
        return None
    return Verdict(
        source=_SOURCE,
        title="label noise suspected",
        level="warning",
        evidence=(
            f"The validation accuracy was {smoothed[best]:.3f} in epoch {where[best] + 1} and fell to "
            f"{smoothed[-1]:.3f}, while the training accuracy rose from {trained[where[best]]:.3f} to "
            f"{trained[-1]:.3f}: so it goes when wrong labels are learnt by heart."
        ),
        advice=(
            "Look at the most confident mistakes (mistakes.png), mend labels, stop at the best loss (--early-stop 10), "
            "or take a loss for noisy labels (--loss dlrecipes.losses.GeneralizedCrossEntropyLoss)."
        ),
    )


def over_fitting(curves: Curves) -> Verdict | None:
    """The training images are learnt by heart: validation gets worse, or stands still far behind."""
    rise, gap = _rise(curves), accuracy_gap(curves)
    held = _score_since(curves)
    far_behind = gap is not None and (gap >= 0.25 or (gap >= 0.14 and _past_its_best(curves)))
    worse = rise is not None and (held is None or not held) and (gap is None or gap >= 0.14 or held is False)
    if len(measured(curves.val_loss)[1]) < _FEWEST or not (far_behind or worse):
        return None
    where, losses = _judged_loss(curves, smoothed=False)
    best = int(np.argmin(losses))
    ahead = "" if gap is None else f", and the training accuracy is {gap:.3f} ahead of that of validation"
    return Verdict(
        source=_SOURCE,
        title="over-fitting",
        level="warning",
        evidence=(
            f"The validation loss was lowest in epoch {where[best] + 1} with {losses[best]:.3g} and is "
            f"{losses[-1]:.3g} now, while the training loss fell to {smooth(curves.train_loss)[-1]:.3g}{ahead}."
        ),
        advice=(
            "More images are best; then augmentation, mixing, dropout or more --weight-decay, a smaller or a "
            "pretrained network, and a stop at the best loss (--early-stop 10)."
        ),
    )


def over_confident(curves: Curves) -> Verdict | None:
    """The loss rises while the score holds or rises: probabilities go to 0 and 1 faster than they become right."""
    rise = _rise(curves)
    if rise is None or len(measured(curves.score)[1]) < _FEWEST:
        return None
    (where, losses), scores = _judged_loss(curves), smooth(measured(curves.score)[1])
    best = int(np.argmin(losses))
    then, now = (score_text(curves, float(scores[place])) for place in (min(best, len(scores) - 1), -1))
    errors = measured(curves.ece)[1]
    calibration = f"; the calibration error is {errors[-1]:.3f}" if len(errors) else ""
    return Verdict(
        source=_SOURCE,
        title="over-confident",
        level="advice",
        evidence=(
            f"The validation loss rose by {rise:.0%} since epoch {where[best] + 1}, while {curves.score_name} went "
            f"from {then} to {now}{calibration}."
        ),
        advice=(
            "What is found is as right as before, how sure it is is not: use best_loss.ckpt where probabilities "
            "count, or label smoothing or mixing."
        ),
    )


def _judged_loss(curves: Curves, *, smoothed: bool = True) -> tuple[NDArray[np.int64], Series]:
    """Epochs and values of the likelihood where it was measured, otherwise of the loss, which may be another
    thing (smoothed labels, weights)."""
    likelihood = len(measured(curves.nll)[0]) == len(measured(curves.val_loss)[0]) > 0
    where, values = measured(curves.nll if likelihood else curves.val_loss)
    return where, smooth(values) if smoothed else values


def _rise(curves: Curves) -> float | None:
    """By how much the validation loss rose from its lowest, as a share of that; None if it did not really."""
    losses = _judged_loss(curves)[1]
    if len(losses) < _FEWEST:
        return None
    rose, lowest = float(losses[-1] - losses.min()), abs(float(losses.min()))
    real = rose >= 0.15 * lowest and rose >= 0.015 * abs(curves.start) and rose >= 3 * jitter(losses)
    return rose / max(lowest, 1e-12) if real else None


def _past_its_best(curves: Curves) -> bool:
    """Whether the validation loss was lowest before the last tenth of the epochs and is higher now."""
    losses = _judged_loss(curves)[1]
    best = int(np.argmin(losses)) if len(losses) else 0
    return len(losses) >= _FEWEST and best < 0.9 * (len(losses) - 1) and bool(losses[-1] >= 1.01 * losses[best])


def _score_since(curves: Curves) -> bool | None:
    """Whether the score held or rose since the loss was lowest; None without a score, or where it stood still and there
    is no training accuracy to tell what that means."""
    where, scores = measured(curves.score)
    if len(scores) < _FEWEST:
        return None
    epochs, losses = _judged_loss(curves)
    best = int(np.searchsorted(where, epochs[int(np.argmin(losses))]))
    smoothed = smooth(scores)
    changed = float(smoothed[-1] - smoothed[min(best, len(smoothed) - 1)])
    tolerance = max(0.01 if curves.bounded else 0.02 * score_size(scores), 2 * jitter(scores))
    if changed < -2 * tolerance:
        return False
    return True if changed >= tolerance or accuracy_gap(curves) is not None else None
