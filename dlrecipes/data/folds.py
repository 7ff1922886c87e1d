"""Cross validation: training and validation images put together and divided anew, one part at a time held out."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from dlrecipes.data.image_files import take
from dlrecipes.data.image_source import ImageFiles, ImageSource, ImageTable
from dlrecipes.errors import UserError

__all__ = ["FoldChoice", "fold_of", "parse_fold"]

_BINS = 5  # quantiles of a number to predict, which each fold gets alike


class FoldChoice(NamedTuple):
    """Which fold of how many, both from 1."""

    number: int
    folds: int


def parse_fold(text: str) -> FoldChoice:
    """``"2/5"`` → the second of five.

    Raises:
        UserError: another text, fewer than two folds, or a fold that is none of them.

    Example:
        >>> parse_fold("2/5")
        FoldChoice(number=2, folds=5)
    """
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]) or int(match[2]) < 2:
        raise UserError(f"fold={text!r}: give the fold and the number of folds, such as 2/5, the first being 1/5")
    return FoldChoice(int(match[1]), int(match[2]))


def fold_of(
    source: ImageSource,
    choice: FoldChoice,
    *,
    names: tuple[str, str, str] = ("train", "val", "test"),
    groups: str | None = None,
    seed: int = 0,
) -> ImageSource:
    """The source with one fold as its validation split and the others as its training split; a test split stays.

    Every image that is not in the test split is validated on in exactly one of the folds. Classes are spread alike
    over the folds, numbers by their quintiles, combinations of several labels as far as each has enough images. Images
    of one group stay together: those with the same name always, and with ``groups`` all whose names have the same
    match, so that no patient, video or day is on both sides.

    Args:
        source: as read, with splits or without.
        choice: see :func:`parse_fold`.
        names: of the splits to train, validate and test on.
        groups: regular expression, searched in each image's name; its first group, or else its match, is the group's
            name: ``r"patient_(\\d+)"``.
        seed: of who goes where; the same for all folds of a run.

    Raises:
        UserError: no images to divide, fewer groups than folds, a wrong expression or a name that it does not match.
    """
    pool = _joined([table for name, table in source.splits.items() if name != names[2]])
    if pool is None:
        raise UserError(f"{source.root} has no images outside the split {names[2]!r}: there is nothing to divide")
    group = _groups(pool, groups, source.root)
    distinct = len(set(group))
    if distinct < choice.folds:
        what = "groups" if groups else "images"
        raise UserError(f"{source.root} has {distinct} {what} for {choice.folds} folds: take fewer folds")
    order = np.array(sorted(range(len(pool)), key=lambda i: (pool.images.name(i), i)))  # however the files were listed
    held_out = order[_held_out(pool.targets[order], [group[i] for i in order], source.task, choice, seed)]
    inside = np.zeros(len(pool), dtype=bool)
    inside[held_out] = True
    made = {names[0]: take(pool, np.flatnonzero(~inside)), names[1]: take(pool, np.flatnonzero(inside))}
    kept = {name: table for name, table in source.splits.items() if name == names[2]}
    note = (
        f"fold {choice.number} of {choice.folds}, by seed {seed}: {len(made[names[0]])} images to train on and "
        f"{len(made[names[1]])} to validate on" + (f", {distinct} groups by {groups!r}" if groups else "")
    )
    notes = (*(n for n in source.notes if n != "no split is given"), note)
    return replace(source, splits={**made, **kept}, notes=notes)


def _held_out(
    targets: NDArray[Any], groups: Sequence[str], task: str, choice: FoldChoice, seed: int
) -> NDArray[np.intp]:
    alone = len(set(groups)) == len(groups)  # the splitter for groups takes minutes where there are many
    splitter: Any = (StratifiedKFold if alone else StratifiedGroupKFold)(choice.folds, shuffle=True, random_state=seed)
    strata = _strata(targets, task, choice.folds)
    parts = list(splitter.split(np.zeros(len(groups)), strata, None if alone else groups))
    held_out: NDArray[np.intp] = parts[choice.number - 1][1]
    return held_out


def _strata(targets: NDArray[Any], task: str, folds: int) -> NDArray[np.int64]:
    """A number for each image: images of one number are to be spread alike."""
    if task == "regression":
        first = targets[:, 0]
        edges = np.quantile(first, np.linspace(0, 1, _BINS + 1)[1:-1])
        strata = np.searchsorted(edges, first, side="right")
    elif task == "multilabel":
        strata = np.unique(targets > 0, axis=0, return_inverse=True)[1].reshape(-1)
    else:
        strata = targets
    strata = np.asarray(strata, dtype=np.int64)
    counts = np.bincount(strata)
    # What is rarer than there are folds goes where there is room, since the splitter takes no class without a member
    # in each; where all are rare, nothing is stratified.
    rare: NDArray[np.bool_] = counts[strata] < folds
    return np.where(rare, counts.argmax(), strata) if counts.max() >= folds else np.zeros_like(strata)


def _groups(table: ImageTable, pattern: str | None, root: str) -> list[str]:
    names = [table.images.name(i) for i in range(len(table))]
    if pattern is None:
        return names
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"fold_groups={pattern!r} is no regular expression ({error})") from error
    found = [compiled.search(name) for name in names]
    for name, match in zip(names, found, strict=True):
        if match is None:
            raise UserError(f"{root}: fold_groups={pattern!r} does not match {name}, so nobody knows its group")
    return [(match[1] if compiled.groups else match[0]) or "" for match in found if match is not None]


def _joined(tables: Sequence[ImageTable]) -> ImageTable | None:
    """Several splits as one; an image that two of them have is there once."""
    if not sum(map(len, tables)):
        return None
    weights = [np.ones(len(t), np.float32) if t.weights is None else t.weights for t in tables]
    sizes = [t.sizes for t in tables]
    pool = ImageTable(
        images=_Joined([t.images for t in tables]),
        targets=np.concatenate([t.targets for t in tables]),
        weights=None if all(t.weights is None for t in tables) else np.concatenate(weights),
        sizes=None if any(s is None for s in sizes) else np.concatenate([s for s in sizes if s is not None]),
    )
    first: dict[tuple[str, bytes], int] = {}
    for i in range(len(pool)):
        first.setdefault((pool.images.name(i), pool.targets[i].tobytes()), i)
    return take(pool, np.array(sorted(first.values()), dtype=np.int64))


class _Joined:
    """Images of several splits, one after another."""

    def __init__(self, parts: Sequence[ImageFiles]) -> None:
        self._parts = list(parts)
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def _at(self, index: int) -> tuple[ImageFiles, int]:
        part = bisect_right(self._ends, index)
        return self._parts[part], index - (self._ends[part - 1] if part else 0)

    def name(self, index: int) -> str:
        images, row = self._at(index)
        return images.name(row)

    def stamp(self, index: int) -> tuple[int, int]:
        images, row = self._at(index)
        return images.stamp(row)

    def read(self, index: int) -> NDArray[np.uint8]:
        images, row = self._at(index)
        return images.read(row)

    def size(self, index: int) -> tuple[int, int] | None:
        images, row = self._at(index)
        return images.size(row)
