"""Which pictures were annotated as their EXIF orientation turns them: what nobody writes down is found out.

Today's labelling tools show a picture turned, and YOLO's trainers read it so. COCO's own tools and older programs take
the pixels as they are stored. The size that an annotation states tells which it was, and so may boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.audit.probe import ImageFacts
from dlrecipes.data.formats.records import DetectionRecord

__all__ = ["fits_turned_only", "turned_pictures"]

_BEYOND = 0.02  # of a side: a box that ends so far outside was not drawn on this picture


def turned_pictures(
    records: Sequence[DetectionRecord], facts: Mapping[str, ImageFacts], file_format: str
) -> frozenset[str]:
    """Paths of the pictures that are to be read turned upright, so that their boxes lie where they were drawn.

    In YOLO's format, whose boxes are shares of a side, all that have an orientation. Otherwise those whose annotation
    states the size of the turned picture. An annotation that states no size, or one that is the same either way (square
    pictures, turns by 180 degrees, mirrored ones), goes as most others of the data set, and where none states a size,
    all go by whether more boxes leave the stored pictures than the turned ones.

    Args:
        records: with the sizes that the annotations state (0: none), and finite boxes.
        facts: of the stored pictures, by path.
        file_format: of the data set.
    """
    told = [r for r in records if facts[r.path].orientation in range(2, 9)]
    if file_format == "yolo":
        return frozenset(r.path for r in told)
    stated = [_states_turned(record, facts[record.path]) for record in told]
    if any(answer is not None for answer in stated):
        usual = stated.count(True) > stated.count(False)
    else:
        usual = _fit_better_turned(told, facts)
    return frozenset(r.path for r, answer in zip(told, stated, strict=True) if (usual if answer is None else answer))


def fits_turned_only(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Boxes that end beyond the stored picture and within the one that is turned by 90 degrees.

    Args:
        boxes: float64 [n, 4], corners.
        size: (width, height) of the stored picture.

    Returns:
        bool [n].

    Example:
        >>> fits_turned_only(np.array([[4.0, 40, 20, 60], [4, 4, 20, 20]]), (64, 32)).tolist()
        [True, False]
    """
    limit = np.array(size, dtype=np.float64) * (1 + _BEYOND)
    beyond, beyond_turned = boxes[:, 2:] > limit, boxes[:, 2:] > limit[::-1]
    return np.asarray(beyond.any(axis=1) & ~beyond_turned.any(axis=1), dtype=np.bool_)


def _states_turned(record: DetectionRecord, fact: ImageFacts) -> bool | None:
    """Whether the stated size is that of the turned picture; None: it does not tell."""
    stored = (fact.width, fact.height)
    if (record.width, record.height) not in (stored, fact.shown_size) or stored == fact.shown_size:
        return None
    return (record.width, record.height) == fact.shown_size


def _fit_better_turned(records: Sequence[DetectionRecord], facts: Mapping[str, ImageFacts]) -> bool:
    turned = stored = 0
    for record in records:
        fact = facts[record.path]
        if fact.orientation in range(5, 9):
            turned += int(fits_turned_only(record.boxes, (fact.width, fact.height)).sum())
            stored += int(fits_turned_only(record.boxes, fact.shown_size).sum())
    return turned > stored
