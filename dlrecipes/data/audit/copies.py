"""Groups of images that are copies or near copies of one another, found before a data set is divided.

The audit warns of near copies across splits that exist; where splits are still to be made, they can be kept together.
What decoding showed is remembered, so that the audit that follows decodes nothing anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dlrecipes.data.audit.image_probe import probe_source
from dlrecipes.data.audit.near_duplicates import (
    MOST_PAIRS,
    SMALL_SIDE,
    TRIED,
    are_copies,
    bits_between,
    comparisons,
    found_pairs,
    may_be_copies,
    thumbnails_of,
)
from dlrecipes.data.audit.probe import probe_images
from dlrecipes.data.formats.image_source import ImageFiles
from dlrecipes.data.formats.records import DetectionRecord
from dlrecipes.data.loading.decode import read_image

__all__ = ["Copies", "box_copies", "connected", "copy_groups", "image_copies"]

_DISTANCES = (7, 3)  # bits; the second, where all pairs within the first would be too many
_MOST_COMPARED = 2**28  # pairs of fingerprints: half a minute at most
_MOST_FOUND = 2**22  # of these, 32 MB


@dataclass(frozen=True, eq=False)
class Copies:
    """Which images belong together.

    Attributes:
        groups: int64 [n], a number for each image, from 0 without gaps: images of one number are copies of one another,
            or copies of copies.
        complete: False where more images are alike than are compared: there may be more copies.
    """

    groups: NDArray[np.int64]
    complete: bool


def image_copies(pool: ImageFiles, others: Sequence[ImageFiles], root: str) -> Copies:
    """Copies among labelled images that are to be divided.

    Args:
        pool: images to divide.
        others: the other images of the data set, which are decoded with them, so that all are remembered at once.
        root: of the data set.
    """
    facts = probe_source([pool, *others], root)
    part = slice(0, len(pool))
    return copy_groups(facts.fingerprint[part], facts.digest[part], facts.sizes[part], pool.read)


def box_copies(pool: Sequence[DetectionRecord], others: Sequence[DetectionRecord], root: str) -> Copies:
    """Copies among annotated images that are to be divided; arguments as in `image_copies`."""
    facts = probe_images([record.path for record in (*pool, *others)], root)
    known = [facts[record.path] for record in pool]
    return copy_groups(
        np.array([fact.fingerprint for fact in known], dtype=np.uint64),
        np.array([fact.digest for fact in known], dtype=np.str_),
        np.array([(fact.height, fact.width) for fact in known], dtype=np.int64).reshape(-1, 2),
        lambda row: read_image(pool[row].path),
    )


def copy_groups(
    fingerprints: NDArray[np.uint64],
    digests: NDArray[np.uint64] | NDArray[np.str_],
    sizes: NDArray[np.int64],
    read: Callable[[int], NDArray[np.uint8]],
    *,
    workers: int | None = None,
    show_progress: bool = True,
) -> Copies:
    """Images with equal pixels, and those that `dlrecipes.data.audit.near_duplicates` calls near copies.

    Equal ones cost nothing. Of the others the nearest pairs are decoded once more, 4,000 at most. The same on every
    rank: nothing is drawn.

    Args:
        fingerprints, digests, sizes, read, workers, show_progress: as in
            `dlrecipes.data.audit.near_duplicates.find_near_copies`; a size of 0: the image could not be decoded, and is
            a copy of none.
    """
    decoded = np.flatnonzero(sizes.min(axis=1, initial=2**31) > 0)
    _, first, same = np.unique(digests[decoded], return_index=True, return_inverse=True)
    edges = [np.stack([decoded, decoded[first][same.reshape(-1)]])]
    distinct = np.sort(decoded[first])
    candidates, complete = _candidates(distinct[fingerprints[distinct] != 0], fingerprints, sizes)
    thumbnails = thumbnails_of(candidates, read, workers=workers, show_progress=show_progress)
    small = sizes.min(axis=1, initial=2**31) <= SMALL_SIDE
    alike = [
        pair
        for pair in candidates
        if are_copies(thumbnails[pair[0]], thumbnails[pair[1]], strict=bool(small[list(pair)].any()))
    ]
    edges.append(np.array(alike, dtype=np.int64).reshape(-1, 2).T)
    return Copies(connected(len(sizes), np.concatenate(edges, axis=1)), complete)


def connected(count: int, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of what hangs together, in the order of first occurrence.

    Args:
        count: n items.
        edges: int64 [2, m], pairs of items.

    Returns:
        int64 [n].

    Example:
        >>> connected(5, np.array([[0, 1], [3, 4]])).tolist()
        [0, 1, 2, 0, 1]
    """
    links = coo_array((np.ones(edges.shape[1], dtype=np.int8), (edges[0], edges[1])), shape=(count, count))
    found: NDArray[np.int64] = np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse.reshape(-1)], dtype=np.int64)


def _candidates(
    rows: NDArray[np.int64], fingerprints: NDArray[np.uint64], sizes: NDArray[np.int64]
) -> tuple[list[tuple[int, int]], bool]:
    """Pairs of rows to look at, the nearest first, a few for each image; whether these are all."""
    known = fingerprints[rows]
    small = sizes[rows].min(axis=1, initial=2**31) <= SMALL_SIDE
    first, second, complete = _near(known, _DISTANCES[1:] if small.all() else _DISTANCES)
    apart = bits_between(known[first], known[second])
    near = may_be_copies(apart, small[first] | small[second])
    first, second, apart = first[near], second[near], apart[near]
    order = np.lexsort((second, first, apart))
    tried = np.zeros(len(rows), dtype=np.int64)
    pairs: list[tuple[int, int]] = []
    for one, other in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if tried[one] >= TRIED and tried[other] >= TRIED:
            continue
        if len(pairs) == MOST_PAIRS:
            return pairs, False
        tried[[one, other]] += 1
        pairs.append((int(rows[one]), int(rows[other])))
    return pairs, complete


def _near(known: NDArray[np.uint64], distances: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Pairs of near fingerprints, each once; whether all within the first distance are found.

    Frames of a film are alike all with all: where pairs would be too many, a smaller distance has to do, and at last
    equal fingerprints, each with the next.
    """
    for distance in distances:
        if comparisons(known, distance) > _MOST_COMPARED:
            continue
        codes, found = [np.zeros(0, dtype=np.int64)], 0
        for part in found_pairs(known, known, distance):
            above = part[part // max(len(known), 1) < part % max(len(known), 1)]
            codes.append(above)
            found += len(above)
            if found > _MOST_FOUND:
                break
        else:
            first, second = np.divmod(np.unique(np.concatenate(codes)), max(len(known), 1))
            return first, second, distance == distances[0]
    order = np.argsort(known, kind="stable")
    equal = [(a, b) for a, b in pairwise(order.tolist()) if known[a] == known[b]]
    pairs = np.array(equal, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], False
