import json
import os

import numpy as np
import pytest
from PIL import Image

from dlrecipes.data.audit import image_probe, image_warnings
from dlrecipes.data.audit.audit_images import audit_images
from dlrecipes.data.audit.check import check_data
from dlrecipes.data.formats.discover_images import read_images
from dlrecipes.data.formats.image_files import ArrayImages, PathImages
from dlrecipes.data.formats.image_source import ImageSource, ImageTable
from dlrecipes.data.loading.decode import EXIF_ORIENTATION
from dlrecipes.data.splits.split_images import split_images
from dlrecipes.errors import UserError


@pytest.fixture
def pets(tmp_path, image_writer):
    """Two classes, two images each in train and in val, all different."""
    seed = 0
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for k in range(2):
                path = tmp_path / split / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image_writer(path, (12 + k, 10), seed)
                seed += 1
    return tmp_path


def _arrays(task, targets, *, classes=(), names=(), weights=None, seed=0):
    """Random images with targets, as one split ``train``."""
    targets = np.asarray(targets)
    pixels = np.random.default_rng(seed).integers(0, 255, (len(targets), 9, 9, 3), dtype=np.uint8)
    images = ArrayImages(pixels, [f"image {k}" for k in range(len(targets))])
    table = ImageTable(images, targets, None if weights is None else np.asarray(weights, dtype=np.float32))
    return ImageSource("numbers", "csv", task, {"train": table}, tuple(classes), tuple(names))


def test_good_data_pass_with_their_sizes(pets):
    report = audit_images(read_images(pets))
    assert report.findings == report.warnings == report.notes == ()
    assert report.conversions == {}
    for stats in report.splits.values():
        assert (stats.images, stats.class_counts) == (4, (2, 2))
        assert (stats.smallest, stats.largest) == ((10, 12), (10, 13))
    assert report.source.splits["val"].sizes.tolist() == [[10, 12], [10, 13]] * 2
    assert isinstance(report.source.splits["val"].images, PathImages)
    assert "No problems found." in str(report)


def test_corrupt_and_missing_images_are_refused_or_left_out(pets):
    source = read_images(pets)
    (pets / "train/cat/0.png").write_bytes((pets / "train/cat/0.png").read_bytes()[:50])
    (pets / "val/dog/1.png").unlink()
    with pytest.raises(
        UserError,
        match=r"cat/0\.png cannot be decoded .*\(1 more like it\); replace it, or .*--data\.skip_corrupt true",
    ):
        audit_images(source)
    report = audit_images(source, skip_corrupt=True)
    assert [(f.kind, f.where) for f in report.findings] == [
        ("image not decodable (left out)", "train/cat/0.png"),
        ("image missing (left out)", "val/dog/1.png"),
    ]
    assert report.splits["train"].class_counts == (1, 2)
    assert report.splits["val"].class_counts == (2, 1)
    kept = report.source.splits["train"]
    assert [kept.images.name(k)[-9:] for k in range(3)] == ["cat/1.png", "dog/0.png", "dog/1.png"]
    assert kept.sizes.tolist() == [[10, 13], [10, 12], [10, 13]]
    assert kept.targets.tolist() == [0, 1, 1]
    (pets / "train/cat/0.png").unlink()
    with pytest.raises(
        UserError, match=r"names a missing image: .*cat/0\.png does not exist \(1 more like it\); restore"
    ):
        audit_images(source)


def test_nothing_left(pets):
    source = read_images(pets)
    for table in source.splits.values():
        for k in range(4):
            with open(table.images.name(k), "w") as file:
                file.write("x")
    with pytest.raises(UserError, match=r"none of the 8 images can be decoded, .*train/cat/0\.png for one"):
        audit_images(source, skip_corrupt=True)


def test_each_image_is_decoded_once_ever(pets, monkeypatch):
    first = audit_images(read_images(pets))
    decoded = []
    original = image_probe.decode_at
    monkeypatch.setattr(
        image_probe, "decode_at", lambda images, k: decoded.append(images.name(k)) or original(images, k)
    )
    again = audit_images(read_images(pets))
    assert decoded == []
    assert again.to_dict() == first.to_dict()
    Image.new("RGB", (5, 30)).save(pets / "val/cat/0.png")
    os.utime(pets / "train/dog/0.png", (1, 1))
    changed = audit_images(read_images(pets))
    assert sorted(os.path.relpath(d, pets) for d in decoded) == ["train/dog/0.png", "val/cat/0.png"]
    assert changed.source.splits["val"].sizes[0].tolist() == [30, 5]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY broken", b"PK\x03\x04 zip"])
def test_a_damaged_cache_costs_time_only(pets, monkeypatch, content):
    expected = audit_images(read_images(pets)).to_dict()
    files = list((image_probe.cache_folder() / "audit").glob("*.npy"))
    assert len(files) == 1
    files[0].write_bytes(content)
    assert audit_images(read_images(pets)).to_dict() == expected


def test_copies_across_and_within_splits_and_under_two_labels(pets):
    (pets / "val/dog/1.png").write_bytes((pets / "train/dog/0.png").read_bytes())
    Image.open(pets / "train/dog/1.png").save(pets / "train/dog/2.bmp")
    Image.open(pets / "val/cat/0.png").save(pets / "val/dog/3.png")
    warnings = audit_images(read_images(pets)).warnings
    assert warnings == (
        "1 image in more than one split, which makes results look better: "
        "train/dog/0.png (train) = val/dog/1.png (val).",
        "2 copies of another image in the same split, such as train/dog/2.bmp.",
        "1 image with different labels: val/cat/0.png (cat) = val/dog/3.png (dog); correct one of each.",
    )


def test_same_pixels_in_another_shape_are_no_copy():
    flat = ArrayImages(np.zeros((1, 4, 9, 3), dtype=np.uint8), ["a"])
    tall = ArrayImages(np.zeros((1, 9, 4, 3), dtype=np.uint8), ["b"])
    facts = image_probe.probe_source([flat, tall], "nowhere")
    assert facts.digest[0] != facts.digest[1]


def test_forms_other_than_rgb_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    forms = {"L": 2, "RGB": 1, "RGBA": 1, "P": 1, "I;16": 1, "CMYK": 1, "1": 1}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for mode, count in forms.items():
        for k in range(count):
            colour = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
            if mode == "I;16":
                image = Image.fromarray(rng.integers(0, 65535, (9, 9), dtype=np.uint16))
            else:
                image = colour.convert(mode)
            suffix = ".jpg" if mode == "CMYK" else ".png"
            image.save(tmp_path / "ab"[k] / f"{mode.replace(';', '')}{suffix}")
    Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(tmp_path / "b/x.png")
    report = audit_images(read_images(tmp_path))
    assert report.conversions == {
        "grey": 3,
        "with an alpha channel (dropped)": 1,
        "with a palette": 1,
        "of 16 bits (scaled to 8)": 1,
        "in CMYK": 1,
    }
    assert "images that are not stored as RGB are converted: 3 grey" in report.notes[-1]


def test_huge_tiny_and_turned_images(pets, monkeypatch):
    monkeypatch.setattr(image_warnings, "HUGE_PIXELS", 1000)
    Image.new("RGB", (50, 40)).save(pets / "train/cat/0.png")
    Image.new("RGB", (50, 4)).save(pets / "train/cat/1.png")
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.new("RGB", (20, 20)).save(pets / "val/dog/0.png", exif=exif)
    report = audit_images(read_images(pets))
    warnings = report.warnings
    assert len(warnings) == 2
    assert warnings[0].startswith("1 image of more than")
    assert "train/cat/0.png (50x40)" in warnings[0]
    assert warnings[1] == "1 image with a side below 8 pixels, such as train/cat/1.png (50x4)."
    assert report.notes == ("images turned upright, as their EXIF orientation says: 1",)
    assert report.to_dict()["turned"] == 1


def test_classes_that_are_rare_or_absent():
    train = [0] * 30 + [1] * 10 + [2]
    source = _arrays("classification", train, classes=("many", "some", "single", "none"))
    held_out = _arrays("classification", [0, 0], classes=source.classes, seed=1).splits["train"]
    source.splits["val"] = held_out
    assert audit_images(source).warnings == (
        "no image at all of none.",
        "no image of some, single in val: results there say nothing about it.",
        "only one image in train of single.",
        "train is imbalanced 30 : 1 (many 30, single 1): accuracy hides rare classes, look at balanced accuracy or "
        "macro F1.",
    )


def test_a_class_without_training_images(pets, image_writer):
    (pets / "val/emu").mkdir()
    image_writer(pets / "val/emu/1.png", (8, 8), 99)
    with pytest.raises(UserError, match=r"the class 'emu' is in val but not in train, such as val/emu/1\.png; add"):
        audit_images(read_images(pets))


def test_one_class_alone(pets):
    source = _arrays("classification", [0, 0], classes=("cat",))
    with pytest.raises(UserError, match=r"all images of train are of one class, 'cat'; there must be two"):
        audit_images(source)
    source = _arrays("classification", [1, 1], classes=("cat", "dog"))
    with pytest.raises(UserError, match=r"one class, 'dog'"):
        audit_images(source)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(value):
    source = _arrays("regression", np.array([[1.0, 2.0], [2.0, value], [value, 1.0]], np.float32), names=("x", "y"))
    with pytest.raises(UserError, match=rf"image 1 \(train\) has the target y = {value} \(1 more like it\)"):
        audit_images(source)


def test_constant_numbers():
    with pytest.raises(UserError, match=r"every image of train has the target x = 3; nothing can be learnt"):
        audit_images(_arrays("regression", np.full((4, 1), 3.0, np.float32), names=("x",)))
    source = _arrays("regression", np.array([[1, 5], [2, 5], [3, 5]], np.float32), names=("x", "y"))
    assert audit_images(source).warnings == (
        "the target y is 5 for every image of train: nothing can be learnt from it.",
    )


@pytest.mark.parametrize(("weights", "message"), [([1, -1, 1], "weight -1"), ([1, 1, np.nan], "weight nan")])
def test_unusable_weights(weights, message):
    with pytest.raises(UserError, match=rf"\(train\) has the {message}; weights must be finite and not negative"):
        audit_images(_arrays("classification", [0, 1, 0], classes="ab", weights=weights))


def test_all_weights_zero_and_no_label_at_all():
    with pytest.raises(UserError, match=r"all weights of train are 0"):
        audit_images(_arrays("classification", [0, 1], classes="ab", weights=[0, 0]))
    with pytest.raises(UserError, match=r"no image of train has any label"):
        audit_images(_arrays("multilabel", np.zeros((3, 2), np.float32), classes="ab"))


def test_several_labels_and_numbers_are_counted_and_printed():
    targets = np.array([[1, 1], [0, 1], [0, 0]], np.float32)
    report = audit_images(_arrays("multilabel", targets, classes=("cat", "[dog]")))
    assert report.splits["train"].class_counts == (1, 2)
    assert report.splits["train"].unlabelled == 1
    assert "[dog]" in str(report)  # not taken for rich's markup
    assert report.warnings == ("only one image in train of cat.",)
    report = audit_images(_arrays("regression", np.array([[1.0], [3.0]], np.float32), names=("age",)))
    age = report.splits["train"].targets["age"]
    assert (age.mean, age.std, age.minimum, age.maximum) == (2, 1, 1, 3)
    assert "age" in str(report)


def test_the_report_is_json_and_at_most_100_columns_wide(tmp_path):
    source = _arrays("classification", np.arange(60) % 40, classes=[f"class {k} " * 12 for k in range(40)])
    report = audit_images(split_images(source))
    assert max(map(len, str(report).splitlines())) <= 100
    assert "(16 classes between)" in str(report)
    facts = json.loads(json.dumps(report.to_dict()))
    assert facts["splits"]["train"]["images"] == len(report.source.splits["train"])
    assert sum(facts["splits"]["train"]["class_counts"].values()) == facts["splits"]["train"]["images"]
    assert facts["splits"]["train"]["median"] == [9, 9]


def test_an_empty_split_is_refused():
    source = _arrays("classification", [0, 1], classes="ab")
    source.splits["val"] = _arrays("classification", np.zeros(0, np.int64), classes="ab").splits["train"]
    with pytest.raises(UserError, match=r"numbers: the split 'val' holds no image; add images or remove the split"):
        audit_images(source)


def test_folders_without_images_are_told(pets):
    (pets / "train/emu").mkdir()
    assert [str(f) for f in audit_images(read_images(pets)).findings] == ["emu"]


def test_check_data_prefers_annotations_of_boxes(tiny, capsys):
    assert check_data(tiny.write_csv(), kind="auto") == 0
    assert "boxes per class" in capsys.readouterr().out


def test_check_data_on_images(pets, tmp_path_factory, capsys):
    file = tmp_path_factory.mktemp("out") / "report.json"
    assert check_data(pets, json_file=file) == 0
    out = capsys.readouterr().out
    assert "(folders, classification, 2 classes)" in " ".join(out.split())  # a long path is wrapped
    assert json.loads(file.read_text())["splits"]["val"]["images"] == 4
    assert check_data(pets, kind="images") == 0
    with pytest.raises(UserError, match="no known annotation format"):
        check_data(pets, kind="detection")
    with pytest.raises(UserError, match="kind must be one of auto, detection, images, got 'boxes'"):
        check_data(pets, kind="boxes")


def test_check_data_takes_columns(pets):
    (pets / "labels.csv").write_text("image,a,b\ntrain/cat/0.png,1,4\ntrain/cat/1.png,2,5\nval/dog/0.png,1,6\n")
    assert check_data(pets / "labels.csv", target="b", target_kind="regression") == 0
    with pytest.raises(UserError, match=r"could be any of the columns 'a', 'b'"):
        check_data(pets)


def test_check_data_finds_neither(tmp_path):
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(UserError, match=r"neither annotations of boxes nor labelled images; looked for COCO.*Parquet"):
        check_data(tmp_path)
    with pytest.raises(UserError, match=r"is no data set; give a folder"):
        check_data(tmp_path / "readme.txt")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"holds 1 image, such as a\.png, but no labels"):
        check_data(tmp_path)


def test_classes_that_differ_in_spelling_alone():
    source = _arrays("classification", [0, 1, 2] * 3, classes=("Fire truck", "fire_truck", "car"))
    assert audit_images(source).warnings == (
        "class names differ in nothing but their spelling: 'Fire truck' = 'fire_truck'; use one of them.",
    )


def test_data_without_splits_is_not_called_all(tmp_path, image_writer):
    for name, count in (("cat", 12), ("dog", 1)):
        (tmp_path / name).mkdir()
        for k in range(count):
            image_writer(tmp_path / name / f"{k}.png", (9, 9), k + 20 * count)
    warnings = audit_images(read_images(tmp_path)).warnings
    assert warnings[0] == "only one image of dog."
    assert warnings[1].startswith("the data is imbalanced 12 : 1 (cat 12, dog 1)")


def test_check_data_names_its_own_options(pets):
    (pets / "train/cat/0.png").write_text("text")
    with pytest.raises(UserError, match=r"or leave such images out with --skip-corrupt\.$"):
        check_data(pets)
    assert check_data(pets, skip_corrupt=True) == 0
    table = pets / "table.csv"
    table.write_text("image,colour,form\ntrain/cat/1.png,a,b\nval/dog/0.png,c,d\n")
    with pytest.raises(UserError, match=r"'form'; choose with --target \(a name"):
        check_data(table)
    with pytest.raises(UserError, match=r"choose with --image-column\.$"):
        check_data(_without_images(table))


def _without_images(table):
    table.write_text("a,b\n1,2\n")
    return table
