"""Which learning rate a sweep speaks for, or that it speaks for none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, median_filter

__all__ = ["LRSuggestion", "suggest_lr"]

_FEWEST = 20  # points
_SMOOTH = 0.04  # width of the smoothing, as a share of the sweep
_SURE = 6.0  # the fall must be so many times the smoothed curve's own noise; pure noise falls by 2 to 5 times
_BACK = 0.5  # decades below the valley's floor: see benchmarks/lr_finder.py for how it was chosen


@dataclass(frozen=True)
class LRSuggestion:
    """What was read off a sweep.

    Attributes:
        lr: the learning rate to begin with; None where the sweep does not tell.
        reason: one sentence: how it was found, or why it was not and what to do.
        smoothed: the curve that was judged, one value for each finite point of the sweep.
    """

    lr: float | None
    reason: str
    smoothed: tuple[float, ...] = ()

    @property
    def sure(self) -> bool:
        """Whether there is a suggestion."""
        return self.lr is not None


def suggest_lr(lrs: Sequence[float], losses: Sequence[float]) -> LRSuggestion:
    """Half a decade below the floor of the loss's valley over log learning rate, or nothing where there is no valley.

    The raw losses are smoothed alike to both sides (a median against outliers, then a Gaussian over log learning
    rate): a running mean would lag, and move the valley to the right. The noise is what is left of the curve's second
    differences. There is a valley if the curve falls by six times the noise that smoothing leaves, begins to fall
    after the sweep begins, and rises again before it ends (or the loss stops being finite).

    Args:
        lrs: rising, evenly spaced in their logarithm.
        losses: of single batches, raw, one for each; may end in NaN or infinity.

    Raises:
        ValueError: two sequences of unlike length, or learning rates that do not rise from above 0.

    Example:
        >>> lrs = np.logspace(-6, 0, 121)
        >>> losses = 2.3 - 1.5 / (1 + (1e-3 / lrs) ** 2) + 40 * lrs**2
        >>> found = suggest_lr(lrs, losses)
        >>> found.sure, bool(3e-4 < found.lr < 3e-2)
        (True, True)
        >>> suggest_lr(lrs, np.full(121, 2.3)).sure
        False
    """
    x, y = _finite_part(lrs, losses)
    cut = len(y) < len(lrs)
    if len(y) < _FEWEST:
        return LRSuggestion(None, f"unsure: only {len(y)} finite losses, {_FEWEST} are needed: begin the sweep lower.")
    smooth, noise = _smooth(y)
    start = float(np.median(smooth[: max(3, len(y) // 10)]))
    ceiling = start + max(abs(start), 1e-12)
    beyond = np.nonzero(smooth > ceiling)[0]
    last = int(beyond[0]) if len(beyond) else len(y)  # a curve that has blown up may come back by chance
    if last < 3:
        return LRSuggestion(None, "unsure: the loss blows up at once: begin the sweep lower.", tuple(smooth))
    floor = int(np.argmin(smooth[:last]))
    fall = start - float(smooth[floor])
    if fall <= _SURE * noise or fall <= 1e-12:
        return LRSuggestion(
            None,
            f"unsure: the loss falls by {max(fall, 0):.3g} and its noise is {noise:.3g}: take larger batches, more "
            "steps, or a wider range.",
            tuple(smooth),
        )
    rises = float(smooth[-1]) - float(smooth[floor]) > max(2 * noise, 0.05 * fall)
    if not (rises or cut or last < len(y)):
        return LRSuggestion(None, "unsure: the loss still falls where the sweep ends: sweep further.", tuple(smooth))
    lr = float(10 ** (x[floor] - _BACK))
    if lr < 10 ** x[0]:
        return LRSuggestion(None, "unsure: the valley is where the sweep begins: begin lower.", tuple(smooth))
    reason = (
        f"lr {lr:.2g}: half a decade below {10 ** x[floor]:.2g}, where the loss is least after falling by {fall:.3g}, "
        f"{fall / noise:.0f} times its noise."
    )
    return LRSuggestion(lr, reason, tuple(smooth))


def _finite_part(lrs: Sequence[float], losses: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """log10 of the learning rates and the losses, up to the first that is not finite."""
    lr, y = np.asarray(lrs, float), np.asarray(losses, float)
    if lr.shape != y.shape or lr.ndim != 1:
        raise ValueError(f"lrs has shape {lr.shape} and losses {y.shape}: one loss for each learning rate is needed")
    if len(lr) and (lr[0] <= 0 or np.any(np.diff(lr) <= 0)):
        raise ValueError("lrs must rise from a number above 0")
    wrong = np.nonzero(~np.isfinite(y))[0]
    end = int(wrong[0]) if len(wrong) else len(y)
    return np.log10(lr[:end]), y[:end]


def _smooth(y: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The curve without its noise, and the standard deviation of the noise that is left in it."""
    width = max(1.5, _SMOOTH * len(y))
    clipped = np.minimum(y, 10 * max(abs(float(np.median(y[: len(y) // 3]))), 1e-12))  # one point must not be all
    smooth = gaussian_filter1d(median_filter(clipped, 5, mode="nearest"), width, mode="nearest")
    third = clipped[: max(_FEWEST, len(y) // 3)]
    bends = third[:-2] - 2 * third[1:-1] + third[2:]
    raw = 1.4826 * float(np.median(np.abs(bends))) / 6**0.5  # the variance of a second difference is six times that
    return smooth, max(raw / (2 * np.pi**0.5 * width) ** 0.5, 1e-9 * (abs(float(y[0])) + 1e-12))
