"""Objects against the places that a model has for them at an image's size."""

import pytest

from dlrecipes.data.audit.crowds import fewest_places
from dlrecipes.data.formats.records import DetectionRecord, make_record
from dlrecipes.errors import UserError


def record(width: int, height: int, objects: int) -> DetectionRecord:
    boxes = [(1.0 * i, 0.0, 1.0 * i + 1.0, 4.0) for i in range(objects)]
    return make_record(f"{width}x{height}.png", (width, height), boxes, [0] * objects, 0)


def cells(height: int, width: int) -> int:
    return -(-height // 16) * -(-width // 16)


def test_the_narrowest_image_counts() -> None:
    records = [record(640, 480, 5), record(640, 200, 12), record(100, 100, 36)]
    assert fewest_places(records, cells, 96) == 2 * 6  # 30 x 96 pixels
    assert fewest_places(records, cells, 200, 96) == 6 * 6  # 96 x 96
    assert fewest_places([], cells, 96) == 0


def test_an_image_without_places_for_its_objects_is_named() -> None:
    with pytest.raises(UserError, match=r"640x200.png holds 13 objects, .* only 12 places for them at 30 x 96 pixels"):
        fewest_places([record(640, 480, 5), record(640, 200, 13)], cells, 96)
