"""What every two-sample test takes and gives: samples that were looked at, and a result that names what moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlrecipes.errors import UserError
from dlrecipes.functional.permutation import canonical_order
from dlrecipes.functional.words import counted

__all__ = [
    "FeatureShift",
    "Sample",
    "TwoSampleResult",
    "above_zero",
    "adjusted",
    "as_columns",
    "as_samples",
    "by_feature",
    "feature_names",
    "pooled",
]

#: numpy or torch, [n, d] or [n], numbers of any kind
Sample = NDArray[Any] | Tensor | Sequence[Any]

_CULPRIT = 0.05  # what `culprits` goes by; `culprits_at` takes any level


class FeatureShift(NamedTuple):
    """One feature's part in a shift.

    Attributes:
        name: of the feature.
        p_value: corrected for the number of features.
        effect: between 0 and 1: the largest distance of the distribution functions (KS), or Cramér's V (χ²).
    """

    name: str
    p_value: float
    effect: float


@dataclass(frozen=True)
class TwoSampleResult:
    """Outcome of a test of whether two samples are of one distribution.

    Attributes:
        test: which test.
        statistic: what the test computes; large values speak against one distribution.
        p_value: in (0, 1]; at most α with a probability of at most α if nothing shifted.
        effect: how far apart they are, whatever the number of samples.
        effect_name: what kind of number that is.
        sizes: samples in x and in y.
        features: each feature's part, most shifted first; empty for tests of all features together.
        parts: the tests that this one combines.
        note: what else should be known, such as a sample that is all one value.
    """

    test: str
    statistic: float
    p_value: float
    effect: float
    effect_name: str
    sizes: tuple[int, int]
    features: tuple[FeatureShift, ...] = ()
    parts: tuple[TwoSampleResult, ...] = ()
    note: str = ""

    def rejected(self, alpha: float = 0.05) -> bool:
        """Whether p ≤ α.

        Raises:
            ValueError: an α outside (0, 1).
        """
        if not 0 < alpha < 1:
            raise ValueError(f"alpha={alpha}: between 0 and 1 is needed")
        return self.p_value <= alpha

    def culprits_at(self, alpha: float) -> tuple[FeatureShift, ...]:
        """The features whose own corrected p is at most α, most shifted first."""
        return tuple(feature for feature in self.features if feature.p_value <= alpha)

    @property
    def culprits(self) -> tuple[FeatureShift, ...]:
        """``culprits_at(0.05)``."""
        return self.culprits_at(_CULPRIT)

    def to_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return {
            "test": self.test,
            "statistic": self.statistic,
            "p_value": self.p_value,
            "effect": self.effect,
            "effect_name": self.effect_name,
            "sizes": list(self.sizes),
            "features": [feature._asdict() for feature in self.features],
            "parts": [part.to_dict() for part in self.parts],
            "note": self.note,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TwoSampleResult:
        """What ``to_dict`` gave."""
        given = values | {
            "sizes": tuple(values["sizes"]),
            "features": tuple(FeatureShift(**feature) for feature in values["features"]),
            "parts": tuple(cls.from_dict(part) for part in values["parts"]),
        }
        return cls(**given)

    def __str__(self) -> str:
        """One sentence."""
        named = self.culprits
        most = f", most in {named[0].name}" if named else ""
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.test} of {self.sizes[0]} and {self.sizes[1]} samples: p = {self.p_value:.3g}, "
            f"{self.effect_name} {self.effect:.3g}{most}{note}"
        )


def as_samples(x: Sample, y: Sample, test: str) -> tuple[Tensor, Tensor]:
    """Two samples as float64 [n, d] and [m, d] on one device; one number a row is d = 1.

    Raises:
        UserError: samples of other shapes, of different width, of fewer than two rows, or with NaN or infinity.
    """
    device = next((s.device for s in (x, y) if isinstance(s, Tensor)), torch.device("cpu"))
    tensors = []
    for name, sample in (("x", x), ("y", y)):
        values = sample.detach() if isinstance(sample, Tensor) else torch.from_numpy(_numbers(sample, name, test))
        values = values.to(device, torch.float64)
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or values.shape[1] == 0:
            raise UserError(f"{test}: {name} has shape {list(values.shape)}, and rows of numbers [n, d] are needed")
        if len(values) < 2:
            rows = counted(len(values), "row")
            raise UserError(f"{test}: {name} has {rows}, and at least two are needed to test anything")
        if not bool(values.isfinite().all()):
            row, column = (~values.isfinite()).nonzero()[0].tolist()
            raise UserError(
                f"{test}: {name}[{row}, {column}] is {values[row, column].item()}: leave out rows that are not finite"
            )
        tensors.append(values)
    if tensors[0].shape[1] != tensors[1].shape[1]:
        raise UserError(
            f"{test}: x has {tensors[0].shape[1]} features and y {tensors[1].shape[1]}: both must have the same"
        )
    return tensors[0], tensors[1]


def _numbers(sample: Any, name: str, test: str) -> NDArray[np.float64]:
    try:
        return np.ascontiguousarray(sample, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{test}: {name} is not an array of numbers: {error}") from error


def as_columns(x: Sample, y: Sample, test: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As ``as_samples``, for what scipy computes: numpy arrays."""
    first, second = as_samples(x, y, test)
    return first.cpu().numpy(), second.cpu().numpy()


def pooled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """All rows about their mean in an order that is theirs alone, and a bool [n + m] that says which are of x."""
    rows = torch.cat((x, y)) + 0.0  # −0 and 0 are the same number, and must be the same row
    labels = torch.arange(len(rows), device=rows.device) < len(x)
    order = canonical_order(rows)
    rows = rows[order]
    return rows - rows.mean(0), labels[order]


def feature_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """``names``, or ``feature 0`` and on.

    Raises:
        ValueError: not as many names as features.
    """
    if names is not None and len(names) != count:
        raise ValueError(f"names has {len(names)} entries for {count} features")
    return tuple(names) if names is not None else tuple(f"feature {i}" for i in range(count))


def adjusted(p_values: NDArray[np.float64], correction: str) -> NDArray[np.float64]:
    r"""p-values corrected for their number d.

    ``"bonferroni"``: :math:`\min(1, d\,p_i)`. ``"bh"`` (Benjamini and Hochberg, 1995):
    :math:`\min_{j \ge i} \min(1, d\,p_{(j)} / j)` of the sorted ones. The smallest of them is a p-value of all features
    together, that of Bonferroni or of Simes.

    Raises:
        ValueError: another correction.

    Example:
        >>> adjusted(np.array([0.01, 0.02, 0.5]), "bh").tolist()
        [0.03, 0.03, 0.5]
    """
    if correction not in ("bonferroni", "bh"):
        raise ValueError(f"correction={correction!r}: choose 'bonferroni' or 'bh'")
    count = len(p_values)
    if correction == "bonferroni":
        return np.minimum(p_values * count, 1.0)
    order = np.argsort(p_values, kind="stable")
    ranked = p_values[order] * count / np.arange(1, count + 1)
    corrected = np.empty(count)
    corrected[order] = np.minimum.accumulate(ranked[::-1])[::-1].clip(max=1.0)
    return corrected


def by_feature(
    names: Sequence[str], p_values: NDArray[np.float64], effects: NDArray[np.float64]
) -> tuple[FeatureShift, ...]:
    """Features with the largest effect first."""
    order = np.argsort(-effects, kind="stable")
    return tuple(FeatureShift(names[i], float(p_values[i]), float(effects[i])) for i in order)


def above_zero(p_value: float) -> float:
    """A p-value that underflowed is still above 0."""
    return max(float(p_value), math.ulp(0.0))
