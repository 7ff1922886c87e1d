import os

import pytest

from dlrecipes.data.formats.discover import read_detection
from dlrecipes.data.formats.layout import check_class_names
from dlrecipes.errors import UserError


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo", "csv"])
def test_every_format_gives_the_same_records(tiny, layout):
    source = read_detection(str(tiny.write(layout)))
    assert source.format == layout
    assert list(source.splits) == ["train", "val", "test"]
    tiny.check(source)


def test_a_lone_folder_is_entered_and_coco_goes_first(tiny):
    outer = tiny.root
    tiny.root = outer / "archive" / "animals"
    tiny.root.mkdir(parents=True)
    tiny.write_yolo()
    tiny.write_coco()
    assert read_detection(outer).format == "coco"


def test_missing_path(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist; give the folder") as caught:
        read_detection(tmp_path / "nowhere")
    assert caught.value.exit_code == 2


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match=r"is empty; give a folder with images and COCO JSON"):
        read_detection(tmp_path)


def test_images_alone_say_what_was_looked_for(tiny):
    tiny.write_images(tiny.root / "images", tiny.items)
    with pytest.raises(UserError, match=r"no known annotation format; looked for COCO JSON .*VOC .*YOLO .*CSV"):
        read_detection(tiny.root)


def test_a_file_of_another_kind(tiny):
    tiny.write_images(tiny.root, tiny.items)
    with pytest.raises(UserError, match=r"im 0.png is no annotation file"):
        read_detection(tiny.root / "im 0.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_folder(tiny):
    tiny.root.chmod(0)
    try:
        with pytest.raises(UserError, match="cannot be read"):
            read_detection(tiny.root)
    finally:
        tiny.root.chmod(0o700)


def test_a_class_that_one_split_lacks_is_fine():
    check_class_names({"train": {"cat", "dog"}, "val": {"cat", "eel"}, "test": set()})
