r"""Rules that tell from a run's curves what is wrong with its training. Each is a pure function of `Curves`.

L is the training loss, V the validation loss (the negative log-likelihood where it was measured), S the score, all
smoothed by a median of three; L₀ the loss of the first step; σ the `jitter` of a curve. The first that applies is the
diagnosis, since the later ones are often its consequences:

==========================  ==========================================================================================
diverged                    L not finite, or at the end ≥ 1.5 L₀ (3 L₀ without accuracy)
learning rate too high      L of an epoch ≥ 1.15 L₀ (1.3 without accuracy, where L₀ is uncertain), or ≥ 1.08 L₀ and ≥
                            .25 L₀ is left at the end
learning rate too low       L fell by less than 20 % since the first epoch, in small steps (< .3 % of L₀ an epoch) that
                            all go down
noisy                       in the second half σ of V ≥ 12 % of V and σ of S ≥ .012 (8 % and .035; 25 % without S)
label noise suspected       V rose as below; accuracy fell by ≥ .04 and 3 σ from its best, while training accuracy rose
                            by ≥ .1
over-fitting                V rose, and S did not, or training accuracy is ahead by ≥ .25, or by ≥ .14 and V stopped
                            falling
over-confident              V rose, while S held or rose: classes are right, probabilities are not
unfinished                  V ≥ .2 L₀, L fell by ≥ 2 % of L₀; and in the last third of the training came ≥ 25 % of the
                            fall of L and of V, or ≥ 10 % where both fall by ≥ 1 % of L₀ an epoch; S still rises where
                            V < .5 L₀; training accuracy is not .2 behind, as where dropout holds it back
under-fitting               L ≥ .55 L₀ and V ≥ .5 L₀, or both ≥ .4 L₀ and accuracy < .7; and neither falls any more
==========================  ==========================================================================================

V *rose* by ≥ 15 % from its lowest, ≥ 1.5 % of L₀ and 3 σ. A fall *at the end* is measured on a clock of learning rates
(`training_share`), so a curve that is flat because its rate has gone to 0 does not count as one that has arrived.

Training loss and accuracy are measured under augmentation, mixing and dropout, which make them worse than they are on
clean images, never better. So no rule needs them to be good: under-fitting is also asked of the validation loss; a gap
to the training accuracy is a lower bound of the true one; mixed images have no training accuracy, and its rules then do
not apply. What the curves cannot tell: labels so noisy that nothing was learnt by heart look like strong augmentation,
and inputs that do not say more look like under-fitting.

The numbers were set on half of the settings of ``benchmarks/fit_doctor.py`` and checked on the other half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dlrecipes.contracts import Verdict
from dlrecipes.functional.fit_curves import Curves, Series, fall_share, jitter, measured, smooth, training_share

__all__ = [
    "RULES",
    "diagnose",
    "diverged",
    "label_noise",
    "lr_too_high",
    "lr_too_low",
    "noisy",
    "over_confident",
    "over_fitting",
    "under_fitting",
    "unfinished",
]

_SOURCE = "fit doctor"
_FEWEST = 5  # epochs, and validations, that a rule on the course of a curve needs
_STEADY = 0.25  # of the fall in the last third of the training; a straight line has a third there


def diverged(curves: Curves) -> Verdict | None:
    """The loss became infinite, or ended far above where it began."""
    if not len(curves):
        return None
    last, start = float(curves.train_loss[-1]), curves.start
    far = (1.5 if _classes(curves) else 3.0) * start
    if math.isfinite(last) and not (_positive(curves) and len(curves) >= _FEWEST and last >= far):
        return None
    return Verdict(
        source=_SOURCE,
        title="diverged",
        level="warning",
        evidence=f"The training loss began at {start:.3g} and was {last:.3g} in epoch {len(curves)}.",
        advice="Lower the learning rate ten times, warm it up, or clip gradients (--trainer.gradient_clip_val 1).",
    )


def lr_too_high(curves: Curves) -> Verdict | None:
    """The loss went up before it came down, if it did."""
    if len(curves) < _FEWEST or not _positive(curves) or not np.isfinite(curves.train_loss).all():
        return None
    highest = int(np.argmax(curves.train_loss))
    ratio, left = float(curves.train_loss[highest]) / curves.start, _left(curves, curves.train_loss)
    classes = _classes(curves)
    if ratio < (1.15 if classes else 1.3) and not (classes and ratio >= 1.08 and left >= 0.25):
        return None
    return Verdict(
        source=_SOURCE,
        title="learning rate too high",
        level="warning",
        evidence=(
            f"The training loss rose from {curves.start:.3g} at the first step to {curves.train_loss[highest]:.3g} in "
            f"epoch {highest + 1}, and {left:.0%} of it is left."
        ),
        advice="Lower --lr three to ten times, or warm it up over more steps.",
    )


def lr_too_low(curves: Curves) -> Verdict | None:
    """The loss falls steadily, and hardly."""
    if len(curves) < _FEWEST or not _positive(curves):
        return None
    losses = smooth(curves.train_loss)
    done = training_share(curves.lr, len(curves))
    early = curves.train_loss[: int(np.searchsorted(done, 0.9)) + 1]  # later, a schedule lets the rate go to 0
    falls, fell = -np.diff(early), 1 - losses[-1] / curves.train_loss[0]
    a_step = (losses[0] - losses[-1]) / (len(losses) - 1) / curves.start
    steady = len(falls) >= 3 and np.mean(falls > 0) >= 0.8
    if not (steady and 0 < fell < 0.2 and a_step < 0.003):
        return None
    return Verdict(
        source=_SOURCE,
        title="learning rate too low",
        level="advice",
        evidence=(
            f"In {len(curves)} epochs the training loss fell by {fell:.1%}, from {curves.train_loss[0]:.3g} to "
            f"{losses[-1]:.3g}, a little in nearly every epoch."
        ),
        advice="Raise --lr ten times; if the loss then rises at first, go back halfway.",
    )


def noisy(curves: Curves) -> Verdict | None:
    """Validation jumps from one epoch to the next, by more than the whole run gains there."""
    losses, scores = measured(curves.val_loss)[1], measured(curves.score)[1]
    if len(losses) < 2 * _FEWEST:
        return None
    late = losses[len(losses) // 2 :]
    of_loss = jitter(late) / max(abs(float(np.median(late))), 1e-12)
    of_score = jitter(scores[len(scores) // 2 :]) / (1.0 if curves.bounded else _size(scores))
    if len(scores) >= 2 * _FEWEST:
        if not (of_loss >= 0.12 and of_score >= 0.012) and not (of_loss >= 0.08 and of_score >= 0.035):
            return None
        also = f", and {curves.score_name} by {of_score:.1%}" if curves.bounded else ""
    elif of_loss < 0.25:
        return None
    else:
        also = ""
    return Verdict(
        source=_SOURCE,
        title="noisy",
        level="advice",
        evidence=f"From one validation to the next the loss jumps by {of_loss:.0%} of itself{also}.",
        advice=(
            "The best epoch is partly luck: take a larger batch, a smaller --lr at the end or an average of the "
            "weights (--ema 0.99), and more validation images."
        ),
    )


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
    rise, gap = _rise(curves), _gap(curves)
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
    errors = measured(curves.ece)[1]
    calibration = f"; the calibration error is {errors[-1]:.3f}" if len(errors) else ""
    return Verdict(
        source=_SOURCE,
        title="over-confident",
        level="advice",
        evidence=(
            f"The validation loss rose by {rise:.0%} since epoch {where[best] + 1}, while {curves.score_name} went "
            f"from {_shown(curves, scores[min(best, len(scores) - 1)])} to {_shown(curves, scores[-1])}{calibration}."
        ),
        advice=(
            "What is found is as right as before, how sure it is is not: use best_loss.ckpt where probabilities "
            "count, or label smoothing or mixing."
        ),
    )


def unfinished(curves: Curves) -> Verdict | None:
    """Training and validation loss still fall when the run ends."""
    where, losses = measured(curves.val_loss)
    if len(where) < _FEWEST or len(curves) < _FEWEST or not math.isfinite(curves.start):
        return None
    done, scale = training_share(curves.lr, len(curves)), max(abs(curves.start), 1e-12)
    paces, shares = [], []
    for epochs, values in ((np.arange(len(curves)), smooth(curves.train_loss)), (where, smooth(losses))):
        middle = len(values) // 2
        paces.append((values[middle] - values[-1]) / (epochs[-1] - epochs[middle]) / scale)
        shares.append(fall_share(values, done[epochs], curves.start))
    fell = curves.start - smooth(curves.train_loss)[-1]
    fast, steady = min(paces) >= 0.01 and min(shares) >= 0.1, min(shares) >= _STEADY
    left, gap = losses[-1] / curves.start, _gap(curves)
    if left < 0.2 or fell < 0.02 * scale or not (fast or steady) or (gap is not None and gap <= -0.2):
        return None
    if left < 0.5 and not _score_rises(curves):
        return None
    return Verdict(
        source=_SOURCE,
        title="unfinished",
        level="advice",
        evidence=(
            f"In the last half of the {len(curves)} epochs the validation loss fell by {paces[1]:.1%} of the first "
            f"step's loss an epoch, to {losses[-1]:.3g}, and was still falling at the end."
        ),
        advice="Train longer: double --epochs, and see whether the last third still brings as much.",
    )


def under_fitting(curves: Curves) -> Verdict | None:
    """Neither split is learnt, and nothing moves any more."""
    losses = measured(curves.val_loss)[1]
    if len(losses) < _FEWEST or len(curves) < _FEWEST or not _positive(curves):
        return None
    left, val_left = _left(curves, curves.train_loss), _left(curves, losses)
    score, right = measured(curves.score)[1], measured(curves.accuracy)[1]
    few_right = len(right) > 0 and right.max() < 0.7 and left >= 0.4 and val_left >= 0.4
    if not few_right and (left < 0.55 or val_left < 0.5):
        return None
    reached = f", and {curves.score_name} reached {_shown(curves, float(score.max()))}" if len(score) else ""
    return Verdict(
        source=_SOURCE,
        title="under-fitting",
        level="advice",
        evidence=(
            f"The training loss stands at {left:.0%} and the validation loss at {val_left:.0%} of the first step's "
            f"{curves.start:.3g}{reached}."
        ),
        advice=(
            "See whether the network can learn 8 images by heart (--overfit 8); then take a larger or a pretrained "
            "one, less augmentation, dropout or weight decay. Inputs that do not tell the target look the same."
        ),
    )


RULES: Sequence[Callable[[Curves], Verdict | None]] = (
    diverged,
    lr_too_high,
    lr_too_low,
    noisy,
    label_noise,
    over_fitting,
    over_confident,
    unfinished,
    under_fitting,
)
"""In the order in which they go before one another: causes before their consequences."""


def diagnose(curves: Curves) -> Verdict | None:
    """The first rule that applies; None where nothing is wrong, or where there is too little to judge.

    Args:
        curves: of a run that has ended; of one that goes on, ``unfinished`` is no finding.

    Example:
        >>> rows = [{"epoch": e, "train/loss": 2.3 * 0.8**e, "val/loss": 2.3 * 0.8**e + 0.002 * e * e,
        ...          "val/accuracy": min(0.7, 0.1 * e), "train/accuracy": min(1.0, 0.1 * e)} for e in range(30)]
        >>> verdict = diagnose(Curves.from_rows(rows))
        >>> verdict.title, verdict.level
        ('over-fitting', 'warning')
    """
    return next((verdict for rule in RULES if (verdict := rule(curves)) is not None), None)


def _score_rises(curves: Curves) -> bool:
    """Whether the last third of the validations brought anything; True without a score."""
    scores = measured(curves.score)[1]
    if len(scores) < _FEWEST:
        return True
    smoothed = smooth(scores)
    gain = float(smoothed[-1] - smoothed[(2 * len(smoothed) - 1) // 3])
    return gain >= (0.01 if curves.bounded else 0.01 * _size(scores))


def _classes(curves: Curves) -> bool:
    """Whether classes are told apart: their first loss hardly depends on the batch, that of numbers or boxes does."""
    return len(measured(curves.accuracy)[0]) > 0


def _positive(curves: Curves) -> bool:
    """Whether shares of the first loss mean something: a negative log-likelihood of numbers may be below 0."""
    losses = np.concatenate([measured(curves.train_loss)[1], measured(curves.val_loss)[1]])
    return bool(curves.start > 0 and (not len(losses) or losses.min() >= 0))


def _left(curves: Curves, values: Series) -> float:
    return float(smooth(measured(values)[1])[-1]) / curves.start


def _size(scores: Series) -> float:
    return max(abs(float(np.median(scores))), 1e-12) if len(scores) else 1.0


def _shown(curves: Curves, score: float) -> str:
    return f"{score if curves.bounded else -score:.3g}"


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


def _gap(curves: Curves) -> float | None:
    """How far the training accuracy is ahead; None where one of the two was not measured."""
    validated, trained = measured(curves.accuracy)[1], curves.train_accuracy
    if not len(validated) or not len(trained) or not np.isfinite(trained).all():
        return None
    return float(smooth(trained)[-1] - smooth(validated)[-1])


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
    tolerance = max(0.01 if curves.bounded else 0.02 * _size(scores), 2 * jitter(scores))
    if changed < -2 * tolerance:
        return False
    return True if changed >= tolerance or _gap(curves) is not None else None
