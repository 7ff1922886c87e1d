"""Repeat-factor sampling of annotated images, and what it does to each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlrecipes.data.formats.records import DetectionRecord
from dlrecipes.functional.words import counted
from dlrecipes.imbalance import RepeatFactorSampler

__all__ = ["Repeats", "plan_repeats"]

_NAMED = 5  # classes in the note


@dataclass(frozen=True, eq=False)
class Repeats:
    """How often training images come in an epoch.

    Attributes:
        sampler: the order of each epoch; ``sampler.factors`` are how often each image comes, at least 1.
        note: which classes gain, and by how much.
    """

    sampler: RepeatFactorSampler
    note: str


def plan_repeats(
    records: Sequence[DetectionRecord], classes: Sequence[str], threshold: float, *, seed: int = 0
) -> Repeats:
    """Factors of the images by their rarest class; crowd regions do not count.

    Args:
        records: of the training split.
        classes: names by label.
        threshold: share of the images below which a class is rare, 0..1.
        seed: of the order.

    Example:
        >>> from dlrecipes.data.formats.records import make_record
        >>> box = (0.0, 0.0, 5.0, 5.0)
        >>> common = [make_record(f"{i}.png", (9, 9), [box], [0], i) for i in range(15)]
        >>> plan = plan_repeats([*common, make_record("r.png", (9, 9), [box], [1], 15)], ("cell", "cyst"), 0.25)
        >>> float(plan.sampler.factors.max()), plan.note.partition("; ")[2]
        (2.0, 'boxes of cyst x2.00, cell x1.00.')
    """
    labels = [record.labels[~record.iscrowd] for record in records]
    sampler = RepeatFactorSampler([row.tolist() for row in labels], threshold, seed=seed)
    factors = sampler.factors
    counts = np.stack([np.bincount(row, minlength=len(classes)) for row in labels])  # [n, C]
    there = counts.sum(axis=0) > 0
    if factors.max() == 1.0:
        rarest = (counts > 0).mean(axis=0)[there].min(initial=1.0)
        return Repeats(
            sampler,
            f"No image is repeated: each class is in at least {rarest:.3g} of the images, not below repeat_factor "
            f"{threshold:g}.",
        )
    gain = (factors @ counts)[there] / counts.sum(axis=0)[there]
    names = [name for name, known in zip(classes, there.tolist(), strict=True) if known]
    order = np.argsort(-gain, kind="stable")
    named = ", ".join(f"{names[k]} x{gain[k]:.2f}" for k in order[:_NAMED].tolist())
    rest = f", others at least x{gain.min():.2f}" if len(names) > _NAMED else ""
    return Repeats(
        sampler,
        f"Images with rare classes are repeated: {counted(sampler.epoch_size, 'sample')} an epoch of {len(records)} "
        f"images; boxes of {named}{rest}.",
    )
