"""How many objects fit into an image of its size, where a model's places for them depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dlrecipes.data.augment.geometry import longest_side, shortest_side
from dlrecipes.data.formats.records import DetectionRecord
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted

__all__ = ["fewest_places"]


def fewest_places(
    records: Iterable[DetectionRecord],
    places: Callable[[int, int], int],
    image_size: int,
    shorter: int | None = None,
) -> int:
    """The fewest places that any image has, after each was seen to have enough for its objects; 0 without images.

    Args:
        records: of one split; crowd regions do not count.
        places: (height, width) in pixels after the evaluation transform -> most objects that the model can find.
        image_size, shorter: of that transform: ``DataInfo.image_size`` and ``DataInfo.shortest_side``.

    Raises:
        UserError: an image holds more objects than the model has places for at its size.

    Example:
        >>> from dlrecipes.data.formats.records import make_record
        >>> wide = make_record("wide.png", (64, 32), [(0.0, 0.0, 5.0, 5.0)], [0], 0)
        >>> fewest_places([wide], lambda height, width: (height // 16) * (width // 16), 96)
        18
    """
    fewest: dict[tuple[int, int], int] = {}
    for record in records:
        shape = (record.height, record.width)
        sides = longest_side(shape, image_size) if shorter is None else shortest_side(shape, shorter, image_size)
        if sides not in fewest:
            fewest[sides] = places(*sides)
        objects = int((~record.iscrowd).sum())
        if objects > fewest[sides]:
            room = counted(fewest[sides], "place")
            raise UserError(
                f"{record.path} holds {counted(objects, 'object')}, and the model has only {room} for them at "
                f"{sides[0]} x {sides[1]} pixels: set --data.image_size larger, --model.model.feature_stride smaller "
                "or --model.model.num_queries higher."
            )
    return min(fewest.values(), default=0)
