"""Splits for labelled images that bring none: stratified, a function of the seed, the names and the targets alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.audit.copies import Copies
from dlrecipes.data.formats.image_files import take
from dlrecipes.data.formats.image_source import ImageFiles, ImageSource, ImageTable
from dlrecipes.data.splits.split_records import iterative_stratification, plan_split, split_note
from dlrecipes.data.splits.together import keep_together

__all__ = ["FindImageCopies", "class_counter", "split_images", "stratify"]

_BINS = 10  # of a number to predict, so that each part has the same spread
_JOINT_BINS = 4  # of each of several numbers


FindImageCopies = Callable[[ImageFiles, Sequence[ImageFiles], str], Copies]
"""`dlrecipes.data.audit.copies.image_copies`."""


def split_images(
    source: ImageSource,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    *,
    find_copies: FindImageCopies | None = None,
) -> ImageSource:
    """Give labelled images a ``train`` and a ``val`` split where they lack one, and say so in the notes.

    Which splits are made of which is decided as for detection: see
    `dlrecipes.data.splits.split_records.split_by_seed`. Images are
    spread by class; those with several labels by `iterative_stratification`; those with numbers by their quantiles.
    Rows with the same name stay together, so that an image which a table repeats is in one split.

    Args:
        source: a parsed data set.
        seed: any integer ≥ 0.
        fractions: parts of train, val and test, ≥ 0, summing to 1; test may be 0.
        find_copies: finds images that are near copies of one another; these stay together, too, as far as splits can
            still be made (`dlrecipes.data.splits.together.keep_together`). None: nobody looks.

    Raises:
        ValueError: if ``fractions`` or ``seed`` are not as above.
        UserError: if there are several splits, but none to train on.
    """
    plan = plan_split(tuple(source.splits), source.root, seed, fractions)
    if plan is None:
        return source
    pool, parts = plan
    splits = dict(source.splits)
    table = splits.pop(pool)
    kept = {other.images.name(i) for other in splits.values() for i in range(len(other))}
    others = [other.images for other in splits.values()]
    copies = None if find_copies is None else find_copies(table.images, others, source.root)
    made, together = _divide(table, kept, source.task, parts, seed, copies)
    by = {"regression": "quantiles of the target", "multilabel": "labels"}.get(source.task, "class")
    note = split_note(pool, seed, {name: len(part) for name, part in made.items()}, by)
    notes = (*(n for n in source.notes if n != "no split is given"), note, *together)
    return replace(source, splits={**made, **splits}, notes=notes)


def _divide(
    table: ImageTable, kept: set[str], task: str, parts: dict[str, float], seed: int, copies: Copies | None
) -> tuple[dict[str, ImageTable], list[str]]:
    """The parts, and what is to be said about copies."""
    keys = [(table.images.name(i), table.targets[i].tobytes(), i) for i in range(len(table))]
    keys.sort()
    rows: list[list[int]] = []  # by name
    last = ""
    for name, _, row in keys:
        if name in kept:
            continue
        if not rows or name != last:
            rows.append([])
        rows[-1].append(row)
        last = name
    names = list(parts)
    notes: list[str] = []
    if len(rows) <= 1:
        choice = np.zeros(len(rows), dtype=np.int64)
        made = {name: _rows_of(rows, choice, 0) for name in names[:2]}
    else:
        firsts = np.array([group[0] for group in rows], dtype=np.int64)
        targets = table.targets[firsts]
        groups = None
        if copies is not None and len(np.unique(copies.groups[firsts])) < len(firsts):
            known = Copies(copies.groups[firsts], copies.complete)
            together = keep_together(firsts.tolist(), known, list(parts.values()), class_counter(targets, task))
            groups, notes = together.groups, [note for note in [together.note("split")] if note]
        choice = _choose(targets, task, list(parts.values()), seed, groups)
        made = {name: _rows_of(rows, choice, k) for k, name in enumerate(names)}
    # Where each class has two images, nothing is left for a test.
    return {name: take(table, chosen) for name, chosen in made.items() if len(chosen) or name != "test"}, notes


def _rows_of(groups: Sequence[Sequence[int]], choice: NDArray[np.int64], part: int) -> NDArray[np.int64]:
    """Rows of a part in the order of the table, so that files are read in order."""
    return np.array(sorted(row for k in np.flatnonzero(choice == part).tolist() for row in groups[k]), dtype=np.int64)


def class_counter(targets: NDArray[Any], task: str) -> Callable[[NDArray[np.int64]], NDArray[np.int64]] | None:
    """Of some images (positions), how many have each label; None for numbers."""
    if task == "regression":
        return None
    if task == "multilabel":
        return lambda chosen: (targets[chosen] > 0).sum(axis=0)
    classes = int(targets.max(initial=0)) + 1
    return lambda chosen: np.bincount(targets[chosen], minlength=classes)


def _choose(
    targets: NDArray[Any], task: str, parts: Sequence[float], seed: int, groups: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    if task == "classification":
        return stratify(targets, parts, seed, groups=groups)
    if task == "multilabel":
        none = ~targets.any(axis=1, keepdims=True)  # images without labels are spread like one more class
        return iterative_stratification(np.concatenate([targets > 0, none], axis=1), parts, seed, groups=groups)
    if targets.shape[1] == 1:
        # Bins hold enough images to give each part its share.
        count = max(1, min(_BINS, int(len(targets) * min(parts) / sum(parts))))
        return stratify(_bins(targets[:, 0], count), parts, seed, groups=groups)
    bins = [_bins(column, _JOINT_BINS) for column in targets.T]
    return iterative_stratification(
        np.concatenate([b[:, None] == np.arange(_JOINT_BINS) for b in bins], 1), parts, seed, groups=groups
    )


def _bins(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Quantile bin of each value; values that are not finite, which the audit refuses, are in the first."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(len(values), dtype=np.int64)
    edges = np.quantile(values[finite], np.linspace(0, 1, count + 1)[1:-1])
    return np.where(finite, np.searchsorted(edges, values, side="right"), 0).astype(np.int64)


def stratify(
    labels: NDArray[np.int64], parts: Sequence[float], seed: int, *, groups: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Distribute samples over parts so that each class is spread in the wished proportion.

    Each class is within one sample of its share, except that a class with at least as many samples as parts gets one
    in each; a smaller class fills the first parts. What rounding takes from a part in one class it gives back in the
    next, so that the sizes of the parts are met, too. Members of a class are drawn by the seed and the class alone.

    Groups stay together, and count for the class of their first member: large ones are placed first, where there is
    most room for their class, so that shares are met as far as these allow.

    Args:
        labels: int64 [n], in an order that does not depend on how the data was listed.
        parts: wished proportions, > 0; scaled to sum 1.
        seed: any integer ≥ 0.
        groups: int64 [n], the group of each sample, from 0 without gaps; None: each is its own.

    Returns:
        int64 [n], the part of each sample.

    >>> choice = stratify(np.array([0] * 10 + [1] * 20), [0.8, 0.1, 0.1], seed=0)
    >>> np.bincount(choice[:10]).tolist(), np.bincount(choice[10:]).tolist()
    ([8, 1, 1], [16, 2, 2])
    """
    share = np.asarray(parts, dtype=np.float64) / np.sum(parts)
    of_sample = np.arange(len(labels)) if groups is None else groups
    first = np.unique(of_sample, return_index=True)[1]
    members_of, labels = np.bincount(of_sample), labels[first]  # from here on of groups
    choice = np.zeros(len(labels), dtype=np.int64)
    carried = np.zeros(len(share))
    order = np.argsort(labels, kind="stable")
    distinct, starts = np.unique(labels[order], return_index=True)
    for label, members in zip(distinct.tolist(), np.split(order, starts[1:]), strict=True):
        total = int(members_of[members].sum())
        room = _class_sizes(total, share, carried)
        shuffled = np.random.default_rng((seed, label)).permutation(members)
        large = shuffled[members_of[shuffled] > 1]
        for group in large[np.argsort(-members_of[large], kind="stable")].tolist():
            best = max(range(len(share)), key=lambda k: (room[k], share[k], carried[k]))
            choice[group] = best
            room[best] -= members_of[group]
        single = shuffled[members_of[shuffled] == 1]
        choice[single] = np.repeat(np.arange(len(share)), _without_debt(room))
        if share[0] < share.max() and (choice[members] != 0).all():  # a small training split has each class, too
            choice[members[np.argmin(members_of[members])]] = 0
        carried += total * share - np.bincount(choice[members], members_of[members], len(share))
    return choice[of_sample]


def _without_debt(room: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places that are left for single samples, int64, where groups took more than there were: from the roomiest."""
    left = room.copy()
    while (left < 0).any():
        left[np.argmin(left)] += 1
        left[np.argmax(left)] -= 1
    return left


def _class_sizes(total: int, share: NDArray[np.float64], carried: NDArray[np.float64]) -> NDArray[np.int64]:
    if total < len(share):
        return (np.arange(len(share)) < total).astype(np.int64)
    exact = total * share
    sizes = np.floor(exact + 1e-9).astype(np.int64)
    due = np.where(exact > sizes + 1e-9, exact - sizes + carried, -np.inf)
    sizes[np.argsort(-due, kind="stable")[: total - int(sizes.sum())]] += 1
    while (sizes == 0).any():
        sizes[np.argmax(sizes)] -= 1
        sizes[np.flatnonzero(sizes == 0)[0]] += 1
    return sizes
