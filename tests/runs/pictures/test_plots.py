import numpy as np
import pytest
import torch
from PIL import Image

from dlrecipes.runs.pictures.image_plots import (
    draw_class_bars,
    draw_class_confusion,
    draw_class_curves,
    draw_reliability,
)
from dlrecipes.runs.pictures.tiles import draw_image_tile, draw_tile, to_uint8

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("classes", [2, 60])
def test_few_and_many_classes_with_long_names_fit_in_a_picture(tmp_path, classes):
    names = [f"a class with a name that no axis has room for, number {i}" for i in range(classes)]
    labels = GENERATOR.integers(0, classes, 300)
    probabilities = GENERATOR.random((300, classes)).astype(np.float32)
    truth = labels[:, None] == np.arange(classes)
    draw_class_confusion(labels, probabilities.argmax(1), names, tmp_path / "c.png", "test")
    draw_class_curves(truth, probabilities, names, range(classes), tmp_path / "p.png", "title")
    draw_class_bars(truth, probabilities, names, tmp_path / "b.png", "test")
    draw_reliability(probabilities.max(1), truth[:, 0], tmp_path / "r.png", title="title")
    for name in "cpbr":
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert 320 < min(picture.size) <= max(picture.size) < 3000


def test_a_tile_has_its_frame_and_as_high_a_text_as_it_has_lines():
    image = torch.full((3, 8, 8), 9, dtype=torch.uint8)
    tile = np.asarray(draw_image_tile(image, ["a", "b"], 100, (255, 0, 0)))
    assert tile.shape == (150, 100, 3)
    frame = (tile == (255, 0, 0)).all(-1)
    assert frame.sum() == 100 * 100 - 94 * 94
    assert not frame[:50].any()
    assert (np.asarray(draw_image_tile(image, [], 100)) == 9).all()


def test_a_long_caption_keeps_the_number_at_its_end():
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    none = torch.zeros(0, 4)
    ends = [
        np.asarray(draw_tile(image, none, [], [], "said " + "long " * 50 + end, 200))[:25] for end in (".70", ".31")
    ]
    assert (ends[0] != ends[1]).any()


def test_mixed_images_become_uint8_again():
    assert to_uint8(torch.tensor([-3.0, 0.6, 254.5, 300.0])).tolist() == [0, 1, 254, 255]
