"""Cross validation of detection data: who is in which fold, by the rarest class that an image shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.formats.records import DetectionRecord, DetectionSource
from dlrecipes.data.splits.folds import FoldChoice, fold_note, groups_of, pool_names
from dlrecipes.data.splits.split_records import (
    FindBoxCopies,
    class_presence,
    groups_with_copies,
    iterative_stratification,
)
from dlrecipes.errors import UserError

__all__ = ["fold_records", "scarce_classes"]

_NAMED = 5  # classes in a warning


def fold_records(
    source: DetectionSource,
    choice: FoldChoice,
    *,
    names: tuple[str, str, str] = ("train", "val", "test"),
    groups: str | None = None,
    seed: int = 0,
    find_copies: FindBoxCopies | None = None,
) -> DetectionSource:
    """The source with one fold as its validation split and the others as its training split; a test split stays.

    Every image that is not in the test split is validated on in exactly one of the folds. Images are spread by the
    rarest class that they show, those without objects like one more class, and the folds are of equal size: see
    `dlrecipes.data.splits.split_records.iterative_stratification`. Images of one group stay together: those with the
    same path always, and with ``groups`` all whose paths have the same match, so that no patient, video or day is on
    both sides.

    ``image_id`` of the records becomes unique over the folds where it was not: the data's own ids are kept if no two
    images share one, as two annotation files that both count from 1 do, and otherwise images are counted in the order
    of their paths.

    Args:
        source: as read, with splits or without.
        choice: see `dlrecipes.data.splits.folds.parse_fold`.
        names: of the splits to train, validate and test on.
        groups: regular expression, searched in each image's path; its first group, or else its match, is the group's
            name: ``r"patient_(\\d+)"``.
        seed: of who goes where, with the paths and the labels; the same for all folds of a run.
        find_copies: finds near copies, which stay together, too, as far as there can still be folds
            (`dlrecipes.data.splits.together.keep_together`). None: nobody looks.

    Raises:
        UserError: no images to divide, fewer groups than folds, a wrong expression or a path that it does not match.
    """
    pool = _each_once(r for name in pool_names(source.splits, names, source.root) for r in source.splits[name])
    if not pool:
        raise UserError(f"{source.root} has no images outside the split {names[2]!r}: there is nothing to divide")
    group = groups_of([record.path for record in pool], groups, choice, source.root)
    joined: NDArray[np.int64] | None = None
    together: list[str] = []
    if find_copies is not None:
        copies = find_copies(pool, source.splits.get(names[2], []), source.root)
        shares = [1.0] * choice.folds
        joined, together = groups_with_copies(group, pool, copies, shares, len(source.classes), "fold")
    part = iterative_stratification(
        class_presence(pool, len(source.classes)),
        [1.0] * choice.folds,
        seed,
        groups=np.unique(group, return_inverse=True)[1].reshape(-1) if joined is None else joined,
    )
    held_out = part == choice.number - 1
    made = {name: [pool[i] for i in np.flatnonzero(k)] for name, k in zip(names, (~held_out, held_out), strict=False)}
    kept = {name: records for name, records in source.splits.items() if name == names[2]}
    note = fold_note(choice, seed, {name: len(records) for name, records in made.items()}, group, groups)
    notes = (*(n for n in source.notes if n != "no split is given"), note, *together)
    return replace(source, splits={**made, **kept}, notes=notes)


def scarce_classes(records: Sequence[DetectionRecord], classes: Sequence[str], folds: int) -> Iterable[str]:
    """A warning of classes that fewer images show than there are folds.

    Args:
        records: of all folds.
        classes: names; position = label.
        folds: how many.

    Example:
        >>> from dlrecipes.data.formats.records import make_record
        >>> record = make_record("a.jpg", (8, 8), [[0, 0, 4, 4]], [1], 0)
        >>> next(iter(scarce_classes([record] * 2, ("cat", "newt"), 5)))
        'fewer images than the 5 folds show newt (2): folds without it say nothing about it, the pooled metrics do.'
    """
    images = class_presence(records, len(classes)).sum(axis=0).tolist()
    scarce = [f"{name} ({count})" for name, count in zip(classes, images, strict=False) if 0 < count < folds]
    if scarce:
        named = ", ".join(scarce[:_NAMED]) + (f" and {len(scarce) - _NAMED} more" if len(scarce) > _NAMED else "")
        yield (
            f"fewer images than the {folds} folds show {named}: folds without it say nothing about it, the pooled "
            "metrics do."
        )


def _each_once(records: Iterable[DetectionRecord]) -> list[DetectionRecord]:
    """Records of several splits by path, with ids of their own; one that two splits have is there once."""
    first: dict[tuple[str, bytes, bytes], DetectionRecord] = {}
    for record in records:
        first.setdefault((record.path, record.labels.tobytes(), record.boxes.tobytes()), record)
    pool = [first[key] for key in sorted(first)]
    if len({record.image_id for record in pool}) == len(pool):
        return pool
    return [replace(record, image_id=number) for number, record in enumerate(pool)]
