import json
from pathlib import Path

import numpy as np
import pytest

from dlrecipes.data.formats.discover import read_detection
from dlrecipes.errors import UserError

CATEGORY_IDS = (3, 7, 9)


def test_official_layout_gives_contiguous_labels_and_keeps_the_ids(tiny):
    source = read_detection(tiny.write_coco())
    assert source.format == "coco"
    tiny.check(source, category_ids=CATEGORY_IDS)
    record = source.splits["train"][0]
    assert record.image_id == 100
    assert record.areas.tolist() == [5.5] * len(record.boxes)  # COCO's own area, not the box's


@pytest.mark.parametrize("images", ["images/{}2017", "images/{}", "{}", "data/{}", "images"])
@pytest.mark.parametrize("annotations", ["annotations/instances_{}2017.json", "annotations/{}.json", "{}.json"])
def test_images_are_found_wherever_exporters_put_them(tiny, images, annotations):
    for split in ("train", "val", "test"):
        tiny.write_images(tiny.root / images.format(split), tiny.of(split))
        tiny.write_text(annotations.format(split), tiny.coco_json(tiny.of(split)))
    tiny.check(read_detection(tiny.root), category_ids=CATEGORY_IDS)


@pytest.mark.parametrize("name", ["annotations.json", "labels.json", "annotations/all.json"])
@pytest.mark.parametrize("folder", [".", "images", "data"])
def test_single_file_is_unsplit(tiny, name, folder):
    tiny.write_images(tiny.root / folder, tiny.items)
    tiny.write_text(name, tiny.coco_json(tiny.items))
    source = read_detection(tiny.root)
    tiny.check(source, ["all"], CATEGORY_IDS)
    assert "no split is given" in source.notes
    tiny.check(read_detection(tiny.root / name), ["all"], CATEGORY_IDS)


def test_captions_and_keypoints_beside_instances_are_passed_over(tiny):
    tiny.write_coco()
    for name in ("captions_train2017", "person_keypoints_train2017"):
        tiny.write_text(f"annotations/{name}.json", '{"images": [], "annotations": []}')
    tiny.check(read_detection(tiny.root))


def test_roboflow_layout_leaves_out_its_placeholder_category(tiny):
    def add(categories):
        return [{"id": 0, "name": "animal", "supercategory": "none"}, *categories]

    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        tiny.write_images(tiny.root / folder, tiny.of(split))
        tiny.write_text(f"{folder}/_annotations.coco.json", tiny.coco_json(tiny.of(split), categories=add))
    source = read_detection(tiny.root)
    tiny.check(source, category_ids=CATEGORY_IDS)
    assert any("super-category" in n and "left out" in n for n in source.notes)


def test_category_zero_in_use_is_a_class(tiny):
    def change(categories):
        return [{"id": 0, "name": "animal"}, *categories]

    def use(annotations):
        return [{**annotations[0], "category_id": 0}, *annotations[1:]]

    tiny.write_images(tiny.root, tiny.items)
    tiny.write_text("a.json", tiny.coco_json(tiny.items, categories=change, annotations=use))
    source = read_detection(tiny.root)
    assert source.classes[0] == "animal"
    assert source.category_ids == (0, *CATEGORY_IDS)


def test_classes_are_the_union_over_splits_also_unused_ones(tiny):
    tiny.write_coco()
    more = [{"id": 1, "name": "ant"}, {"id": 3, "name": "bird"}]
    train = tiny.coco_json(tiny.of("train"), categories=lambda c: [*c, {"id": 90, "name": "toothbrush"}])
    tiny.write_text("annotations/instances_train2017.json", train)
    val = tiny.coco_json(tiny.of("val"), categories=more, annotations=[])
    tiny.write_text("annotations/instances_val2017.json", val)
    source = read_detection(tiny.root)
    assert source.classes == ("ant", "bird", "cat", "dog", "toothbrush")
    assert source.category_ids == (1, 3, 7, 9, 90)
    assert any("instances_val2017.json does not declare cat, dog, toothbrush" in n for n in source.notes)
    first = tiny.of("train")[0]
    assert [source.classes[k] for k in source.splits["train"][0].labels] == first.names


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (
            [{"id": 3, "name": "crow"}, {"id": 7, "name": "cat"}],
            r"category id 3 is 'bird' in .*train.* and 'crow' in .*val",
        ),
        ([{"id": 4, "name": "bird"}], r"Class 'bird' has category id 3 in .*train.* and 4 in .*val"),
        (
            [{"id": 3, "name": "bird"}, {"id": 8, "name": "Cat"}],
            r"names differ.*'Cat'.*'cat'|names differ.*'cat'.*'Cat'",
        ),
        ([{"id": 20, "name": "ship"}], r"names differ between splits.*train.*'bird'.*val.*'ship'.*none in common"),
    ],
)
def test_contradicting_class_names_are_refused_with_both_files(tiny, categories, message):
    tiny.write_coco()
    text = tiny.coco_json(tiny.of("val"), categories=categories, annotations=[])
    tiny.write_text("annotations/instances_val2017.json", text)
    with pytest.raises(UserError, match=message):
        read_detection(tiny.root)


def test_json_cut_off_names_line_and_column(tiny):
    tiny.write_coco()
    path = tiny.root / "annotations/instances_train2017.json"
    text = json.dumps(json.loads(path.read_text()), indent=1)
    cut = text[: len(text) // 2]
    path.write_text(cut)
    with pytest.raises(
        UserError, match=rf"instances_train2017.json: the JSON breaks off .* at line {cut.count(chr(10)) + 1}, col"
    ):
        read_detection(tiny.root)


@pytest.mark.parametrize("content", ["", "{", '{"info": 1'])
def test_a_file_cut_off_at_once_is_not_passed_over(tiny, content):
    tiny.write_coco()
    tiny.write_text("annotations/instances_train2017.json", content)
    with pytest.raises(UserError, match=r"instances_train2017.json: the JSON breaks off or is invalid at line 1"):
        read_detection(tiny.root)


def test_images_in_a_folder_of_any_name(tiny):
    tiny.write_images(tiny.root / "photos", tiny.items)
    tiny.write_text("boxes.json", tiny.coco_json(tiny.items))
    tiny.check(read_detection(tiny.root), ["all"])


def _first(**changes):
    return lambda entries: [{**entries[0], **changes}, *entries[1:]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": _first(category_id=4)}, "annotation 1000 has the unknown category id 4"),
        ({"annotations": _first(image_id=5)}, "annotation 1000 belongs to image id 5, which is not under 'images'"),
        ({"annotations": _first(bbox=[1, 2, 3])}, r"annotation 1000: 'bbox' is \[1, 2, 3\]"),
        ({"annotations": _first(bbox=[1, 2, 3, "x"])}, "annotation 1000: 'x' is not a number"),
        ({"annotations": None}, "needs a list of objects under 'annotations'"),
        ({"images": []}, "'images' is empty"),
        ({"images": lambda images: [images[0], *images]}, "image id 100 is missing or used twice"),
        ({"images": _first(file_name=None)}, "image id 100 has no 'file_name'"),
        ({"categories": []}, "'categories' is empty|unknown category"),
        ({"categories": [{"id": "three", "name": "bird"}]}, "needs an integer 'id'"),
        ({"categories": lambda c: [*c, {"id": 3, "name": "crow"}]}, "category id 3 is declared twice"),
    ],
)
def test_broken_content_is_one_sentence_with_file_and_object(tiny, changes, message):
    tiny.write_images(tiny.root, tiny.items)
    tiny.write_text("annotations.json", tiny.coco_json(tiny.items, **changes))
    with pytest.raises(UserError, match=message) as caught:
        read_detection(tiny.root)
    assert "annotations.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("as_id", [str, float])
@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_numbers_written_as_text_or_with_a_decimal_point_are_ids(tiny, key, as_id):
    def change(entries):
        return [{k: as_id(v) if k in ("id", "image_id", "category_id") else v for k, v in e.items()} for e in entries]

    tiny.write_images(tiny.root, tiny.items)
    tiny.write_text("a.json", tiny.coco_json(tiny.items, **{key: change}))
    source = read_detection(tiny.root)
    tiny.check(source, ["all"], CATEGORY_IDS)
    assert [r.image_id for r in source.splits["all"]] == [100 + item.number for item in tiny.items]


@pytest.mark.parametrize("folder", ["/home/someone/photos", "../../media/upload/1", "C:\\photos"])
def test_names_with_folders_of_another_machine(tiny, folder):
    def change(images):
        separator = "\\" if "\\" in folder else "/"
        return [{**image, "file_name": f"{folder}{separator}{image['file_name']}"} for image in images]

    tiny.write_images(tiny.root / "images", tiny.items)
    tiny.write_text("result.json", tiny.coco_json(tiny.items, images=change))
    tiny.check(read_detection(tiny.root), ["all"], CATEGORY_IDS)


def test_names_that_only_their_folders_tell_apart_are_not_guessed(tiny):
    def change(images):
        return [{**image, "file_name": f"/home/{image['id']}/photo.png"} for image in images]

    tiny.write_images(tiny.root / "images", tiny.items)
    (tiny.root / "images/im 0.png").rename(tiny.root / "images/photo.png")
    tiny.write_text("result.json", tiny.coco_json(tiny.items, images=change))
    with pytest.raises(UserError, match="annotations for missing images"):
        read_detection(tiny.root)


def test_no_image_at_all_says_where_it_looked(tiny):
    (tiny.root / "images").mkdir()
    tiny.write_text("annotations.json", tiny.coco_json(tiny.items))
    with pytest.raises(UserError, match=r"missing images: none of its 8 images, such as 'im 0.png', is in .*images"):
        read_detection(tiny.root)


def test_two_files_for_one_split_are_refused(tiny):
    tiny.write_images(tiny.root, tiny.items)
    for year in (2014, 2017):
        tiny.write_text(f"annotations/instances_train{year}.json", tiny.coco_json(tiny.items))
    with pytest.raises(UserError, match=r"train2014.json and .*train2017.json both describe the split 'train'"):
        read_detection(tiny.root)


def test_crowd_area_and_missing_boxes(tiny):
    def change(annotations):
        crowd = {**annotations[0], "iscrowd": 1, "area": 0}
        unknown = {k: v for k, v in annotations[1].items() if k != "area"}
        return [crowd, unknown, {**annotations[2], "bbox": []}, *annotations[3:]]

    tiny.write_images(tiny.root, tiny.items)
    tiny.write_text("a.json", tiny.coco_json(tiny.items, annotations=change))
    source = read_detection(tiny.root)
    first, second = source.splits["all"][:2]
    assert first.iscrowd.tolist() == [True]
    x1, y1, x2, y2 = first.boxes[0]
    assert first.areas[0] == (x2 - x1) * (y2 - y1)  # an area of 0 means "not known"
    assert len(second.boxes) == 1
    assert [(p.kind, p.where) for p in source.problems] == [
        ("annotation without a box (dropped)", "a.json, annotation 1011")
    ]


def test_tiny_coco(data_root):
    source = read_detection(data_root / "tiny_coco")
    assert {k: len(v) for k, v in source.splits.items()} == {"train": 50, "val": 50}
    assert len(source.classes) == len(source.category_ids) == 80
    assert (source.classes[0], source.category_ids[0]) == ("person", 1)
    assert (source.classes[-1], source.category_ids[-1]) == ("toothbrush", 90)
    assert 12 not in source.category_ids  # one of COCO's ten gaps
    assert sum(len(r.boxes) for r in source.splits["train"]) == 470
    assert all(Path(r.path).is_file() for records in source.splits.values() for r in records)
    labels = np.concatenate([r.labels for r in source.splits["train"]])
    ids = [source.category_ids[k] for k in labels]
    content = json.loads((data_root / "tiny_coco/annotations/instances_train2017.json").read_text())
    assert sorted(ids) == sorted(a["category_id"] for a in content["annotations"])


def _in_two_folders(tiny, first, second, names="{}"):
    """The training images shared out between two folders, and COCO's file for them."""
    halves = {first: tiny.of("train")[:3], second: tiny.of("train")[3:]}
    for folder, items in halves.items():
        tiny.write_images(tiny.root / folder, items)
    folder_of = {f"{i.stem}.png": Path(folder).name for folder, items in halves.items() for i in items}

    def rename(images):
        return [
            image | {"file_name": names.format(image["file_name"], folder=folder_of[image["file_name"]])}
            for image in images
        ]

    tiny.write_text("annotations/train.json", tiny.coco_json(tiny.of("train"), images=rename))


@pytest.mark.parametrize("names", ["{}", "{folder}/{}", "/home/me/data/{folder}/{}", "elsewhere/{}"])
def test_images_of_one_split_may_lie_in_two_folders(tiny, names):
    _in_two_folders(tiny, "images/train", "images/extra", names)
    source = read_detection(tiny.root)
    tiny.check(source, ["train"], CATEGORY_IDS)
    told = "train: 2 of 5 images from images/extra, others from images/train" in source.notes
    assert told == ("folder" not in names)


def test_an_image_is_not_taken_from_another_split_nor_from_a_folder_of_twins(tiny):
    tiny.write_images(tiny.root / "images/train", tiny.of("train")[:3])
    tiny.write_images(tiny.root / "masks", tiny.of("train")[2:])
    tiny.write_images(tiny.root / "images/val", tiny.of("train")[3:])
    tiny.write_text("annotations/train.json", tiny.coco_json(tiny.of("train")))
    records = read_detection(tiny.root).splits["train"]
    assert [Path(r.path).parent.name for r in records] == ["train"] * 5
    assert [Path(r.path).is_file() for r in records] == [True, True, True, False, False]


def test_an_image_that_lies_in_two_further_folders_is_asked_about(tiny):
    _in_two_folders(tiny, "images/train", "images/extra")
    tiny.write_images(tiny.root / "images/more", tiny.of("train")[3:])
    with pytest.raises(UserError, match=r"'im 3\.png' is in images/extra and in images/more; write its folder before"):
        read_detection(tiny.root)


def test_equal_names_in_two_folders_of_another_machine(tiny):
    items = tiny.of("train")[:2]
    for item, folder in zip(items, ("morning", "evening"), strict=True):
        tiny.write_images(tiny.root / "images" / folder, [item])
        (tiny.root / "images" / folder / f"{item.stem}.png").rename(tiny.root / "images" / folder / "1.png")
    places = [{"file_name": f"/home/me/{folder}/1.png"} for folder in ("morning", "evening")]
    images = [
        {**image, **place} for image, place in zip(json.loads(tiny.coco_json(items))["images"], places, strict=True)
    ]
    tiny.write_text("annotations/train.json", tiny.coco_json(items, images=images))
    paths = [Path(r.path) for r in read_detection(tiny.root).splits["train"]]
    assert [p.relative_to(tiny.root).as_posix() for p in paths] == ["images/morning/1.png", "images/evening/1.png"]
    assert all(p.is_file() for p in paths)


def _changed(tiny, change):
    tiny.write_coco()
    file = tiny.root / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return content


def test_a_polygon_without_a_box_has_the_box_around_it(tiny):
    def change(content):
        x, y, width, height = content["annotations"][0].pop("bbox")
        corners = [x, y, x + width, y, x + width / 2, y + height]
        content["annotations"][0]["segmentation"] = [corners, [x, y, x, y, x, y]]

    _changed(tiny, change)
    source = read_detection(tiny.root)
    tiny.check(source)
    assert "polygons without a box, of which the box around each is used: 1" in " ".join(source.notes)


def test_masks_alone_are_one_sentence(tiny):
    def change(content):
        for annotation in content["annotations"]:
            del annotation["bbox"]
            annotation["segmentation"] = {"size": [8, 8], "counts": [0, 64]}

    _changed(tiny, change)
    with pytest.raises(UserError, match=r"none of its \d+ annotations has a 'bbox', and masks \(RLE\) are not read"):
        read_detection(tiny.root)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("images", "width", "wide", "has the width 'wide'; correct it"),
        ("images", "height", [32], r"has the height \[32\]; correct it"),
        ("images", "id", [1], "which is not under 'images'"),
        ("annotations", "category_id", [1], r"unknown category id '\[1\]'"),
        ("annotations", "image_id", {}, "belongs to image id '{}'"),
    ],
)
def test_values_of_another_kind_are_one_sentence(tiny, part, key, value, message):
    _changed(tiny, lambda content: content[part][0].update({key: value}))
    with pytest.raises(UserError, match=message):
        read_detection(tiny.root)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_with_a_mark_of_its_encoding(tiny, encoding):
    tiny.write_coco()
    for file in (tiny.root / "annotations").iterdir():
        file.write_bytes(file.read_text().encode(encoding))
    tiny.check(read_detection(tiny.root), category_ids=CATEGORY_IDS)
