import numpy as np
import pytest
from PIL import Image

from dlrecipes.data.formats.discover import read_detection
from dlrecipes.data.formats.walk import image_files
from dlrecipes.data.loading.predict import find_images


@pytest.fixture
def photos(tmp_path):
    """A folder that links to another one, to the folder around itself, and twice to one within it."""
    for name in ("photos/a.png", "photos/deep/b.png", "store/c.JPG", "photos/.hidden/d.png", "photos/._a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "photos/linked").symlink_to(tmp_path / "store")
    (tmp_path / "photos/around").symlink_to("..")
    (tmp_path / "photos/twice").symlink_to("deep")
    (tmp_path / "photos/notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_linked_folders_are_read_once(photos):
    assert sorted(image_files(photos)) == [str(photos / n) for n in ("a.png", "deep/b.png", "linked/c.JPG")]


def test_prediction_finds_what_training_does(photos):
    (photos / "gone.png").symlink_to("nowhere.png")
    assert find_images(photos) == [str(photos / n) for n in ("a.png", "deep/b.png", "linked/c.JPG")]


def test_folders_of_yolo_are_followed_as_well(tiny):
    tiny.write_yolo()
    for kind in ("images", "labels"):
        (tiny.root / kind / "train").rename(tiny.root.parent / kind)
        (tiny.root / kind / "train").mkdir()
        (tiny.root / kind / "train/linked").symlink_to(tiny.root.parent / kind)
    tiny.check(read_detection(tiny.root))
