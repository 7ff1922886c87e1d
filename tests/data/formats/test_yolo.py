import numpy as np
import pytest
import yaml

from dlrecipes.data.formats.discover import holds_detection, read_detection
from dlrecipes.errors import UserError


def _yaml(tiny, **changes):
    content = yaml.safe_load((tiny.root / "data.yaml").read_text())
    tiny.write_text("data.yaml", yaml.safe_dump({**content, **changes}))


def test_usual_layout(tiny):
    source = read_detection(tiny.write_yolo())
    assert source.format == "yolo"
    tiny.check(source, category_ids=(0, 1, 2))
    assert "images without a label file, which count as images without objects: 1" in source.notes


def test_the_yaml_itself_may_be_given(tiny):
    tiny.check(read_detection(tiny.write_yolo() / "data.yaml"))


def test_names_as_a_mapping_keep_their_numbers(tiny):
    tiny.write_yolo()
    _yaml(tiny, names={0: "bird", 1: "cat", 2: "dog", 7: "eel"})
    source = read_detection(tiny.root)
    assert source.classes == ("bird", "cat", "dog", "eel")
    assert source.category_ids == (0, 1, 2, 7)


@pytest.mark.parametrize("train", ["images/train", "./images/train", "../images/train", ["images/train"], "train.txt"])
def test_paths_as_exporters_write_them(tiny, train):
    tiny.write_yolo()
    tiny.write_text("train.txt", "".join(f"./images/train/{i.stem}.png\n" for i in tiny.of("train")))
    _yaml(tiny, train=train)
    tiny.check(read_detection(tiny.root))


def test_roboflow_folders(tiny):
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        tiny.write_images(tiny.root / folder / "images", tiny.of(split))
        for item in tiny.of(split):
            tiny.write_text(f"{folder}/labels/{item.stem}.txt", tiny.yolo_text(item))
    paths = {"train": "../train/images", "val": "../valid/images", "test": "../test/images"}
    tiny.write_text("data.yaml", yaml.safe_dump({**paths, "nc": 3, "names": ["bird", "cat", "dog"]}))
    source = read_detection(tiny.root)
    tiny.check(source)
    assert not any("without a label file" in n for n in source.notes)


def test_path_of_another_machine_falls_back_to_the_yamls_folder(tiny):
    tiny.write_yolo()
    _yaml(tiny, path="/content/datasets/animals")
    source = read_detection(tiny.root)
    tiny.check(source)
    assert any("'/content/datasets/animals' does not exist here" in n for n in source.notes)


def test_folders_as_windows_writes_them(tiny):
    tiny.write_yolo()
    _yaml(tiny, path="C:\\data", train="images\\train", val=".\\images\\val")
    tiny.check(read_detection(tiny.root))


def test_path_is_followed_where_it_exists(tiny):
    tiny.write_yolo()
    (tiny.root / "meta").mkdir()
    (tiny.root / "data.yaml").rename(tiny.root / "meta" / "animals.yaml")
    content = yaml.safe_load((tiny.root / "meta/animals.yaml").read_text())
    tiny.write_text("meta/animals.yaml", yaml.safe_dump({**content, "path": ".."}))
    tiny.check(read_detection(tiny.root / "meta" / "animals.yaml"))


def test_polygons_become_the_box_around_them(tiny):
    tiny.write_yolo()
    tiny.write_text("labels/train/im 0.txt", "1 0.25 0.5 0.5 0.25 0.75 1.0\n")
    source = read_detection(tiny.root)
    record = next(r for r in source.splits["train"] if r.path.endswith("im 0.png"))
    np.testing.assert_allclose(record.boxes, [[16.0, 8.0, 48.0, 32.0]])
    assert "polygons, of which the box around each is used: 1" in source.notes


def test_keypoints_after_the_box_are_passed_over(tiny):
    tiny.write_yolo()
    _yaml(tiny, kpt_shape=[1, 3])
    tiny.write_text("labels/train/im 0.txt", "1 0.5 0.5 0.5 0.5 0.1 0.1 2\n")
    record = next(r for r in read_detection(tiny.root).splits["train"] if r.path.endswith("im 0.png"))
    np.testing.assert_allclose(record.boxes, [[16.0, 8.0, 48.0, 24.0]])


def test_test_split_without_labels_is_left_out(tiny):
    tiny.write_yolo()
    for file in (tiny.root / "labels/test").iterdir():
        file.unlink()
    source = read_detection(tiny.root)
    tiny.check(source, ["train", "val"])
    assert "test: no image has a label file: left out" in source.notes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3 .5 .5 .1 .1", "im 0.txt, line 2: unknown category id 3, 'names' has 0 to 2"),
        ("-1 .5 .5 .1 .1", "line 2: unknown category id -1"),
        ("0.5 .5 .5 .1 .1", "line 2: unknown category id 0.5"),
        ("cat .5 .5 .1 .1", "line 2: 'cat' is not a number"),
        ("0 .5 .5 .1", "line 2: 4 values; it needs 'class cx cy width height'"),
        ("0 320 240 20 20", "line 2: 320 looks like pixels; YOLO boxes are relative to the image"),
    ],
)
def test_broken_line_is_named(tiny, line, message):
    tiny.write_yolo()
    tiny.write_text("labels/train/im 0.txt", f"0 .5 .5 .1 .1\n{line}\n")
    with pytest.raises(UserError, match=message):
        read_detection(tiny.root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": "cat"}, "'names' is 'cat'; it needs a list"),
        ({"nc": 4}, "'nc' is 4 but 'names' has 3 classes"),
        ({"names": ["cat", "cat", "dog"]}, "class 'cat' is named twice"),
        ({"train": "pictures"}, "'train' is 'pictures', but .* does not exist"),
        ({"train": "labels/train"}, "'train' is 'labels/train', where no image lies"),
        ({"train": None, "val": None, "test": None}, "neither 'train' nor 'val' names a folder"),
    ],
)
def test_broken_yaml_content_is_named(tiny, changes, message):
    tiny.write_yolo()
    _yaml(tiny, **changes)
    with pytest.raises(UserError, match=message) as caught:
        read_detection(tiny.root)
    assert "data.yaml" in str(caught.value)


def test_invalid_yaml_names_the_line(tiny):
    tiny.write_yolo()
    tiny.write_text("data.yaml", "names: [a\ntrain: x\n")
    with pytest.raises(UserError, match=r"data.yaml: the YAML is invalid at line 2"):
        read_detection(tiny.root)


def test_binary_label_file_is_refused(tiny):
    tiny.write_yolo()
    (tiny.root / "labels/train/im 0.txt").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UserError, match=r"im 0.txt is no text in UTF-8 or UTF-16"):
        read_detection(tiny.root)


def test_missing_label_folder_is_refused(tiny):
    tiny.write_yolo()
    (tiny.root / "labels").rename(tiny.root / "txt")
    with pytest.raises(UserError, match=r"no image under 'train' has a label file.*put the text files into labels/"):
        read_detection(tiny.root)


@pytest.mark.parametrize("split", [True, False])
def test_label_studio_names_classes_in_a_text_file(tiny, split):
    for item in tiny.items:
        folder = f"/{item.split}" if split else ""
        tiny.write_images(tiny.root / f"images{folder}", [item])
        tiny.write_text(f"labels{folder}/{item.stem}.txt", tiny.yolo_text(item))
    tiny.write_text("classes.txt", "bird\ncat\ndog\n")
    tiny.write_text(
        "notes.json", '{"categories": [{"id": 0, "name": "bird"}], "info": {"contributor": "Label Studio"}}'
    )
    source = read_detection(tiny.root)
    assert source.format == "yolo"
    tiny.check(source, ["train", "val", "test"] if split else ["all"], (0, 1, 2))
    assert ("no split is given" in source.notes) is not split


def test_labels_whose_classes_nothing_names(tiny):
    tiny.write_yolo()
    (tiny.root / "data.yaml").unlink()
    assert holds_detection(tiny.root)
    with pytest.raises(UserError, match=r"labels holds text files as YOLO has them, but no data.yaml beside it names"):
        read_detection(tiny.root)
    tiny.write_text("classes.txt", "\n")
    with pytest.raises(UserError, match=r"classes.txt is empty; write the class names into it"):
        read_detection(tiny.root)


@pytest.mark.parametrize(
    "text",
    [
        "{train: images/train, val: images/val, names: [bird, cat, dog]}",
        '"names": [bird, cat, dog]\n"train": images/train\n"val": images/val\n',
    ],
)
def test_yaml_in_other_notations(tiny, text):
    tiny.write_yolo()
    tiny.write_text("data.yaml", text)
    tiny.check(read_detection(tiny.root), ["train", "val"])


def _darknet(tiny, prefix="data/", folder="obj_{}_data", images=True):
    """As CVAT's "YOLO 1.1" writes it; ``data/`` is the author's folder, which the archive lacks."""
    keys = {"train": "train", "valid": "val"}
    lists = "".join(f"{key} = {prefix}{key}.txt\n" for key in keys)
    tiny.write_text("obj.data", f"classes = 3\n{lists}names = {prefix}obj.names\nbackup = backup/\n")
    tiny.write_text("obj.names", "bird\ncat\ndog\n")
    for key, split in keys.items():
        home = folder.format(key)
        if images:
            tiny.write_images(tiny.root / home, tiny.of(split))
        for item in tiny.of(split):
            tiny.write_text(f"{home}/{item.stem}.txt", tiny.yolo_text(item) if item.boxes else "")
        tiny.write_text(f"{key}.txt", "".join(f"{prefix}{home}/{item.stem}.png\n" for item in tiny.of(split)))
    return tiny.root


@pytest.mark.parametrize("prefix", ["data/", "", "/home/me/darknet/data/"])
@pytest.mark.parametrize("folder", ["obj_{}_data", "images/{}"])
def test_darknet_as_cvat_writes_it(tiny, prefix, folder):
    root = _darknet(tiny, prefix, folder)
    source = read_detection(root)
    assert source.format == "yolo"
    tiny.check(source, ["train", "val"], (0, 1, 2))
    assert source.notes == ()
    tiny.check(read_detection(root / "obj.data"), ["train", "val"])
    assert holds_detection(root)
    assert holds_detection(root / "obj.data")


def test_darknets_own_tree_has_the_data_file_apart(tiny):
    _darknet(tiny)
    outer = tiny.root.parent / "darknet"
    outer.mkdir()
    tiny.root.rename(outer / "data")
    (outer / "cfg").mkdir()
    (outer / "data/obj.data").rename(outer / "cfg/obj.data")
    tiny.check(read_detection(outer / "cfg/obj.data"), ["train", "val"])


def test_darknet_validating_on_its_training_images_has_no_validation_split(tiny):
    _darknet(tiny)
    tiny.write_text("obj.data", "names = obj.names\ntrain = train.txt\nvalid = train.txt\n")
    tiny.check(read_detection(tiny.root), ["train"])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("obj.names", "bird\ncat\n", r"obj.data: 'classes' is 3 but obj.names has 2 names; correct one of them"),
        ("obj.names", "\n", r"obj.names is empty; write the class names into it"),
        ("obj.data", "names = my.names\ntrain = train.txt", r"'names' is 'my.names', which does not exist"),
        ("obj.data", "names = obj.names\ntrain = my.txt", r"'train' is 'my.txt', but .* does not exist"),
    ],
)
def test_broken_darknet_file_is_named(tiny, file, text, message):
    _darknet(tiny)
    tiny.write_text(file, text)
    with pytest.raises(UserError, match=message):
        read_detection(tiny.root)


def test_darknet_exported_without_its_images(tiny):
    with pytest.raises(
        UserError, match=r"none of the images of 'train', such as data/obj_train_data/im 0.png, is here"
    ):
        read_detection(_darknet(tiny, images=False))


def test_data_files_of_another_kind_are_passed_over(tiny):
    tiny.write_yolo()
    tiny.write_text("iris.data", "5.1,3.5,1.4,0.2,Iris-setosa\n")
    (tiny.root / "noise.data").write_bytes(b"\xff\xfe\x00names = x")
    tiny.check(read_detection(tiny.root))


def test_labelimg_keeps_images_labels_and_classes_together(tiny):
    tiny.write_images(tiny.root, tiny.items)
    for item in tiny.items:
        tiny.write_text(f"{item.stem}.txt", tiny.yolo_text(item))
    tiny.write_text("classes.txt", "bird\ncat\ndog\n")
    tiny.check(read_detection(tiny.root), ["all"], (0, 1, 2))
    home = tiny.root.rename(tiny.root.parent / "images")
    tiny.check(read_detection(home), ["all"])
