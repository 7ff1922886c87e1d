"""Copies and near copies kept in one split or fold, as far as splits can still be made."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.audit.copies import Copies, connected
from dlrecipes.functional.words import counted

__all__ = ["KeptTogether", "keep_together"]


@dataclass(frozen=True, eq=False)
class KeptTogether:
    """Who has to be in one part.

    Attributes:
        groups: int64 [n], the group of each image, from 0 without gaps.
        kept: groups in which copies brought together what would have been apart, and the images in them.
        spread: groups of copies that no part could hold, and the images in them.
        complete: False: there may be more copies.
    """

    groups: NDArray[np.int64]
    kept: tuple[int, int]
    spread: tuple[int, int]
    complete: bool

    def note(self, part: str) -> str:
        """What was done, for the report; empty where there is nothing to say.

        Args:
            part: what images are divided into: ``"split"`` or ``"fold"``.

        >>> KeptTogether(np.zeros(0, np.int64), (12, 25), (0, 0), True).note("split")
        '12 groups of near copies (25 images) are kept in one split each'
        """
        said = []
        if self.kept[0]:
            are = "is kept in one" if self.kept[0] == 1 else "are kept in one"
            each = "" if self.kept[0] == 1 else " each"
            least = "" if self.complete else "at least "
            named = counted(self.kept[0], "group")
            said.append(f"{least}{named} of near copies ({self.kept[1]:,} images) {are} {part}{each}")
        if self.spread[0]:
            some, are = counted(self.spread[0], "group"), "is" if self.spread[0] == 1 else "are"
            said.append(
                f"{some} of near copies ({self.spread[1]:,} images, frames of a film?) {are} spread, since a {part} "
                "cannot hold so many, or most images of a class: results look better than they are; give splits, or "
                "--folds with --data.fold_groups"
            )
        if not self.complete:
            said.append("not all images could be compared with one another")
        return "; ".join(said)


def keep_together(
    base: Sequence[Hashable],
    copies: Copies,
    parts: Sequence[float],
    class_counts: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
) -> KeptTogether:
    """Groups of images: those that belong together anyway, put together further by what are copies.

    What copies put together is taken apart again where it has more images than the largest part should have, or where
    a part that holds it would leave hardly any images of a class to the others, as with the frames of one film: then
    there would be no usable split at all.

    Args:
        base: what the images that are in one part anyway share, such as their name or the group that the user gave.
        copies: of the same images.
        parts: wished proportions.
        class_counts: of some images (positions, int64 [k]), how many show each class, int64 [C]; None: no classes.
    """
    count = len(base)
    first: dict[Hashable, int] = {}
    own = np.array([first.setdefault(key, i) for i, key in enumerate(base)], dtype=np.int64)
    images = np.arange(count)
    _, start = np.unique(copies.groups, return_index=True)
    joined = connected(count, np.stack([np.concatenate([images, images]), np.concatenate([own, start[copies.groups]])]))
    share = np.asarray(parts, dtype=np.float64) / np.sum(parts)
    order = np.argsort(joined, kind="stable")
    sizes = np.bincount(joined)
    totals = None if class_counts is None else class_counts(images)
    kept, spread, loose = [], [], np.zeros(count, dtype=np.bool_)
    for members in np.split(order, np.cumsum(sizes)[:-1]):
        if len(members) == 1 or (own[members] == own[members[0]]).all():
            continue
        here = np.zeros(0) if class_counts is None else class_counts(members)
        most = np.zeros(0) if totals is None else (1 - share.min()) * totals
        if len(members) > share.max() * count or ((here > 1) & (here > most)).any():
            spread.append(len(members))
            loose[members] = True
        else:
            kept.append(len(members))
    groups = connected(count, np.stack([images, np.where(loose, own, _first_of(joined)[joined])]))
    return KeptTogether(groups, (len(kept), sum(kept)), (len(spread), sum(spread)), copies.complete)


def _first_of(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first image of each group."""
    return np.asarray(np.unique(groups, return_index=True)[1], dtype=np.int64)
