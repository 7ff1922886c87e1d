"""Cross validation: training and validation images put together and divided anew, one part at a time held out.

Which splits are divided and what a group is, here for both kinds of data; who goes where, here for labelled images, in
`dlrecipes.data.splits.fold_records` for boxes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from dlrecipes.data.audit.copies import Copies
from dlrecipes.data.formats.image_files import take
from dlrecipes.data.formats.image_source import ImageFiles, ImageSource, ImageTable
from dlrecipes.data.splits.split_images import FindImageCopies, class_counter, stratify
from dlrecipes.data.splits.together import keep_together
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted

__all__ = ["FoldChoice", "fold_note", "fold_of", "groups_of", "parse_fold", "pool_names"]

_FEW = 10  # images: an epoch that is best on fewer may be so by one image
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
    find_copies: FindImageCopies | None = None,
) -> ImageSource:
    """The source with one fold as its validation split and the others as its training split; a test split stays.

    Every image that is not in the test split is validated on in exactly one of the folds. Classes are spread alike
    over the folds, numbers by their quintiles, combinations of several labels as far as each has enough images. Images
    of one group stay together: those with the same name always, and with ``groups`` all whose names have the same
    match, so that no patient, video or day is on both sides.

    Near copies stay together, too, as far as there can still be folds (`dlrecipes.data.splits.together.keep_together`).

    Args:
        source: as read, with splits or without.
        choice: see :func:`parse_fold`.
        names: of the splits to train, validate and test on.
        groups: regular expression, searched in each image's name; its first group, or else its match, is the group's
            name: ``r"patient_(\\d+)"``.
        seed: of who goes where; the same for all folds of a run.
        find_copies: finds near copies; None: nobody looks.

    Raises:
        UserError: no images to divide, fewer groups than folds, a wrong expression or a name that it does not match, or
            a class (of one label an image) whose images are all in one of the folds.
    """
    pool = _joined([source.splits[name] for name in pool_names(source.splits, names, source.root)])
    if pool is None:
        raise UserError(f"{source.root} has no images outside the split {names[2]!r}: there is nothing to divide")
    group = groups_of([pool.images.name(i) for i in range(len(pool))], groups, choice, source.root)
    order = np.array(sorted(range(len(pool)), key=lambda i: (pool.images.name(i), i)))  # however the files were listed
    others = [table.images for name, table in source.splits.items() if name == names[2]]
    copies = None if find_copies is None else find_copies(pool.images, others, source.root)
    parts, together = _placed(source, pool.targets[order], [group[i] for i in order], order, choice.folds, seed, copies)
    inside = np.zeros(len(pool), dtype=bool)
    inside[order[parts[choice.number - 1]]] = True
    made = {names[0]: take(pool, np.flatnonzero(~inside)), names[1]: take(pool, np.flatnonzero(inside))}
    kept = {name: table for name, table in source.splits.items() if name == names[2]}
    note = fold_note(choice, seed, {name: len(part) for name, part in made.items()}, group, groups)
    notes = (*(n for n in source.notes if n != "no split is given"), note, *together)
    return replace(source, splits={**made, **kept}, notes=notes)


def _placed(
    source: ImageSource,
    targets: NDArray[Any],
    groups: Sequence[str],
    order: NDArray[np.int64],
    folds: int,
    seed: int,
    copies: Copies | None,
) -> tuple[list[NDArray[np.intp]], list[str]]:
    """Images of each fold, with their copies unless a class would then be in one fold alone; what is to be said."""
    if copies is not None:
        known = Copies(copies.groups[order], copies.complete)
        together = keep_together(groups, known, [1.0] * folds, class_counter(targets, source.task))
        note = together.note("fold")
        if together.kept[0]:
            # The splitter for groups takes minutes where there are many, as where most images are alone.
            alone = len(set(groups)) == len(groups)
            if alone:
                choice = stratify(_strata(targets, source.task, folds), [1.0] * folds, seed, groups=together.groups)
                parts = [np.flatnonzero(choice == fold) for fold in range(folds)]
            else:
                parts = _parts(targets, together.groups.tolist(), source.task, folds, seed)
            if source.task != "classification" or _unlearnable(source, targets, parts) is None:
                return parts, [note]
            note = "near copies are spread over the folds, since one fold would hold all images of a class"
    else:
        note = ""
    parts = _parts(targets, groups, source.task, folds, seed)
    if source.task == "classification":
        _refuse_unlearnable(source, targets, parts, seed)
    return parts, [note] if note else []


def pool_names(splits: Collection[str], names: tuple[str, str, str], root: str) -> list[str]:
    """The splits whose images are divided into folds: all but the one to test on.

    Args:
        splits: that there are.
        names: of those to train, validate and test on.
        root: for the message.

    Raises:
        UserError: the fold would have to take the place of the test split.

    Example:
        >>> pool_names(["train", "val", "test"], ("train", "val", "test"), "photos")
        ['train', 'val']
    """
    if names[2] in names[:2]:
        raise UserError(
            f"{root}: the split {names[2]!r} is to be tested on, and a fold would take its place: leave out "
            "--data.train_split and --data.val_split, since all other images are divided"
        )
    return [name for name in splits if name != names[2]]


def groups_of(names: Sequence[str], pattern: str | None, choice: FoldChoice, root: str) -> list[str]:
    """The group of each image, which is in one fold as a whole: its name, or what the pattern finds in it.

    Args:
        names: of the images.
        pattern: as ``groups`` of :func:`fold_of`.
        choice: for how many folds.
        root: for messages.

    Raises:
        UserError: fewer groups than folds, a wrong expression, or a name that it does not match.

    Example:
        >>> groups_of(["a1.png", "a2.png", "b1.png"], "^[a-z]", FoldChoice(1, 2), "photos")
        ['a', 'a', 'b']
    """
    groups = list(names) if pattern is None else _matches(names, pattern, root)
    if (distinct := len(set(groups))) < choice.folds:
        what = counted(distinct, "image" if pattern is None else "group")
        raise UserError(f"{root} has {what} for {choice.folds} folds: take fewer folds")
    return groups


def fold_note(
    choice: FoldChoice, seed: int, counts: Mapping[str, int], groups: Sequence[str], pattern: str | None
) -> str:
    """The sentence that tells what a fold is, and whether it is too small to choose an epoch by.

    Args:
        choice, seed: see :func:`fold_of`.
        counts: images to train on and to validate on.
        groups, pattern: from and of :func:`groups_of`.

    Example:
        >>> fold_note(FoldChoice(1, 100), 0, {"train": 218, "val": 2}, ["a.jpg"] * 220, None)
        'fold 1 of 100, by seed 0: 218 images to train on and 2 to validate on, so few that the best epoch is mostly \
chance: --folds 22 or fewer would leave 10'
    """
    train, val = counts.values()
    by = "" if pattern is None else f", {counted(len(set(groups)), 'group')} by {pattern!r}"
    few = ", so few that the best epoch is mostly chance" if val < _FEW else ""
    if few and (enough := (train + val) // _FEW) >= 2:
        few += f": --folds {enough} or fewer would leave {_FEW}"
    return (
        f"fold {choice.number} of {choice.folds}, by seed {seed}: {counted(train, 'image')} to train on and {val} to "
        f"validate on{by}{few}"
    )


def _parts(
    targets: NDArray[Any], groups: Sequence[Hashable], task: str, folds: int, seed: int
) -> list[NDArray[np.intp]]:
    """Images of each fold."""
    alone = len(set(groups)) == len(groups)  # the splitter for groups takes minutes where there are many
    splitter: Any = (StratifiedKFold if alone else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    strata = _strata(targets, task, folds)
    return [held_out for _, held_out in splitter.split(np.zeros(len(groups)), strata, None if alone else groups)]


def _refuse_unlearnable(
    source: ImageSource, labels: NDArray[np.int64], parts: Sequence[NDArray[np.intp]], seed: int
) -> None:
    """Before the first fold is trained, not before the one that cannot be."""
    if (found := _unlearnable(source, labels, parts)) is not None:
        number, label, images = found
        what = "the only image" if images == 1 else f"all {images} images"
        raise UserError(
            f"{source.root}: fold {number} of {len(parts)} holds out {what} of the class "
            f"{source.classes[label]!r} (seed {seed}), and nothing is left to learn it from: add images of it, "
            "leave the class out, or try another --seed"
        )


def _unlearnable(
    source: ImageSource, labels: NDArray[np.int64], parts: Sequence[NDArray[np.intp]]
) -> tuple[int, int, int] | None:
    """The first fold, from 1, that holds all images of a class; the class; how many these are."""
    total = np.bincount(labels, minlength=len(source.classes))
    for number, part in enumerate(parts, 1):
        alone = np.flatnonzero((np.bincount(labels[part], minlength=len(total)) == total) & (total > 0))
        if len(alone):
            return number, int(alone[0]), int(total[alone[0]])
    return None


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


def _matches(names: Sequence[str], pattern: str, root: str) -> list[str]:
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
