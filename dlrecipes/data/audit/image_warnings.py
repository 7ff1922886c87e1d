"""What does not stop a training on labelled images but spoils its results: copies, missing classes, odd sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.audit.image_probe import SourceFacts
from dlrecipes.data.formats.image_source import ImageSource
from dlrecipes.data.formats.layout import plain_name, shown
from dlrecipes.functional.words import counted

__all__ = ["HUGE_PIXELS", "IMBALANCE", "TINY_SIDE", "audit_warnings"]

HUGE_PIXELS = 50_000_000
"""From here on decoding takes a second and 150 MB."""
TINY_SIDE = 8
"""Shorter sides below this hold next to nothing, as thumbnails that failed do."""
IMBALANCE = 10.0
"""Most frequent : least frequent class, from which on accuracy misleads."""


def audit_warnings(source: ImageSource, facts: SourceFacts, train: str, folder: str) -> Iterable[str]:
    """One sentence for each kind of oddity.

    Args:
        source: audited data set.
        facts: about its images, one split after the other.
        train: name of the training split.
        folder: names are shown relative to it.
    """
    rows = _Rows(source, folder)
    yield from _copies(source, facts, rows)
    if source.task == "regression":
        yield from _constant_targets(source, train)
    else:
        yield from _classes(source, train)
        yield from _spellings(source)
    yield from _sizes(facts, rows)


class _Rows:
    """Split and name of images by their row over all splits."""

    def __init__(self, source: ImageSource, folder: str) -> None:
        self.splits = list(source.splits)
        self._tables = list(source.splits.values())
        self._starts = np.cumsum([0, *(len(table) for table in self._tables)])
        self._folder = folder
        self.split = np.repeat(np.arange(len(self._tables)), [len(table) for table in self._tables])

    def name(self, row: int) -> str:
        k = int(self.split[row])
        return shown(self._tables[k].images.name(row - int(self._starts[k])), self._folder)

    def place(self, row: int) -> str:
        return f"{self.name(row)} ({self.splits[int(self.split[row])]})"


def _copies(source: ImageSource, facts: SourceFacts, rows: _Rows) -> Iterable[str]:
    """Images whose pixels occur in two splits, twice in one, or under two labels."""
    targets = np.concatenate([table.targets for table in source.splits.values()])
    # train and trainval share images by definition
    compared = rows.split != rows.splits.index("trainval") if {"train", "trainval"} <= set(rows.splits) else None
    across, conflicts = [], []
    copies, example = 0, -1
    for group in _equal(facts.digest, compared):
        splits, first = np.unique(rows.split[group], return_index=True)
        if len(splits) > 1:
            across.append(group[first])
        if len(group) > len(splits):
            copies += len(group) - len(splits)
            example = int(np.delete(group, first)[0]) if example < 0 else example
        if source.task != "regression":
            other = group[(targets[group] != targets[group[0]]).reshape(len(group), -1).any(axis=1)]
            if len(other):
                conflicts.append((int(group[0]), int(other[0])))
    if across:
        pairs = [" = ".join(rows.place(int(row)) for row in group) for group in across[:5]]
        places = _some(pairs, len(across))
        yield f"{counted(len(across), 'image')} in more than one split, which makes results look better: {places}."
    if copies:
        yield f"{counted(copies, 'copy', 'copies')} of another image in the same split, such as {rows.name(example)}."
    if conflicts:
        pairs = [
            " = ".join(f"{rows.name(row)} ({_labels(source, targets[row])})" for row in pair) for pair in conflicts[:5]
        ]
        places = _some(pairs, len(conflicts))
        yield f"{counted(len(conflicts), 'image')} with different labels: {places}; correct one of each."


def _equal(digest: NDArray[np.uint64], compared: NDArray[np.bool_] | None) -> list[NDArray[np.int64]]:
    """Rows with the same digest, two or more each, in the order in which they first occur."""
    rows = np.arange(len(digest)) if compared is None else np.flatnonzero(compared)
    order = rows[np.argsort(digest[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(digest[order], prepend=~digest[order[:1]]) != 0)
    lengths = np.diff(starts, append=len(order))
    groups = [order[start : start + n] for start, n in zip(starts[lengths > 1], lengths[lengths > 1], strict=True)]
    return sorted(groups, key=lambda group: int(group[0]))


def _labels(source: ImageSource, target: NDArray[np.generic] | np.generic) -> str:
    chosen = np.flatnonzero(target) if source.task == "multilabel" else np.atleast_1d(target)
    return ", ".join(source.classes[int(k)] for k in chosen[:3]) or "no label"


def _classes(source: ImageSource, train: str) -> Iterable[str]:
    counts = {
        split: np.bincount(table.targets, minlength=len(source.classes))
        if source.task == "classification"
        else table.targets.sum(axis=0)
        for split, table in source.splits.items()
    }
    total = np.sum(list(counts.values()), axis=0)
    if (total == 0).any():
        yield f"no image at all of {_named(source, total == 0)}."
    for split, count in counts.items():
        absent = (count == 0) & (total > 0)
        if absent.any():
            effect = "it cannot be learnt" if split == train else "results there say nothing about it"
            yield f"no image of {_named(source, absent)} in {split}: {effect}."
    where = "" if train == "all" else f"in {train} "
    single = counts[train] == 1
    if single.any():
        yield f"only one image {where}of {_named(source, single)}."
    present = counts[train][counts[train] > 0]
    if len(present) > 1 and present.max() >= IMBALANCE * present.min():
        most, least = int(np.argmax(counts[train])), int(np.argmin(np.where(counts[train] > 0, counts[train], np.inf)))
        data = "the data" if train == "all" else train
        yield (
            f"{data} is imbalanced {present.max() / present.min():.0f} : 1 ({source.classes[most]} "
            f"{int(present.max())}, {source.classes[least]} {int(present.min())}): accuracy hides rare classes, look "
            "at balanced accuracy or macro F1."
        )


def _spellings(source: ImageSource) -> Iterable[str]:
    """Classes that are one and the same but for case and spaces; between splits they are an error."""
    first: dict[str, str] = {}
    alike = []
    for name in source.classes:
        other = first.setdefault(plain_name(name), name)
        if other != name:
            alike.append(f"{other!r} = {name!r}")
    if alike:
        yield f"class names differ in nothing but their spelling: {_some(alike[:5], len(alike))}; use one of them."


def _named(source: ImageSource, which: NDArray[np.bool_]) -> str:
    chosen = np.flatnonzero(which)
    return _some([source.classes[k] for k in chosen[:5]], len(chosen))


def _constant_targets(source: ImageSource, train: str) -> Iterable[str]:
    targets = source.splits[train].targets
    for name, column in zip(source.target_names, targets.T, strict=True):
        if len(column) > 1 and (column == column[0]).all():
            images = "every image" if train == "all" else f"every image of {train}"
            yield f"the target {name} is {column[0]:g} for {images}: nothing can be learnt from it."


def _sizes(facts: SourceFacts, rows: _Rows) -> Iterable[str]:
    huge = np.flatnonzero(facts.sizes.prod(axis=1) > HUGE_PIXELS)
    if len(huge):
        height, width = facts.sizes[huge[0]]
        yield (
            f"{counted(len(huge), 'image')} of more than {HUGE_PIXELS // 10**6} million pixels, such as "
            f"{rows.name(int(huge[0]))} ({width}x{height}): decoding is slow, scale down beforehand."
        )
    tiny = np.flatnonzero(facts.sizes.min(axis=1) < TINY_SIDE)
    if len(tiny):
        height, width = facts.sizes[tiny[0]]
        yield (
            f"{counted(len(tiny), 'image')} with a side below {TINY_SIDE} pixels, such as {rows.name(int(tiny[0]))} "
            f"({width}x{height})."
        )


def _some(items: Sequence[str], total: int) -> str:
    return ", ".join(items) + (f" and {total - len(items)} more" if total > len(items) else "")
