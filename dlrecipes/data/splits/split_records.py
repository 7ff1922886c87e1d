"""Splits for data that brings none: stratified, a function of the seed and the file names alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.audit.copies import Copies
from dlrecipes.data.formats.records import DetectionRecord, DetectionSource
from dlrecipes.data.splits.together import keep_together
from dlrecipes.errors import UserError

__all__ = [
    "FindBoxCopies",
    "class_presence",
    "groups_with_copies",
    "iterative_stratification",
    "missing_parts",
    "plan_split",
    "split_by_seed",
    "split_note",
]


FindBoxCopies = Callable[[Sequence[DetectionRecord], Sequence[DetectionRecord], str], Copies]
"""`dlrecipes.data.audit.copies.box_copies`."""


def split_by_seed(
    source: DetectionSource,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    *,
    find_copies: FindBoxCopies | None = None,
) -> DetectionSource:
    """Give a data set a ``train`` and a ``val`` split where it lacks one, and say so in its notes.

    - both given: unchanged.
    - no split at all (``"all"``, or a single split that is not ``train``): all three are made, by ``fractions``; two
      images make no ``test``.
    - ``train`` without ``val``: ``val`` is taken from ``train``, train : val as in ``fractions``.
    - ``trainval`` without ``train``: both are taken from it.
    - ``test`` is left as it is, and not taken from data that names a training split.

    Which image goes where depends on the seed, the paths and the labels, not on the order of the records. Each part
    gets an image if there are as many as parts; a single image is both ``train`` and ``val``.

    Args:
        source: a parsed data set.
        seed: any integer ≥ 0.
        fractions: parts of train, val and test, ≥ 0, summing to 1; test may be 0.
        find_copies: finds images that are near copies of one another; these stay together, as far as splits can still
            be made (`dlrecipes.data.splits.together.keep_together`). None: nobody looks.

    Raises:
        ValueError: if ``fractions`` are not as above.
        UserError: if there are several splits, but none to train on.
    """
    plan = plan_split(tuple(source.splits), source.root, seed, fractions)
    if plan is None:
        return source
    pool, parts = plan
    splits: dict[str, list[DetectionRecord]] = dict(source.splits)
    records = splits.pop(pool)
    kept = {r.path for part in splits.values() for r in part}
    records = [r for r in records if r.path not in kept]
    records.sort(key=lambda r: r.path)
    groups: NDArray[np.int64] | None = None
    together: list[str] = []
    if find_copies is not None and len(records) > 1:
        copies = find_copies(records, [r for part in splits.values() for r in part], source.root)
        groups, together = groups_with_copies(
            [r.path for r in records], records, copies, list(parts.values()), len(source.classes), "split"
        )
    made = _split_records(records, list(parts), list(parts.values()), len(source.classes), seed, groups)
    made = {name: part for name, part in made.items() if part or name != "test"}  # two images make no test split
    note = split_note(pool, seed, {name: len(part) for name, part in made.items()})
    notes = (*(n for n in source.notes if n != "no split is given"), note, *together)
    return replace(source, splits={**made, **splits}, notes=notes)


def groups_with_copies(
    base: Sequence[str],
    records: Sequence[DetectionRecord],
    copies: Copies,
    parts: Sequence[float],
    num_classes: int,
    part: str,
) -> tuple[NDArray[np.int64] | None, list[str]]:
    """Groups for `iterative_stratification`, None where copies bring nothing together; what is to be said.

    Args:
        base: the group of each record without copies.
        records: that are divided.
        copies: of the same records.
        parts: wished proportions.
        num_classes: of the data set.
        part: what is made: ``"split"`` or ``"fold"``.
    """
    presence = class_presence(records, num_classes)[:, :-1]
    together = keep_together(base, copies, parts, lambda chosen: presence[chosen].sum(axis=0))
    note = together.note(part)
    return (together.groups if together.kept[0] else None), [note] if note else []


def missing_parts(
    root: str, splits: Collection[str], names: tuple[str, str, str], val_fraction: float
) -> tuple[float, float, float] | None:
    """Fractions to divide data by, by the rules of `split_by_seed`; None: it has a split to train and one to validate.

    Args:
        root: for the message.
        splits: that there are.
        names: of the splits to train, validate and test on, as they were asked for.
        val_fraction: part to validate on; as much is tested on where no split is named as one of the usual three.

    Raises:
        UserError: if a name that is not the default one does not exist.
    """
    for name, default in zip(names, ("train", "val", "test"), strict=True):
        if name != default and name not in splits:
            raise UserError(f"{root} has no split {name!r}, only {', '.join(splits)}: choose of these.")
    if {*names[:2]} <= {*splits}:
        return None
    rest = 0.0 if {"train", "trainval", "test"} & {*splits} else val_fraction
    return 1.0 - val_fraction - rest, val_fraction, rest


def plan_split(
    names: Sequence[str], root: str, seed: int, fractions: tuple[float, float, float]
) -> tuple[str, dict[str, float]] | None:
    """What to divide into which parts, by the rules of `split_by_seed`.

    Args:
        names: of the splits that there are.
        root: for messages.
        seed, fractions: as in `split_by_seed`.

    Returns:
        The split to divide and the part of each split to make of it; None if nothing is to be done.

    Raises:
        ValueError, UserError: as `split_by_seed`.

    >>> plan_split(["train", "test"], "data", 0, (0.8, 0.1, 0.1))
    ('train', {'train': 0.8, 'val': 0.1})
    """
    if len(fractions) != 3 or min(fractions) < 0 or min(fractions[:2]) == 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions={fractions}: needs (train, val, test), train and val > 0, test ≥ 0, summing to 1")
    if seed < 0:
        raise ValueError(f"seed={seed}: needs an integer ≥ 0")
    if "train" in names and "val" in names:
        return None
    usable = ("train", "trainval", "all")
    pool = next((name for name in [*usable, *names] if name in names), "")
    if not pool or (pool not in usable and len(names) > 1):
        raise UserError(f"{root}: the splits are {', '.join(names)}; name the one to train on 'train'.")
    kept = {name for name in names if name != pool}
    parts = {n: p for n, p in zip(("train", "val", "test"), fractions, strict=True) if p > 0 and n not in kept}
    if pool in ("train", "trainval"):
        parts.pop("test", None)
    return pool, parts


def split_note(pool: str, seed: int, counts: Mapping[str, int], by: str = "class") -> str:
    """The sentence that tells how ``pool`` was divided."""
    origin = "no split was given" if pool == "all" else f"only {pool!r} was given to train on"
    sizes = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"{origin}: stratified by {by} with seed {seed} into {sizes}"


def _split_records(
    ordered: list[DetectionRecord],
    names: list[str],
    parts: list[float],
    num_classes: int,
    seed: int,
    groups: NDArray[np.int64] | None,
) -> dict[str, list[DetectionRecord]]:
    if not ordered:
        return {name: [] for name in names}
    if len(ordered) == 1:
        return {name: list(ordered) for name in names[:2]}
    choice = iterative_stratification(class_presence(ordered, num_classes), parts, seed, groups=groups)
    return {name: [ordered[i] for i in np.flatnonzero(choice == k)] for k, name in enumerate(names)}


def class_presence(records: Sequence[DetectionRecord], num_classes: int) -> NDArray[np.bool_]:
    """Which classes each image shows; images without objects are one more class, the last.

    Returns:
        bool [n, num_classes + 1].
    """
    presence = np.zeros((len(records), num_classes + 1), dtype=np.bool_)
    for row, record in zip(presence, records, strict=True):
        row[record.labels] = True
        row[-1] = len(record.labels) == 0
    return presence


def iterative_stratification(
    presence: NDArray[np.bool_], parts: Sequence[float], seed: int, *, groups: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Distribute images over parts so that each class is spread in the wished proportion, the rarest class first.

    Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data" (2011), with three additions: part
    sizes are met exactly (rounded; each part gets an image where there are enough), ties go to the part with the most
    room left, then to the seed, and groups stay together, those with most images of a class first. With groups, sizes
    are met as far as these allow, and each part gets a group where there are enough.

    Args:
        presence: bool [n, c], whether image i shows class j.
        parts: wished proportions, > 0; scaled to sum 1.
        seed: for the order of images and for ties.
        groups: int64 [n], the group of each image, from 0 without gaps; None: each image is its own.

    Returns:
        int64 [n], the part of each image.

    >>> presence = np.array([[True, False]] * 8 + [[True, True]] * 2)
    >>> choice = iterative_stratification(presence, [0.5, 0.5], seed=0)
    >>> np.bincount(choice).tolist(), np.bincount(choice[8:]).tolist()
    ([5, 5], [1, 1])
    """
    rng = np.random.default_rng(seed)
    share = np.asarray(parts, dtype=np.float64) / np.sum(parts)
    room = _part_sizes(len(presence), share).astype(np.float64)
    wanted = share[:, None] * presence.sum(axis=0)[None, :]
    of_image = np.arange(len(presence)) if groups is None else groups
    images = np.bincount(of_image)
    shown = np.zeros((len(images), presence.shape[1]), dtype=np.int64)  # images of each class in each group
    np.add.at(shown, of_image, presence)
    choice = np.full(len(images), -1, dtype=np.int64)
    given, unplaced = np.zeros(len(share), dtype=np.int64), len(images)  # groups
    shuffled = rng.permutation(len(images))
    while (choice < 0).any():
        left = shown[choice < 0].sum(axis=0)
        if not left.any():
            turn = shuffled[choice[shuffled] < 0]  # rows without any class
            column = None
        else:
            column = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
            turn = shuffled[(choice[shuffled] < 0) & (shown[shuffled, column] > 0)]
            turn = turn[np.argsort(-shown[turn, column], kind="stable")]
        for group in turn:
            wish = wanted[:, column] if column is not None else room
            best = max(_open_parts(room, given, unplaced), key=lambda k: (wish[k], room[k], rng.random()))
            choice[group] = best
            given[best] += 1
            unplaced -= 1
            room[best] -= images[group]
            wanted[best] -= shown[group]
    return choice[of_image]


def _open_parts(room: NDArray[np.float64], given: NDArray[np.int64], unplaced: int) -> NDArray[np.int64]:
    """Parts with room for another group; only those without any, where each of these needs one of the groups left."""
    if not given.all():
        empty = np.flatnonzero((room > 0) & (given == 0))
        if len(empty) == unplaced:
            return empty
    return np.flatnonzero(room > 0)


def _part_sizes(total: int, share: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integers near ``total × share`` that sum to ``total``, none of them 0 while there are enough images."""
    exact = total * share
    sizes = np.floor(exact).astype(np.int64)
    for k in np.argsort(sizes - exact, kind="stable")[: total - int(sizes.sum())]:
        sizes[k] += 1
    while (sizes == 0).any() and sizes.max() > 1:
        sizes[np.argmax(sizes)] -= 1
        sizes[np.flatnonzero(sizes == 0)[0]] += 1
    return sizes
