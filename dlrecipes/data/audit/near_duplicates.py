"""Near copies across splits: the same picture re-encoded, scaled, cropped a little or made brighter.

A 64-bit fingerprint, taken where the audit decodes a picture anyway and kept with its other facts, proposes pairs; the
pictures of a pair are then compared. Fingerprints of different pictures collide, of the pairs that also correlate few
are not the same scene.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

__all__ = [
    "KEEP_TOGETHER",
    "LEAST_SIDE",
    "MOST_PAIRS",
    "SMALL_SIDE",
    "TRIED",
    "NearCopies",
    "are_copies",
    "bits_between",
    "close_pairs",
    "comparisons",
    "find_near_copies",
    "fingerprint",
    "found_pairs",
    "may_be_copies",
    "near_copy_warnings",
    "similarity",
    "thumbnail",
    "thumbnails_of",
]

KEEP_TOGETHER = ", or keep groups together with --data.fold_groups"
"""A remedy besides moving near copies: cross validation with what belongs together in one fold."""

LEAST_SIDE = 32
"""Pictures with a shorter side are left out: in so few pixels, as of 28×28 digits, different objects are alike."""

SMALL_SIDE = 64
"""Up to this shorter side a stricter rule holds: one digit or sign of a kind is much like the next."""

_DISTANCE, _SMALL_DISTANCE = 7, 3  # bits
_ALIKE, _SMALL_ALIKE = 0.95, 0.99
_THUMBNAIL = 32
_CROPS = (31, 30, 29)  # of 32: a border of up to 5 % on each side was cut off
_FLAT = 4.0  # grey levels of standard deviation: less is a blank page, whose fingerprint is noise
_BANDS, _BITS = 4, 16
_CHUNK = 2**20  # pairs of fingerprints that are compared at once, 16 MB
TRIED = 3
"""Nearest candidates of an image that are looked at."""

MOST_PAIRS = 4000
"""Pairs whose pictures are compared, for two splits; beyond it the count is a lower bound."""


def fingerprint(pixels: NDArray[np.uint8]) -> int:
    """Which of neighbouring cells of a 9×8 grey thumbnail is the brighter one: 64 bits, the difference hash.

    Of the perceptual hashes that were tried on COCO and BCCD (DCT with its median or signs, differences), it changed
    least with brightness, gamma and crops.

    Args:
        pixels: uint8 [H, W, 3], RGB.

    Returns:
        1 .. 2⁶⁴ − 1; 0, none, for pictures below ``LEAST_SIDE`` and blank ones.

    Example:
        >>> ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 64, axis=0).repeat(3, axis=2)
        >>> fingerprint(ramp) == 2**64 - 1, fingerprint(ramp // 64), fingerprint(ramp[:16])
        (True, 0, 0)
    """
    if min(pixels.shape[:2]) < LEAST_SIDE:
        return 0
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    if cells.std() < _FLAT:
        return 0
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")


def close_pairs(
    queries: NDArray[np.uint64], known: NDArray[np.uint64], distance: int = _DISTANCE
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of fingerprints that differ in at most ``distance`` bits, without comparing all with all.

    Of four bands of 16 bits, one differs in at most ⌊distance / 4⌋ bits (pigeonhole): each band of a query is looked up
    in a sorted index, as it is and with that many bits turned. Memory is O(m + n) and one chunk.

    Args:
        queries, known: uint64 [m] and [n].
        distance: 0..7 bits.

    Returns:
        Positions in ``queries``, in ``known``, and the bits that differ, int64 [p] each; ordered by query, then by
        distance, then by position.

    Raises:
        ValueError: for another distance.

    Example:
        >>> close_pairs(np.array([0b1011], np.uint64), np.array([2**60, 0b1000], np.uint64), 3)
        (array([0]), array([1]), array([2]))
    """
    found = [np.zeros(0, dtype=np.int64), *found_pairs(queries, known, distance)]
    pairs = np.unique(np.concatenate(found))  # a pair may be alike in several bands
    first, second = np.divmod(pairs, max(len(known), 1))
    bits_apart = bits_between(queries[first], known[second])
    by = np.lexsort((second, bits_apart, first))
    return first[by], second[by], bits_apart[by]


def found_pairs(queries: NDArray[np.uint64], known: NDArray[np.uint64], distance: int) -> Iterator[NDArray[np.int64]]:
    """The pairs of `close_pairs` in no order, some of them several times, each as query × len(known) + known.

    Raises:
        ValueError: as `close_pairs`.
    """
    if not 0 <= distance < 2 * _BANDS:
        raise ValueError(f"distance must be in 0..{2 * _BANDS - 1}, got {distance}")
    turned = [0, *(1 << bit for bit in range(_BITS) if distance >= _BANDS)]
    for band in range(_BANDS):
        shift = np.uint64(_BITS * band)
        mask = np.uint64((1 << _BITS) - 1)
        keys = ((known >> shift) & mask).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange((1 << _BITS) + 1))
        wanted = ((queries >> shift) & mask).astype(np.int64)
        for bits in turned:
            yield from _in_buckets(queries, known, wanted ^ bits, order, starts, distance)


def comparisons(fingerprints: NDArray[np.uint64], distance: int) -> int:
    """How many pairs `found_pairs` looks at to compare fingerprints with one another, which says what it costs."""
    total = 0
    for band in range(_BANDS):
        keys = ((fingerprints >> np.uint64(_BITS * band)) & np.uint64((1 << _BITS) - 1)).astype(np.int64)
        counts = np.bincount(keys, minlength=1 << _BITS)
        total += int(counts @ counts)
        if distance >= _BANDS:
            every = np.arange(1 << _BITS)
            total += sum(int(counts @ counts[every ^ (1 << bit)]) for bit in range(_BITS))
    return total


def bits_between(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.int64]:
    """In how many bits fingerprints differ, int64 [n]."""
    return _bit_count(first ^ second)


def _in_buckets(
    queries: NDArray[np.uint64],
    known: NDArray[np.uint64],
    wanted: NDArray[np.int64],
    order: NDArray[np.int64],
    starts: NDArray[np.int64],
    distance: int,
) -> Iterator[NDArray[np.int64]]:
    """Pairs, as query × n + known, of each query with those in its bucket."""
    counts = starts[wanted + 1] - starts[wanted]
    ends = np.cumsum(counts)
    for low in range(0, int(ends[-1]) if len(ends) else 0, _CHUNK):
        position = np.arange(low, min(low + _CHUNK, int(ends[-1])))
        query = np.searchsorted(ends, position, side="right")
        other = order[starts[wanted[query]] + position - (ends[query] - counts[query])]
        near = _bit_count(queries[query] ^ known[other]) <= distance
        yield query[near] * len(known) + other[near]


def _bit_count(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Set bits of each word; ``numpy.bitwise_count`` needs numpy 2."""
    byte_counts = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(-1, 8)
    return np.asarray(byte_counts[octets].sum(axis=1), dtype=np.int64)


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [32, 32], grey, by the mean over areas."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32)


def similarity(first: NDArray[np.float32], second: NDArray[np.float32], *, crops: bool = True) -> float:
    """Correlation of two thumbnails, the larger of several ways to lay one over the other.

    Args:
        first, second: from `thumbnail`.
        crops: either may be the other one without a border: it is scaled down and moved, too.

    Returns:
        −1 .. 1; 1 for pictures that differ in brightness and contrast only.
    """
    found = _correlation(first, second)
    if crops:
        for side in _CROPS:
            for whole, part in ((first, second), (second, first)):
                scaled = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
                found = max(found, _correlation(whole, np.asarray(scaled, dtype=np.float32)))
    return found


def _correlation(whole: NDArray[np.float32], part: NDArray[np.float32]) -> float:
    return float(cv2.matchTemplate(whole, part, cv2.TM_CCOEFF_NORMED).max())


@dataclass(frozen=True)
class NearCopies:
    """Images of one split that are nearly images of an earlier one.

    Attributes:
        split, earlier: names.
        pairs: (row in ``split``, row in ``earlier``), one for each image that has a near copy.
        complete: False where there were more candidates than are looked at: there may be more.
    """

    split: str
    earlier: str
    pairs: tuple[tuple[int, int], ...]
    complete: bool


def find_near_copies(
    splits: Mapping[str, NDArray[np.int64]],
    fingerprints: NDArray[np.uint64],
    digests: Sequence[object] | NDArray[np.uint64],
    sizes: NDArray[np.int64],
    read: Callable[[int], NDArray[np.uint8]],
    *,
    workers: int | None = None,
    show_progress: bool = True,
) -> list[NearCopies]:
    """Images that have a near copy in an earlier split. The same on every rank: nothing is drawn.

    Candidates (at most 7 bits apart) are decoded once more and must correlate by 0.95; up to 64 pixels, 3 bits and
    0.99. Equal pictures are not meant: the audit names them.

    Args:
        splits: rows of the images of each split, in order; ``trainval`` is left out beside ``train``, which it holds.
        fingerprints: uint64 [n], from `fingerprint`.
        digests: n hashes of the decoded pixels.
        sizes: int64 [n, 2], (height, width).
        read: uint8 [H, W, 3] of a row.
        workers: decoding threads; None: as many as cores, at most 16.
        show_progress: a bar on stderr, if that is a terminal.
    """
    names = [name for name in splits if not (name == "trainval" and "train" in splits)]
    small = sizes.min(axis=1) <= SMALL_SIDE
    proposed = []
    for k, split in enumerate(names):
        for earlier in names[:k]:
            pairs, complete = _candidates(splits[split], splits[earlier], fingerprints, digests, small)
            proposed.append((split, earlier, pairs, complete))
    every = [pair for _, _, pairs, _ in proposed for pair in pairs]
    thumbnails = thumbnails_of(every, read, workers=workers, show_progress=show_progress)
    found = []
    for split, earlier, pairs, complete in proposed:
        confirmed: dict[int, int] = {}
        for row, other in pairs:
            strict = bool(small[row] or small[other])
            if row not in confirmed and are_copies(thumbnails[row], thumbnails[other], strict=strict):
                confirmed[row] = other
        if confirmed:
            found.append(NearCopies(split, earlier, tuple(sorted(confirmed.items())), complete))
    return found


def _candidates(
    rows: NDArray[np.int64],
    earlier: NDArray[np.int64],
    fingerprints: NDArray[np.uint64],
    digests: Sequence[object] | NDArray[np.uint64],
    small: NDArray[np.bool_],
) -> tuple[list[tuple[int, int]], bool]:
    """Pairs to look at, the nearest of each image first; whether these are all."""
    rows, earlier = (part[fingerprints[part] != 0] for part in (rows, earlier))
    first, second, apart = close_pairs(fingerprints[rows], fingerprints[earlier])
    first, second = rows[first], earlier[second]
    near = may_be_copies(apart, small[first] | small[second])
    pairs: list[tuple[int, int]] = []
    tried: dict[int, int] = {}
    for row, other in zip(first[near].tolist(), second[near].tolist(), strict=True):
        if row == other or digests[row] == digests[other] or tried.get(row, 0) == TRIED:
            continue
        if len(pairs) == MOST_PAIRS:
            return pairs, False
        tried[row] = tried.get(row, 0) + 1
        pairs.append((row, other))
    return pairs, True


def may_be_copies(apart: NDArray[np.int64], small: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pairs whose pictures are worth comparing, bool [p].

    Args:
        apart: bits between their fingerprints.
        small: whether one of the two is a small picture, of which one is much like the next.
    """
    return (apart <= _SMALL_DISTANCE) | ~small


def are_copies(first: NDArray[np.float32], second: NDArray[np.float32], *, strict: bool) -> bool:
    """Whether two thumbnails are of near copies.

    Args:
        first, second: from `thumbnail`.
        strict: one of them is of a small picture.
    """
    return similarity(first, second, crops=not strict) >= (_SMALL_ALIKE if strict else _ALIKE)


def thumbnails_of(
    pairs: Iterable[tuple[int, int]],
    read: Callable[[int], NDArray[np.uint8]],
    *,
    workers: int | None,
    show_progress: bool,
) -> dict[int, NDArray[np.float32]]:
    """The `thumbnail` of each row that is in a pair; arguments as in `find_near_copies`."""
    rows = sorted({row for pair in pairs for row in pair})
    console = Console(stderr=True)
    # Decoders silence warnings of their own, which is not safe in threads: restore the filters at the end.
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
        done = track(
            pool.map(lambda row: thumbnail(read(row)), rows),
            description="Comparing images",
            total=len(rows),
            console=console,
            transient=True,
            disable=not (show_progress and rows and console.is_terminal),
        )
        return dict(zip(rows, done, strict=True))


def near_copy_warnings(
    found: Iterable[NearCopies], name: Callable[[int], str], *, remedy: str, shown: int = 3
) -> Iterable[str]:
    """One sentence for each two splits.

    Args:
        found: from `find_near_copies`.
        name: of a row.
        remedy: what to do, after "move or remove them".
        shown: examples.

    Example:
        >>> copies = NearCopies("test", "train", ((3, 0),), True)
        >>> next(iter(near_copy_warnings([copies], lambda row: f"{row}.jpg", remedy="")))
        '1 image of test has a near copy in train, which makes results look better: 3.jpg ~ 0.jpg; move or remove it.'
    """
    for copies in found:
        count = len(copies.pairs)
        pairs = ", ".join(f"{name(row)} ~ {name(other)}" for row, other in copies.pairs[:shown])
        more = f" and {count - shown} more" if count > shown else ""
        which = f"{count} image of {copies.split} has" if count == 1 else f"{count} images of {copies.split} have"
        yield (
            f"{'' if copies.complete else 'at least '}{which} a near copy in {copies.earlier}, which makes results "
            f"look better: {pairs}{more}; move or remove {'it' if count == 1 else 'them'}{remedy}."
        )
