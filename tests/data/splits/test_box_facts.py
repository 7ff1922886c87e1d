import numpy as np
import pytest
from PIL import Image

from dlrecipes.data.formats.records import DetectionSource, make_record
from dlrecipes.data.splits.box_facts import files_info


def source(folder, sizes):
    records = []
    for number, (width, height) in enumerate(sizes):
        path = folder / f"{number}.png"
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
        records.append(make_record(str(path), (width, height), [(0.0, 0.0, 5.0, 5.0)], [0], number))
    return DetectionSource(str(folder), "csv", {"train": records}, ("a",), (1,))


@pytest.mark.parametrize(
    ("sizes", "image_size", "shorter", "shape"),
    [
        ([(40, 30), (80, 60), (30, 40), (16, 16)], 32, None, (24, 32)),  # 4 : 3 in two sizes
        ([(30, 40)], 32, None, (32, 24)),
        ([(40, 20), (40, 20), (20, 40)], 30, 20, (15, 30)),  # the longer side limits
    ],
)
def test_shape_that_most_training_images_are_scaled_to(sizes, image_size, shorter, shape, tmp_path):
    info = files_info(source(tmp_path, sizes), "train", image_size=image_size, shortest_side=shorter)
    assert info.image_shape == shape
    assert type(info).from_dict(info.to_dict()) == info
