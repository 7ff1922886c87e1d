import numpy as np
import pytest
import torch
from PIL import Image

from dlrecipes.runs.pictures.tiles import class_color, draw_boxes, draw_tile, save_grid


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_small_image_is_enlarged_with_its_boxes():
    image = torch.full((3, 20, 40), 255, dtype=torch.uint8)
    tile = np.asarray(draw_tile(image, torch.tensor([[10.0, 5.0, 30.0, 15.0]]), [""], [(255, 0, 0)], "", 400))
    assert tile.shape[1] == 400
    line = tile.shape[0] - 200
    red = np.argwhere((tile == (255, 0, 0)).all(-1))
    assert red.min(0).tolist() == [50 + line, 100]
    assert red.max(0).tolist() == [150 + line, 300]


def test_labels_stay_inside_the_picture():
    image = Image.new("RGB", (120, 60))
    draw_boxes(image, torch.tensor([[100.0, 0.0, 119.0, 50.0]]), ["a long name"], [(0, 255, 0)])
    green = np.argwhere((np.asarray(image) == (0, 255, 0)).all(-1))
    assert green[:, 1].min() < 40  # moved to the left, since there is no room on the right
    assert green[:, 0].min() == 0


def test_boxes_without_area_or_outside_do_no_harm():
    image = Image.new("RGB", (50, 50))
    boxes = torch.tensor([[5.0, 5.0, 5.0, 9.0], [9.0, 9.0, 4.0, 4.0], [-90.0, -90.0, -50.0, -40.0]])
    draw_boxes(image, boxes, ["", "", ""], [(255, 0, 0)] * 3)
    assert not np.asarray(image).any()


def test_long_caption_is_cut():
    image = torch.zeros(3, 10, 10, dtype=torch.uint8)
    tile = draw_tile(image, torch.zeros(0, 4), [], [], "x" * 500, 100)
    assert tile.width == 100


def test_grid_keeps_every_tile_and_replaces_the_old_file(tmp_path):
    path = tmp_path / "new" / "grid.png"
    tiles = [Image.new("RGB", (30, h), color) for h, color in ((10, "red"), (50, "lime"), (20, "blue"))]
    save_grid(tiles, 2, path)
    picture = read(path)
    for tile, color in zip(tiles, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True):
        assert (picture == color).all(-1).sum() == tile.width * tile.height
    save_grid(tiles[:1], 2, path)
    assert read(path).shape[0] < picture.shape[0]
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]
    with pytest.raises(ValueError, match="0 tiles"):
        save_grid([], 2, path)


def test_ten_classes_have_ten_colours_and_any_label_has_one():
    assert len({class_color(i) for i in range(10)}) == 10
    assert class_color(1000) == class_color(1000)
