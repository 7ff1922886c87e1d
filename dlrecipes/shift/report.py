"""The whole answer about new data: has it shifted, how far, what it costs, what moved, which samples show it most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dlrecipes.contracts import Verdict
from dlrecipes.errors import UserError
from dlrecipes.shift.features import PCA, ShiftFeatures
from dlrecipes.shift.harm import HARM_CAVEAT, Harm, estimate_harm
from dlrecipes.shift.ks import ks_test
from dlrecipes.shift.label_shift import LabelShift, bbse, bbse_test
from dlrecipes.shift.mmd import mmd_test, mmd_witness
from dlrecipes.shift.properties import PROPERTIES
from dlrecipes.shift.two_sample import TwoSampleResult
from dlrecipes.shift.two_sample_classifier import c2st

__all__ = ["Culprit", "ShiftReport", "compare"]

_FEWEST = 50  # reference samples that must be left with the new class shares


class Culprit(NamedTuple):
    """One thing that moved.

    Attributes:
        name: such as ``"brightness"``, ``"confidence"`` or ``"component 3"`` of the network's features.
        kind: ``"image property"``, ``"prediction"`` or ``"feature"``.
        p_value: of the Kolmogorov-Smirnov test, corrected for all that was tested.
        effect: its distance D, 0 to 1.
        reference, new: medians.
    """

    name: str
    kind: str
    p_value: float
    effect: float
    reference: float
    new: float

    def __str__(self) -> str:
        way = "higher" if self.new > self.reference else "lower"
        return f"{self.name} {way} ({self.reference:.3g} → {self.new:.3g}, D {self.effect:.2f})"


@dataclass(frozen=True, kw_only=True)
class ShiftReport:
    """What ``compare`` found.

    Attributes:
        alpha: level of the verdict.
        p_value: of the verdict: twice the smaller p of KS and MMD.
        tests: all tests, those of the verdict (KS and MMD) first; behind them C2ST, and χ² of the predicted classes
            where there are any, which explain and have no part in the verdict.
        culprits: what moved at ``alpha``: image properties first, then predictions, then features, each with the
            largest effect first; nothing if nothing shifted.
        most_shifted: positions of the new samples that look least like the reference, by the MMD's witness function.
        witness: their values of it.
        harm: estimated accuracy; None without probabilities, or without labels of the reference that fit them.
        label_shift: class shares that would explain the predictions if only they had moved; None where ``harm`` is, or
            where they cannot be estimated.
        explained_by_labels: they would explain all: a reference drawn with them is not told apart from the new data,
            and one as large with the old shares is. None: not tried, since nothing shifted, the predicted classes have
            not moved, too few samples are left, or nothing is known of them.
        sizes: samples of reference and new data.
    """

    alpha: float
    p_value: float
    tests: tuple[TwoSampleResult, ...]
    culprits: tuple[Culprit, ...]
    most_shifted: tuple[int, ...]
    witness: tuple[float, ...]
    harm: Harm | None
    label_shift: LabelShift | None
    sizes: tuple[int, int]
    explained_by_labels: bool | None = None

    @property
    def shifted(self) -> bool:
        """Whether p ≤ α."""
        return self.p_value <= self.alpha

    def test(self, name: str) -> TwoSampleResult | None:
        """The test of that name: ``"KS"``, ``"MMD"``, ``"C2ST"`` or ``"χ²"``; None: it was not made."""
        return next((test for test in self.tests if test.test == name), None)

    @property
    def effect(self) -> float:
        """MMD² between reference and new data."""
        return next(test.effect for test in self.tests if test.test == "MMD")

    @property
    def verdict(self) -> Verdict:
        """``ok``: no shift is seen; ``warning``: by one estimate at least it hurts; ``advice``: any other shift."""
        sizes = f"{self.sizes[1]} new samples against {self.sizes[0]}"
        if not self.shifted:
            return _verdict("no shift seen", "ok", f"p = {self.p_value:.2g} over {sizes}.")
        named = f" Most moved: {'; '.join(map(str, self.culprits[:3]))}." if self.culprits else ""
        evidence = f"p = {self.p_value:.2g} over {sizes}, MMD² {self.effect:.3g}.{named}"
        advice = "Look at the most shifted samples before you trust the model on them."
        if self.harm is None:
            return _verdict("shifted, harm unknown", "advice", evidence, advice)
        evidence += f" {str(self.harm)[0].upper()}{str(self.harm)[1:]}. {HARM_CAVEAT}"
        level: Literal["advice", "warning"] = "warning" if self.harm.notable else "advice"
        if self.harm.unclear:
            return _verdict(f"shifted, harm unclear (accuracy {self.harm.range} by estimate)", level, evidence, advice)
        title = (
            "shifted, and accuracy seems to fall" if self.harm.notable else "shifted, with no notable harm by estimate"
        )
        return _verdict(title, level, evidence, advice)

    def __str__(self) -> str:
        """Verdict, evidence and advice."""
        return str(self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """Primitives only, for JSON."""
        shares = self.label_shift
        return {
            "alpha": self.alpha,
            "p_value": self.p_value,
            "shifted": self.shifted,
            "tests": [test.to_dict() for test in self.tests],
            "culprits": [culprit._asdict() for culprit in self.culprits],
            "most_shifted": list(self.most_shifted),
            "witness": list(self.witness),
            "harm": self.harm.to_dict() if self.harm else None,
            "label_shift": shares.to_dict() if shares else None,
            "explained_by_labels": self.explained_by_labels,
            "sizes": list(self.sizes),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ShiftReport:
        """What ``to_dict`` gave."""
        return cls(
            alpha=values["alpha"],
            p_value=values["p_value"],
            tests=tuple(map(TwoSampleResult.from_dict, values["tests"])),
            culprits=tuple(Culprit(**culprit) for culprit in values["culprits"]),
            most_shifted=tuple(values["most_shifted"]),
            witness=tuple(values["witness"]),
            harm=Harm(**values["harm"]) if values["harm"] else None,
            label_shift=LabelShift.from_dict(values["label_shift"]) if values["label_shift"] else None,
            sizes=tuple(values["sizes"]),
            explained_by_labels=values.get("explained_by_labels"),  # not in earlier reports
        )


def _verdict(title: str, level: Literal["ok", "advice", "warning"], evidence: str, advice: str = "") -> Verdict:
    return Verdict(source="covariate shift", title=title, level=level, evidence=evidence, advice=advice)


class _Columns(NamedTuple):
    """What is tested feature by feature: float64 [n, K] and [m, K], with a name and a kind for each column."""

    names: list[str]
    kinds: list[str]
    first: Tensor
    second: Tensor


class _Decision(NamedTuple):
    """The two tests of the verdict, and what they were made on: columns for KS, [n, k] and [m, k] for MMD."""

    columns: _Columns
    first: Tensor
    second: Tensor
    ks: TwoSampleResult
    mmd: TwoSampleResult

    @property
    def p_value(self) -> float:
        return min(1.0, 2 * min(self.ks.p_value, self.mmd.p_value))


def compare(
    reference: ShiftFeatures,
    new: ShiftFeatures,
    *,
    alpha: float = 0.05,
    permutations: int = 1000,
    seed: int = 0,
    components: int = 32,
    pca: PCA | None = None,
    properties: Sequence[str] = PROPERTIES,
    most: int = 16,
) -> ShiftReport:
    """Whether new data is of the reference's distribution, by what both ``ShiftFeatures`` have.

    The verdict: KS of every image property, the confidence and every principal component of the features at α/2, and
    MMD of the components (of the properties, each of variance 1, where there are no features) at α/2. The components
    are those of both samples together, which treats them alike, so that the verdict is wrong in at most α of all cases
    without a shift. The reference must be data that the network was not trained on: it knows what it was trained on.

    Where other class shares explain all that shifted, ``harm`` is without transport, which takes the old ones for
    granted.

    Args:
        reference: of held-out data, with labels for ``harm``.
        new: of the data in question.
        alpha: level of the verdict.
        permutations, seed: of MMD and C2ST.
        components: of the features, at most.
        pca: fitted to other rows than these; None: fitted to these.
        properties: names of the properties' columns.
        most: how many of the most shifted samples to name.

    Raises:
        UserError: nothing that both have, other widths, too few rows or numbers that are not finite.
        ValueError: alpha, permutations, components or names out of range.

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> reference, new = torch.randn(90, 4, generator=random), torch.randn(60, 4, generator=random)
        >>> new[:, 1] += 2
        >>> report = compare(
        ...     ShiftFeatures(properties=reference), ShiftFeatures(properties=new), properties=("a", "b", "c", "d")
        ... )
        >>> report.shifted, [culprit.name for culprit in report.culprits]
        (True, ['b'])
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha}: between 0 and 1 is needed")
    decide = partial(_decide, components=components, pca=pca, properties=properties, seed=seed)
    found = decide(reference, new, permutations=permutations)
    tests = [found.ks, found.mmd, c2st(found.first, found.second, permutations, seed)]
    if reference.probabilities is not None and new.probabilities is not None:
        tests.append(bbse_test(reference.probabilities, new.probabilities, seed=seed))
    witness = mmd_witness(found.first, found.second, seed=seed)
    top = witness.topk(min(most, len(witness)))
    index = top.indices if new.index is None else new.index.to(top.indices.device)[top.indices]
    harm, label_shift = _cost(reference, new)
    explained: bool | None = None
    if found.p_value <= alpha and label_shift is not None and tests[-1].p_value <= alpha:  # χ²: they have moved
        explained = _explained_by_labels(
            label_shift, reference, lambda drawn: decide(drawn, new, permutations=200).p_value <= alpha, seed
        )
    return ShiftReport(
        alpha=alpha,
        p_value=found.p_value,
        tests=tuple(tests),
        culprits=_culprits(found.ks, found.columns, alpha) if found.p_value <= alpha else (),
        most_shifted=tuple(index.tolist()),
        witness=tuple(top.values.tolist()),
        harm=harm.without_transport() if harm is not None and explained else harm,
        label_shift=label_shift,
        sizes=(len(reference), len(new)),
        explained_by_labels=explained,
    )


def _decide(
    reference: ShiftFeatures,
    new: ShiftFeatures,
    *,
    permutations: int,
    seed: int,
    components: int,
    pca: PCA | None,
    properties: Sequence[str],
) -> _Decision:
    embedded = _embedded(reference, new, components, pca)
    columns = _columns(reference, new, embedded, properties)
    first, second = embedded or _scaled(columns)
    ks = ks_test(columns.first, columns.second, names=columns.names)
    return _Decision(columns, first, second, ks, mmd_test(first, second, permutations, seed))


def _embedded(
    reference: ShiftFeatures, new: ShiftFeatures, components: int, pca: PCA | None
) -> tuple[Tensor, Tensor] | None:
    """Both samples' principal components, or None without features."""
    if reference.embedding is None or new.embedding is None:
        return None
    if reference.embedding.shape[1:] != new.embedding.shape[1:]:
        raise UserError(
            f"compare: features are {list(reference.embedding.shape)} and {list(new.embedding.shape)}: take those of "
            "one network"
        )
    fitted = pca or PCA.fit(torch.cat((reference.embedding, new.embedding)), components)
    return fitted(reference.embedding), fitted(new.embedding)


def _columns(
    reference: ShiftFeatures, new: ShiftFeatures, embedded: tuple[Tensor, Tensor] | None, properties: Sequence[str]
) -> _Columns:
    """Everything that is tested feature by feature."""
    names: list[str] = []
    kinds: list[str] = []
    first: list[Tensor] = []
    second: list[Tensor] = []

    def add(kind: str, titles: Sequence[str], old: Tensor, now: Tensor) -> None:
        if len(titles) != old.shape[1] or old.shape[1] != now.shape[1]:
            raise UserError(f"compare: {len(titles)} names for {old.shape[1]} and {now.shape[1]} columns ({kind})")
        names.extend(titles)
        kinds.extend([kind] * len(titles))
        first.append(old.double())
        second.append(now.double())

    if reference.properties is not None and new.properties is not None:
        add("image property", properties, reference.properties, new.properties)
    if reference.probabilities is not None and new.probabilities is not None:
        old, now = (values.amax(1, keepdim=True) for values in (reference.probabilities, new.probabilities))
        add("prediction", ["confidence"], old, now)
    if embedded is not None:
        add("feature", [f"component {i + 1}" for i in range(embedded[0].shape[1])], *embedded)
    if not names:
        raise UserError("compare: the two have nothing in common: both need features, probabilities or properties")
    return _Columns(names, kinds, torch.cat(first, 1), torch.cat(second, 1))


def _scaled(columns: _Columns) -> tuple[Tensor, Tensor]:
    """Columns of variance 1 in both samples together: properties have units of their own."""
    spread = torch.cat((columns.first, columns.second)).std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    return columns.first / spread, columns.second / spread


def _culprits(ks: TwoSampleResult, columns: _Columns, alpha: float) -> tuple[Culprit, ...]:
    """What moved at α/2, the level of KS in the verdict."""
    both = (columns.first, columns.second)
    medians = np.stack([np.median(values.cpu().numpy(), axis=0) for values in both], 1).tolist()
    place = {name: i for i, name in enumerate(columns.names)}
    found = [
        Culprit(f.name, columns.kinds[place[f.name]], f.p_value, f.effect, *medians[place[f.name]])
        for f in ks.culprits_at(alpha / 2)
    ]
    kinds = list(dict.fromkeys(columns.kinds))
    lower = {culprit.name for culprit in found if culprit.new < culprit.reference}
    blurred = {"noise", "sharpness"} <= lower  # blur takes the noise away: what one sees is the blur
    return tuple(sorted(found, key=lambda c: (kinds.index(c.kind), blurred and c.name == "noise", -c.effect)))


def _cost(reference: ShiftFeatures, new: ShiftFeatures) -> tuple[Harm | None, LabelShift | None]:
    """Harm, and the class shares; None where they cannot be estimated."""
    if reference.probabilities is None or new.probabilities is None or reference.labels is None:
        return None, None
    try:
        harm = estimate_harm(reference.probabilities, reference.labels, new.probabilities)
    except UserError:  # labels that are none of the outputs' classes, such as 1 of a network with one logit
        return None, None
    try:
        return harm, bbse(reference.labels, reference.probabilities, new.probabilities)
    except UserError:  # classes without reference samples, or that the network never tells apart
        return harm, None


def _explained_by_labels(
    shift: LabelShift, reference: ShiftFeatures, told_apart: Callable[[ShiftFeatures], bool], seed: int
) -> bool | None:
    """Whether reference samples drawn with the estimated class shares are like the new ones, where others are not.

    Fewer samples see less: that as many with the old shares are told apart shows that these would be, too.
    """
    if reference.labels is None:
        return None
    weights = shift.weights[reference.labels.cpu().numpy()]
    random = np.random.default_rng(seed)
    kept = np.flatnonzero(random.random(len(weights)) * weights.max() < weights)  # rejection: no sample comes twice
    if len(kept) < _FEWEST:
        return None
    try:
        if told_apart(reference.select(torch.from_numpy(kept))):
            return False
        return (
            True
            if told_apart(reference.select(torch.from_numpy(random.permutation(len(weights))[: len(kept)])))
            else None
        )
    except UserError:
        return None
