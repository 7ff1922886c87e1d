import numpy as np
import pytest

from dlrecipes.data.formats.discover import read_detection
from dlrecipes.errors import UserError


def test_official_layout(tiny):
    source = read_detection(tiny.write_voc())
    assert source.format == "voc"
    tiny.check(source, category_ids=(1, 2, 3))


def test_trainval_shares_its_records_with_train_and_val(tiny):
    tiny.write_voc()
    lines = "".join((tiny.root / f"ImageSets/Main/{s}.txt").read_text() for s in ("train", "val"))
    tiny.write_text("ImageSets/Main/trainval.txt", lines)
    source = read_detection(tiny.root)
    assert list(source.splits) == ["train", "trainval", "val", "test"]
    assert source.splits["trainval"][0] is source.splits["train"][0]
    assert len(source.splits["trainval"]) == 7


def test_lists_per_class_are_no_splits_and_may_carry_flags(tiny):
    tiny.write_voc()
    tiny.write_text("ImageSets/Main/cat_train.txt", "im_0  1\nim_1 -1\n")
    tiny.write_text("ImageSets/Main/val.txt", "im_5  1\nim_6 -1\n\n")
    tiny.check(read_detection(tiny.root))


@pytest.mark.parametrize("images", ["JPEGImages", "images", "."])
@pytest.mark.parametrize("annotations", ["Annotations", "annotations", "."])
def test_without_image_sets_everything_is_unsplit(tiny, images, annotations):
    tiny.write_images(tiny.root / images, tiny.items)
    for item in tiny.items:
        tiny.write_text(f"{annotations}/{item.stem}.xml", tiny.voc_xml(item))
    source = read_detection(tiny.root)
    tiny.check(source, ["all"])
    assert "no split is given" in source.notes


def test_folder_per_split_with_files_side_by_side(tiny):
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        tiny.write_images(tiny.root / folder, tiny.of(split))
        for item in tiny.of(split):
            tiny.write_text(f"{folder}/{item.stem}.xml", tiny.voc_xml(item))
    tiny.check(read_detection(tiny.root))


def test_devkit_folders_are_entered(tiny):
    inner = tiny.root / "VOCdevkit" / "VOC2007"
    inner.mkdir(parents=True)
    outer, tiny.root = tiny.root, inner
    tiny.write_voc()
    tiny.check(read_detection(outer))


def test_files_left_out_are_noted(tiny):
    tiny.write_voc()
    tiny.write_text("ImageSets/Main/test.txt", "")
    tiny.write_images(tiny.root / "JPEGImages", [], ".png")
    source = read_detection(tiny.root)
    tiny.check(source, ["train", "val"])
    assert "annotation files in no split, left out: 1" in source.notes


def test_folders_of_splits_have_no_file_in_no_split_but_pictures_without_one(tiny):
    for split in ("train", "val", "test"):
        tiny.write_images(tiny.root / split, tiny.of(split))
        for item in tiny.of(split):
            tiny.write_text(f"{split}/{item.stem}.xml", tiny.voc_xml(item))
    assert read_detection(tiny.root).notes == ()
    (tiny.root / "train/im 0.xml").unlink()
    assert read_detection(tiny.root).notes == ("images without an annotation file (or in no split), left out: 1",)


@pytest.mark.parametrize("annotations", ["annotations", "Annotations"])
def test_annotations_and_images_in_folders_of_splits(tiny, annotations):
    for split in ("train", "val", "test"):
        tiny.write_images(tiny.root / "images" / split, tiny.of(split))
        for item in tiny.of(split):
            tiny.write_text(f"{annotations}/{split}/{item.stem}.xml", tiny.voc_xml(item))
    tiny.check(read_detection(tiny.root))


def test_corners_are_taken_as_written(tiny):
    """Official files count from 1, today's tools from 0, and no file says which: neither is shifted."""
    tiny.items = tiny.items[:1]
    tiny.items[0].boxes, tiny.items[0].names = [[1.0, 1.0, 64.0, 32.0]], ["cat"]
    tiny.write_images(tiny.root, tiny.items)
    tiny.write_text("im 0.xml", tiny.voc_xml(tiny.items[0]))
    assert read_detection(tiny.root).splits["all"][0].boxes.tolist() == [[1.0, 1.0, 64.0, 32.0]]


def test_listed_file_without_annotation_is_refused(tiny):
    tiny.write_voc()
    tiny.write_text("ImageSets/Main/train.txt", "im_0\nim_77\nim_78\n")
    with pytest.raises(UserError, match=r"train.txt: lists 'im_77' \(and 1 more\), but Annotations/im_77.xml does not"):
        read_detection(tiny.root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", r"im_0.xml: the XML breaks off or is invalid at line 1, column \d+"),
        (
            "<annotation><object><name>cat</name></object></annotation>",
            "im_0.xml, object 1 needs a <name> and a <bndbox>",
        ),
        (
            "<annotation><object><name>cat</name><bndbox><xmin>a</xmin></bndbox></object></annotation>",
            "im_0.xml, object 1: 'a' is not a number",
        ),
    ],
)
def test_broken_xml_is_one_sentence(tiny, text, message):
    tiny.write_voc()
    tiny.write_text("Annotations/im_0.xml", text)
    with pytest.raises(UserError, match=message):
        read_detection(tiny.root)


def test_one_class_spelled_in_two_ways_is_refused(tiny):
    tiny.write_voc()
    tiny.items[5].names = [n.title() for n in tiny.items[5].names]
    tiny.write_text("Annotations/im_5.xml", tiny.voc_xml(tiny.items[5]))
    with pytest.raises(
        UserError, match=r"Class names differ between splits: train has '(\w+)' and val has '\w+'; use one"
    ):
        read_detection(tiny.root)


def test_splits_without_a_common_class_are_refused(tiny):
    tiny.write_voc()
    for item in tiny.of("test"):
        item.names = ["ship" for _ in item.names]
        tiny.write_text(f"Annotations/{item.stem.replace(' ', '_')}.xml", tiny.voc_xml(item))
    with pytest.raises(UserError, match=r"train has 'bird', 'cat', 'dog' and test has 'ship', with none in common"):
        read_detection(tiny.root)


def test_bccd(data_root):
    source = read_detection(data_root / "bccd")
    assert {k: len(v) for k, v in source.splits.items()} == {"train": 205, "trainval": 292, "val": 87, "test": 72}
    assert source.classes == ("Platelets", "RBC", "WBC")
    records = source.splits["trainval"] + source.splits["test"]
    counts = np.bincount(np.concatenate([r.labels for r in records]))
    assert dict(zip(source.classes, counts.tolist(), strict=True)) == {"RBC": 4155, "WBC": 372, "Platelets": 361}
