import json

import numpy as np
import pytest

from dlrecipes.data.audit.audit_boxes import audit
from dlrecipes.data.formats.discover import holds_detection, read_detection
from dlrecipes.data.formats.discover_images import read_images
from dlrecipes.errors import UserError


def _region(item, box, name, **value):
    (width, height), (x1, y1, x2, y2) = item.size, box
    shape = {"x": 100 * x1 / width, "y": 100 * y1 / height}
    shape |= {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height, "rotation": 0}
    return {
        "id": "a1",
        "type": "rectanglelabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**shape, "rectanglelabels": [name], **value},
    }


def _task(item, image="/data/upload/1/0a1b2c3d-{}.png", **changes):
    regions = [_region(item, box, name) for box, name in zip(item.boxes, item.names, strict=True)]
    task = {"id": item.number, "annotations": [{"id": 7, "was_cancelled": False, "result": regions}]}
    return task | {"data": {"image": image.format(item.stem)}, "predictions": []} | changes


def _write(tiny, tasks, name="project-1.json", images="images"):
    tiny.write_images(tiny.root / images, tiny.items)
    tiny.write_text(name, json.dumps(tasks))
    return tiny.root


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/1/0a1b2c3d-{}.png",
        "/data/local-files/?d=photos/{}.png",
        "s3://bucket/some/{}.png",
        "https://example.com/{}.png?token=1",
        "images/{}.png",
    ],
)
def test_tasks_become_records(tiny, image):
    root = _write(tiny, [_task(item, image) for item in tiny.items])
    source = read_detection(root)
    assert source.format == "label-studio"
    tiny.check(source, ["all"], (1, 2, 3))
    assert source.notes == ("no split is given",)
    assert holds_detection(root)
    tiny.check(read_detection(root / "project-1.json"), ["all"])
    assert audit(source).total.images == 8


def test_a_file_for_each_split(tiny):
    for split in ("train", "val", "test"):
        _write(tiny, [_task(item) for item in tiny.of(split)], f"{split}.json")
    tiny.check(read_detection(tiny.root))


def test_uploaded_names_are_found_as_they_are_too(tiny):
    tasks = [_task(item) for item in tiny.items]
    root = _write(tiny, tasks)
    for item in tiny.items:
        (root / "images" / f"{item.stem}.png").rename(root / "images" / f"0a1b2c3d-{item.stem}.png")
    assert [r.path[-17:] for r in read_detection(root).splits["all"][:1]] == ["0a1b2c3d-im 0.png"]


def test_what_is_unfinished_is_left_out_and_told(tiny):
    tasks = [_task(item) for item in tiny.items]
    tasks[0]["annotations"] = []
    tasks[1]["annotations"][0]["was_cancelled"] = True
    tasks[3]["annotations"].append({"result": tasks[3]["annotations"][0]["result"][:1]})
    source = read_detection(_write(tiny, tasks))
    assert [len(r.boxes) for r in source.splits["all"]][:2] == [len(tiny.items[2].boxes), 1]
    assert "project-1.json: tasks that nobody has annotated, left out: 2" in source.notes
    assert "project-1.json: tasks with several annotations, of which the last counts: 1" in source.notes


def test_polygons_become_the_box_around_them(tiny):
    tasks = [_task(item) for item in tiny.items]
    region = tasks[0]["annotations"][0]["result"][0]
    region |= {"type": "polygonlabels", "value": {"points": [[10, 50], [30, 25], [20, 75]], "polygonlabels": ["cat"]}}
    source = read_detection(_write(tiny, tasks))
    np.testing.assert_allclose(source.splits["all"][0].boxes, [[6.4, 8.0, 19.2, 24.0]])
    assert "project-1.json: polygons, of which the box around each is used: 1" in source.notes


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"value": {"rotation": 12}}, r"task 0: a region is rotated; only upright .* COCO, YOLO or Pascal VOC"),
        ({"image_rotation": 90}, "task 0: a region is rotated"),
        (
            {"type": "brushlabels", "value": {"rle": [1], "rectanglelabels": None}},
            "region is of the type 'brushlabels'",
        ),
        ({"type": "rectangle", "value": {"rectanglelabels": []}}, "task 0: a region is of the type 'rectangle'"),
        ({"original_width": 0}, "task 0: a region has no 'original_width'"),
        ({"value": {"width": "wide"}}, "task 0: 'wide' is not a number"),
    ],
)
def test_what_is_no_upright_box_is_refused(tiny, region, message):
    tasks = [_task(item) for item in tiny.items]
    first = tasks[0]["annotations"][0]["result"][0]
    first |= region | {"value": first["value"] | region.get("value", {})}
    with pytest.raises(UserError, match=message):
        read_detection(_write(tiny, tasks))


def test_labels_of_whole_images_ask_for_a_table(tiny):
    chosen = [{"type": "choices", "value": {"choices": ["cat"]}}]
    root = _write(tiny, [_task(item, annotations=[{"result": chosen}]) for item in tiny.items])
    for read in (read_detection, read_images):
        with pytest.raises(UserError, match=r"project-1.json: labels of whole images are not read .* make a CSV"):
            read(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"annotations": [{"result": [', "the JSON breaks off or is invalid"),
        ('[{"image": "a.jpg", "annotations": [{"result": []}]}]', "is a list, but not of Label Studio's tasks"),
        ('[{"id": 3, "annotations": [{"result": []}], "data": {"text": "a"}}]', "task 3: 'data' names no image file"),
        ('[{"annotations": [{"result": []}], "data": {"image": "a.png"}}]', "no image has a rectangle, but nothing"),
    ],
)
def test_other_lists_are_named(tiny, text, message):
    tiny.write_text("project.json", text)
    with pytest.raises(UserError, match=message):
        read_detection(tiny.root)
