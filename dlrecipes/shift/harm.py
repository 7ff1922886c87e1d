"""What a shift costs, without labels: a shift that is found need not hurt, and one that hurts is worth stopping for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special
from torch import Tensor

from dlrecipes.errors import UserError

__all__ = ["Harm", "estimate_harm", "fit_temperature"]

_TEMPERATURES = (0.05, 20.0)
_NOTABLE = 0.02  # accuracy: less is hardly worth new data
_SIGMAS = 2.0


@dataclass(frozen=True)
class Harm:
    """Estimated accuracy on new data, and what it was on the reference.

    Attributes:
        reference_accuracy: measured.
        accuracy: estimated by average thresholded confidence.
        accuracy_by_confidence: estimated by the difference of mean confidence, beside it: where the two are far apart,
            believe neither.
        standard_error: of the difference ``drop``, from the numbers of samples alone.
        temperature: that calibrated the probabilities on the reference.
    """

    reference_accuracy: float
    accuracy: float
    accuracy_by_confidence: float
    standard_error: float
    temperature: float

    @property
    def drop(self) -> float:
        """Of accuracy, in 0..1; below 0: the new data is easier."""
        return self.reference_accuracy - self.accuracy

    @property
    def notable(self) -> bool:
        """Whether the drop is at least .02 and two standard errors."""
        return self.drop >= max(_NOTABLE, _SIGMAS * self.standard_error)

    def to_dict(self) -> dict[str, float]:
        """Primitives only."""
        return asdict(self)

    def __str__(self) -> str:
        """One sentence."""
        return (
            f"estimated accuracy {self.accuracy:.3f} instead of {self.reference_accuracy:.3f} "
            f"({-self.drop:+.3f} ± {_SIGMAS * self.standard_error:.3f}; by mean confidence "
            f"{self.accuracy_by_confidence:.3f})"
        )


def fit_temperature(probabilities: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> float:
    """The temperature T that makes softmax(log p / T) most likely (Guo et al., 2017, arXiv:1706.04599): .05 to 20.

    Args:
        probabilities: [n, C].
        labels: int [n].

    Example:
        >>> round(fit_temperature([[0.9, 0.1]] * 4, [0, 0, 0, 1]), 2)  # too sure: right in 3 of 4
        2.0
    """
    logits, index = _logits(_array(probabilities)), _array(labels)

    def loss(log_t: float) -> float:
        scaled = special.log_softmax(logits / np.exp(log_t), axis=1)
        return float(-scaled[np.arange(len(index)), index].mean())

    low, high = np.log(_TEMPERATURES)
    found = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded")
    return float(np.exp(found.x))


def estimate_harm(
    reference_probabilities: ArrayLike | Tensor,
    reference_labels: ArrayLike | Tensor,
    new_probabilities: ArrayLike | Tensor,
) -> Harm:
    """Accuracy on new data without labels, from confidences that are calibrated on labelled reference data.

    Average thresholded confidence (ATC; Garg et al., 2022, arXiv:2201.04234): the share of new samples whose negative
    entropy reaches the threshold that as many reference samples reach as are predicted right. Beside it the difference
    of confidence (Guillory et al., 2021, arXiv:2107.03315): reference accuracy less the fall of the mean confidence.
    Both assume that the model knows when it errs; it does not under every shift, and never for new classes.

    Args:
        reference_probabilities: [n, C], of held-out data of the training distribution.
        reference_labels: int [n].
        new_probabilities: [m, C].

    Raises:
        UserError: probabilities of other shapes, or labels that do not fit them.

    Example:
        >>> reference = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
        >>> harm = estimate_harm(reference, [0, 0, 0, 1], [[0.65, 0.35], [0.95, 0.05]])
        >>> harm.reference_accuracy, harm.accuracy
        (0.75, 0.5)
    """
    reference, labels, new = _array(reference_probabilities), _array(reference_labels), _array(new_probabilities)
    if reference.ndim != 2 or new.ndim != 2 or reference.shape[1] != new.shape[1] or not len(reference) or not len(new):
        raise UserError(
            f"estimate_harm: probabilities are {reference.shape} and {new.shape}: [n, C] and [m, C] are needed"
        )
    if labels.shape != reference.shape[:1] or labels.dtype.kind not in "iu":
        raise UserError(
            f"estimate_harm: {labels.dtype} labels of shape {labels.shape} for {len(reference)} reference samples: one "
            "class number each is needed"
        )
    if labels.min() < 0 or labels.max() >= reference.shape[1]:
        raise UserError(f"estimate_harm: label {labels.max()} is not among the {reference.shape[1]} classes")
    temperature = fit_temperature(reference, labels)
    old, now = (special.softmax(_logits(values) / temperature, axis=1) for values in (reference, new))
    wrong = int((reference.argmax(1) != labels).sum())
    accuracy = 1 - wrong / len(labels)
    score, new_score = _certainty(old), _certainty(now)
    threshold = np.sort(score)[wrong] if wrong < len(score) else np.inf  # as many lie below as are wrong
    estimate = float((new_score >= threshold).mean())
    fall = float(old.max(1).mean() - now.max(1).mean())
    error = np.sqrt(accuracy * (1 - accuracy) / len(labels) + estimate * (1 - estimate) / len(new))
    return Harm(accuracy, estimate, float(np.clip(accuracy - fall, 0, 1)), float(error), temperature)


def _certainty(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = -special.entr(probabilities).sum(1)
    return result


def _logits(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    return np.log(np.clip(probabilities.astype(np.float64), np.finfo(np.float32).tiny, None))


def _array(values: ArrayLike | Tensor) -> NDArray[Any]:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
