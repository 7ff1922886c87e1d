import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from rich.console import Console

from dlrecipes.data.audit import probe
from dlrecipes.data.audit.audit_boxes import audit
from dlrecipes.data.audit.audit_report import SIZE_BINS
from dlrecipes.data.audit.check import check_data
from dlrecipes.data.formats.discover import read_detection
from dlrecipes.data.loading.cache import RecordImages
from dlrecipes.data.loading.decode import EXIF_ORIENTATION
from dlrecipes.data.splits.split_records import split_by_seed
from dlrecipes.errors import UserError

LAYOUTS = ("coco", "voc", "yolo", "csv")
FIRST = {"coco": "train2017", "voc": "JPEGImages", "yolo": "images/train", "csv": "images"}


def _image(tiny, layout, number=0):
    return tiny.root / FIRST[layout] / f"im {number}.png"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_good_data_pass_unchanged_and_are_counted(tiny, layout):
    source = read_detection(tiny.write(layout))
    report = audit(source)
    tiny.check(report.source)
    assert report.findings == ()
    assert report.warnings == ()
    for split, stats in report.splits.items():
        items = tiny.of(split)
        assert stats.images == len(items)
        assert stats.empty_images == sum(not i.boxes for i in items)
        assert stats.objects == sum(stats.class_counts) == sum(stats.size_counts) == sum(len(i.boxes) for i in items)
        assert stats.class_counts == tuple(sum(i.names.count(c) for i in items) for c in source.classes)
        assert stats.max_objects == max(len(i.boxes) for i in items)
    assert report.total.images == 8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_text_file_named_as_an_image(tiny, layout):
    tiny.write(layout)
    _image(tiny, layout).write_text("not an image")
    with pytest.raises(
        UserError, match=r"im 0.png cannot be decoded .*leave such images out with --data.skip_corrupt true"
    ):
        audit(read_detection(tiny.root))
    report = audit(read_detection(tiny.root), skip_corrupt=True)
    assert [f.kind for f in report.findings] == ["image not decodable (left out)"]
    assert report.splits["train"].images == 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated_image(tiny, layout):
    tiny.write(layout)
    path = _image(tiny, layout, 1)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"im 1.png cannot be decoded .*truncated"):
        audit(read_detection(tiny.root))
    assert audit(read_detection(tiny.root), skip_corrupt=True).splits["train"].images == 4


@pytest.mark.parametrize("layout", ["coco", "voc", "csv"])
def test_annotation_for_a_missing_image(tiny, layout):
    tiny.write(layout)
    _image(tiny, layout).unlink()
    _image(tiny, layout, 1).unlink()
    with pytest.raises(UserError, match=r"annotates a missing image: .*does not exist \(1 more like it\); restore it"):
        audit(read_detection(tiny.root))
    report = audit(read_detection(tiny.root), skip_corrupt=True)
    assert [f.kind for f in report.findings] == ["image missing (left out)"] * 2


def test_all_images_missing_beside_voc_annotations(tiny):
    tiny.write_voc()
    for file in (tiny.root / "JPEGImages").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"JPEGImages/im_0.png does not exist \(7 more like it\)"):
        audit(read_detection(tiny.root))


def test_missing_image_in_a_yolo_list(tiny):
    tiny.write_yolo()
    tiny.write_text("train.txt", "images/train/im 0.png\nimages/train/im 9.png\n")
    text = (tiny.root / "data.yaml").read_text().replace("images/train", "train.txt")
    tiny.write_text("data.yaml", text)
    with pytest.raises(UserError, match=r"missing image: .*im 9.png does not exist"):
        audit(read_detection(tiny.root))


def test_no_image_left_is_an_error_also_when_skipping(tiny):
    tiny.write_csv()
    for file in (tiny.root / "images").iterdir():
        file.write_text("x")
    with pytest.raises(UserError, match="none of the 8 images can be decoded"):
        audit(read_detection(tiny.root), skip_corrupt=True)


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_non_finite_box_in_coco_names_file_and_annotation(tiny, value):
    tiny.write_coco()
    path = tiny.root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = float(value.replace("Infinity", "inf"))
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"instances_train2017.json, annotation 1000 \(image .*im 0.png\): .*not finite"
    ):
        audit(read_detection(tiny.root))


@pytest.mark.parametrize("layout", ["voc", "yolo", "csv"])
def test_nan_box_in_the_other_formats(tiny, layout):
    tiny.items[0].boxes[0][0] = float("nan")
    with pytest.raises(UserError, match=r"(object|line) \d+ \(image .*im 0.png\): box \[nan, .*is not finite"):
        audit(read_detection(tiny.write(layout)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bad_boxes_are_repaired_counted_and_named(tiny, layout):
    tiny.items[0].boxes = [[10, 10, 70, 20], [5, 5, 5, 9], [66, 2, 70, 6], [2, 2, 30, 30]]
    tiny.items[0].names = ["cat"] * 4
    report = audit(read_detection(tiny.write(layout)))
    kinds = {kind: len(found) for kind, found in report.counted().items()}
    assert kinds == {
        "box over the edge (clipped)": 1,
        "box without area (dropped)": 1,
        "box outside the image (dropped)": 1,
    }
    record = next(r for r in report.source.splits["train"] if r.path.endswith("im 0.png"))
    np.testing.assert_allclose(record.boxes, [[10, 10, 64, 20], [2, 2, 30, 30]])
    assert record.labels.tolist() == [1, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_boxes_outside(tiny, layout):
    for item in tiny.items:
        item.boxes = [[b[0] + 70, b[1], b[2] + 70, b[3]] for b in item.boxes]
    with pytest.raises(UserError, match=r"entirely outside|looks like pixels|look like"):
        audit(read_detection(tiny.write(layout)))


def test_no_box_with_area_in_a_split(tiny):
    for item in tiny.of("val"):
        item.boxes = [[5.0, 5.0, 5.0, 5.0] for _ in item.boxes]
    with pytest.raises(UserError, match=r"none of the \d boxes of 'val' has an area inside its image"):
        audit(read_detection(tiny.write_coco()))


def test_nothing_annotated(tiny):
    for item in tiny.items:
        item.boxes, item.names = [], []
    with pytest.raises(UserError, match="no object is annotated in any image"):
        audit(read_detection(tiny.write_coco()))


def test_more_objects_than_queries(tiny):
    tiny.items[5].boxes = [[1.0, 1.0, 9.0, 9.0]] * 12
    tiny.items[5].names = ["dog"] * 12
    source = read_detection(tiny.write_coco())
    assert audit(source, max_queries=12).splits["val"].max_objects == 12
    with pytest.raises(
        UserError,
        match=r"im 5.png holds 12 objects, more than the model's 11 queries; raise --model.model.num_queries to",
    ):
        audit(source, max_queries=11)


def test_crowd_regions_need_no_query(tiny):
    def change(annotations):
        return [{**a, "iscrowd": 1} for a in annotations[:1]] + annotations[1:]

    tiny.write_images(tiny.root, tiny.items)
    tiny.write_text("a.json", tiny.coco_json(tiny.items, annotations=change))
    report = audit(read_detection(tiny.root), max_queries=3)
    assert report.total.crowd == 1
    assert report.total.objects == sum(len(i.boxes) for i in tiny.items) - 1


@pytest.mark.parametrize("arguments", [{"stride": 0}, {"max_queries": 0}])
def test_arguments_are_validated(tiny, arguments):
    source = read_detection(tiny.write_csv())
    with pytest.raises(ValueError, match="must be at least 1"):
        audit(source, **arguments)


def test_wrong_size_in_one_annotation_is_corrected_and_reported(tiny):
    tiny.write_voc()
    tiny.write_text("Annotations/im_0.xml", tiny.voc_xml(tiny.items[0], size=(128, 64)))
    tiny.write_text("Annotations/im_1.xml", tiny.voc_xml(tiny.items[1], size=(0, 0)))  # unknown, not wrong
    report = audit(read_detection(tiny.root))
    assert [f.kind for f in report.findings] == ["annotation with another image size (the file's is used)"]
    assert "is 64x32, its annotation says 128x64" in report.findings[0].detail
    tiny.check(report.source)


def test_images_resized_after_annotation_are_refused(tiny):
    tiny.write_voc()
    tiny.items[0].boxes, tiny.items[0].names = [[80.0, 10.0, 120.0, 60.0]], ["cat"]
    tiny.write_text("Annotations/im_0.xml", tiny.voc_xml(tiny.items[0], size=(128, 64)))
    with pytest.raises(UserError, match=r"im 0.png is 64x32, its annotation says 128x64, and so do its boxes"):
        audit(read_detection(tiny.root))


def test_sizes_that_are_wrong_everywhere_are_refused(tiny):
    tiny.write_voc()
    for item in tiny.items:
        tiny.write_text(f"Annotations/{item.stem.replace(' ', '_')}.xml", tiny.voc_xml(item, size=(128, 128)))
    with pytest.raises(UserError, match=r"8 of 8 images have another size than their annotations say, such as .*64x64"):
        audit(read_detection(tiny.root))


def _turn(path, orientation=6):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.open(path).save(path, exif=exif)


def test_boxes_lie_on_the_turned_picture_where_the_annotation_states_its_size(tiny):
    tiny.write_voc()
    path = tiny.root / "JPEGImages/im 0.png"
    _turn(path)
    report = audit(read_detection(tiny.root))  # 64x32, as stored
    assert ["1 image with an EXIF rotation" in w for w in report.warnings] == [True]
    assert not any(r.turned for r in report.source.splits["train"])
    tiny.items[0].boxes, tiny.items[0].names = [[4.0, 40.0, 20.0, 60.0]], ["cat"]
    tiny.write_text("Annotations/im_0.xml", tiny.voc_xml(tiny.items[0], size=(32, 64)))
    report = audit(read_detection(tiny.root))
    record = next(r for r in report.source.splits["train"] if r.path == str(path))
    assert (record.turned, record.width, record.height) == (True, 32, 64)
    assert record.boxes.tolist() == [[4.0, 40.0, 20.0, 60.0]]
    assert (report.warnings, report.findings) == ((), ())
    assert "images turned upright, as their EXIF orientation says: 1" in report.source.notes
    assert RecordImages([record]).read(0).shape == (64, 32, 3)


def test_an_annotation_that_states_no_size_goes_as_most_others(tiny):
    tiny.write_voc()
    for number in (0, 1):
        _turn(tiny.root / f"JPEGImages/im {number}.png")
    tiny.items[1].boxes, tiny.items[1].names = [], []
    tiny.write_text("Annotations/im_0.xml", tiny.voc_xml(tiny.items[0], size=(32, 64)))
    tiny.write_text("Annotations/im_1.xml", tiny.voc_xml(tiny.items[1], size=(0, 0)))
    assert sum(r.turned for r in audit(read_detection(tiny.root)).source.splits["train"]) == 2


@pytest.mark.parametrize("orientation", [2, 3, 5, 6, 7, 8])
def test_yolo_labels_are_those_of_the_turned_picture(tiny, orientation):
    tiny.items[0].boxes, tiny.items[0].names = [[16.0, 4.0, 32.0, 12.0]], ["cat"]  # of 64x32
    tiny.write_yolo()
    path = next(tiny.root.rglob("im 0.png"))
    _turn(path, orientation)
    report = audit(read_detection(tiny.root))
    record = next(r for r in report.source.splits["train"] if r.path == str(path))
    shown = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert (record.height, record.width) == shown.shape[:2]
    assert (record.boxes.reshape(2, 2) / [record.width, record.height]).tolist() == [[0.25, 0.125], [0.5, 0.375]]
    assert np.array_equal(RecordImages([record]).read(0), shown)
    assert report.warnings == ()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_that_fit_only_the_turned_picture_turn_it_where_no_size_is_stated(tiny, orientation):
    tiny.items[0].boxes, tiny.items[0].names = [[4.0, 40.0, 20.0, 60.0]], ["cat"]  # 64x32 as stored
    tiny.write_voc()
    tiny.write_text("Annotations/im_0.xml", tiny.voc_xml(tiny.items[0], size=(0, 0)))
    _turn(tiny.root / "JPEGImages/im 0.png", orientation)
    report = audit(read_detection(tiny.root))
    assert [r.boxes.tolist() for r in report.source.splits["train"] if r.turned] == [[[4.0, 40.0, 20.0, 60.0]]]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_the_rotated_picture_beside_the_stored_size_are_refused(tiny, orientation):
    tiny.items[0].boxes, tiny.items[0].names = [[4.0, 40.0, 20.0, 60.0]], ["cat"]
    tiny.write_voc()
    _turn(tiny.root / "JPEGImages/im 0.png", orientation)
    message = (
        r"1 of 1 boxes, such as Annotations/im_0.xml, object 1: box \[4, 40, 20, 60\] in 64x32, fit only the pictures "
        "as their EXIF tag turns them, .* save the pictures rotated"
    )
    with pytest.raises(UserError, match=message):
        audit(read_detection(tiny.root))


def test_boxes_of_the_stored_picture_are_kept_though_one_is_over_the_edge(tiny):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    boxes = [[4.0, 25.0, 20.0, 40.0], [40.0, 2.0, 60.0, 30.0], [30.0, 2.0, 62.0, 30.0]]
    tiny.items[0].boxes, tiny.items[0].names = boxes, ["cat"] * 3
    tiny.write_voc()
    path = tiny.root / "JPEGImages/im 0.png"
    Image.open(path).save(path, exif=exif)
    assert audit(read_detection(tiny.root)).splits["train"].images == 5


def test_image_in_two_splits_is_a_warning_by_content_not_name(tiny):
    tiny.items[5].seed, tiny.items[5].size = tiny.items[1].seed, tiny.items[1].size
    tiny.write_voc()
    # a copy in another file type, with other bytes, is still the same picture
    Image.open(tiny.root / "JPEGImages/im 5.png").save(tiny.root / "JPEGImages/im 5.bmp")
    (tiny.root / "JPEGImages/im 5.png").unlink()
    report = audit(read_detection(tiny.root))
    assert len(report.warnings) == 1
    assert "1 image in more than one split" in report.warnings[0]
    assert "JPEGImages/im 1.png (train) = JPEGImages/im 5.bmp (val)" in report.warnings[0]


def test_trainval_is_no_leak_and_is_counted_once(tiny):
    tiny.write_voc()
    lines = "".join((tiny.root / f"ImageSets/Main/{s}.txt").read_text() for s in ("train", "val"))
    tiny.write_text("ImageSets/Main/trainval.txt", lines)
    tiny.items[0].boxes[0][2] = 99.0
    tiny.write_text("Annotations/im_0.xml", tiny.voc_xml(tiny.items[0]))
    report = audit(read_detection(tiny.root))
    assert report.warnings == ()
    assert len(report.findings) == 1
    assert (report.splits["trainval"].images, report.total.images) == (7, 8)
    assert report.source.splits["trainval"][0] is report.source.splits["train"][0]


def test_copies_in_one_split_and_classes_never_trained(tiny):
    tiny.items[1].seed, tiny.items[1].size = tiny.items[3].seed, tiny.items[3].size
    for item in tiny.of("train"):
        item.names = ["cat" for _ in item.names]
    report = audit(read_detection(tiny.write_coco()))
    assert report.warnings == (
        "1 copy of another image in the same split, such as train2017/im 3.png.",
        "no box to learn from for bird, dog.",
    )


def test_histogram_counts_sides_in_feature_cells(tiny):
    tiny.items = tiny.items[3:4]
    tiny.items[0].boxes = [[0, 0, 7, 7], [0, 0, 8, 8], [0, 0, 16, 16], [0, 0, 32, 32], [0, 0, 64, 60]]
    tiny.items[0].names = ["cat"] * 5
    tiny.write_images(tiny.root, tiny.items)
    tiny.write_text("a.json", tiny.coco_json(tiny.items))
    report = audit(read_detection(tiny.root), stride=16)
    assert dict(zip(SIZE_BINS, report.total.size_counts, strict=True)) == {
        "<0.5": 1, "0.5-1": 1, "1-2": 1, "2-4": 2, "4-8": 0, "8-16": 0, ">=16": 0,
    }  # fmt: skip


def test_second_run_decodes_only_what_changed(tiny, monkeypatch):
    source = read_detection(tiny.write_voc())
    first = audit(source)
    decoded = []
    real = probe.decode_image
    monkeypatch.setattr(probe, "decode_image", lambda path: decoded.append(path) or real(path))
    assert audit(source).to_dict() == first.to_dict()
    assert decoded == []
    path = tiny.root / "JPEGImages/im 3.png"
    os.utime(path, ns=(0, 0))
    audit(source)
    assert decoded == [str(path)]
    cache_file = next((Path(os.environ["DLRECIPES_CACHE"]) / "audit").iterdir())
    cache_file.write_text("{broken")
    audit(source)
    assert len(decoded) == 1 + 8


def test_a_broken_image_is_not_remembered(tiny):
    source = read_detection(tiny.write_voc())
    path = tiny.root / "JPEGImages/im 3.png"
    good, stamp = path.read_bytes(), 10**18
    path.write_bytes(b"\0" * len(good))
    os.utime(path, ns=(stamp, stamp))
    with pytest.raises(UserError, match=r"im 3.png cannot be decoded"):
        audit(source)
    path.write_bytes(good)
    os.utime(path, ns=(stamp, stamp))
    assert audit(source).total.images == 8


def test_unwritable_cache_is_no_error(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file, not a folder")
    monkeypatch.setenv("DLRECIPES_CACHE", str(tmp_path / "file" / "cache"))
    assert audit(read_detection(tiny.write_csv())).total.images == 8


def test_report_is_plain_text_of_at_most_100_columns(tiny):
    tiny.items[0].boxes[0] = [5.0, 5.0, 5.0, 5.0]
    report = audit(split_by_seed(read_detection(tiny.write_coco())))
    text = str(report)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert "1 x box without area (dropped)" in text
    assert "annotation 1000: box [5, 5, 5, 5] in 64x32" in text
    assert ["train", "5", "2", "5", "0", "2"] in [line.split() for line in text.splitlines()]
    assert json.loads(json.dumps(report.to_dict()))["finding_counts"] == {"box without area (dropped)": 1}


def test_report_in_colour_on_a_terminal(tiny):
    report = audit(read_detection(tiny.write_coco()))
    console = Console(force_terminal=True, width=60, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    report.print(console)
    assert max(map(len, console.export_text().splitlines())) <= 60
    console.file.close()


def test_many_classes_are_summed_up_in_the_table_and_complete_in_the_dict(tiny):
    names = [{"id": n, "name": f"[c{n}]"} for n in range(20, 60)]
    tiny.write_images(tiny.root, tiny.items)
    tiny.write_text("a.json", tiny.coco_json(tiny.items, categories=lambda c: [*c, *names]))
    report = audit(read_detection(tiny.root))
    assert "(19 classes between)" in str(report)
    assert "[c59]" in str(report)  # not taken for rich's markup
    assert len(report.to_dict()["total"]["class_counts"]) == 43


def test_check_data_prints_and_returns_zero(tiny, capsys, tmp_path):
    assert check_data(tiny.write_yolo(), json_file=tmp_path / "report.json") == 0
    out = capsys.readouterr().out
    assert "(yolo, 3 classes)" in " ".join(out.split())  # a long path is wrapped
    assert "No problems found." in out
    assert json.loads((tmp_path / "report.json").read_text())["total"]["images"] == 8


def test_check_data_refuses(tiny, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        check_data(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"report.json cannot be written"):
        check_data(tiny.write_yolo(), json_file=tmp_path / "no" / "report.json")


def test_bccd_reports_its_two_degenerate_boxes(data_root):
    report = audit(read_detection(data_root / "bccd"), show_progress=False)
    assert sorted(f.where for f in report.findings) == [
        "Annotations/BloodImage_00338.xml, object 13",
        "Annotations/BloodImage_00343.xml, object 4",
    ]
    assert {f.kind for f in report.findings} == {"box without area (dropped)"}
    assert report.warnings == (  # one field in two focal planes, in the published splits
        "1 image of val has a near copy in train, which makes results look better: JPEGImages/BloodImage_00037.jpg ~ "
        "JPEGImages/BloodImage_00038.jpg; move or remove it, or keep groups together with --data.fold_groups.",
    )
    assert dict(zip(report.source.classes, report.total.class_counts, strict=True)) == {
        "RBC": 4153,
        "WBC": 372,
        "Platelets": 361,
    }
    assert report.total.images == 364


def test_tiny_coco_passes(data_root):
    report = audit(read_detection(data_root / "tiny_coco"), max_queries=100, show_progress=False)
    assert report.findings == ()
    assert (report.splits["train"].objects, report.splits["train"].crowd) == (465, 5)


def test_one_class_is_no_classes(tiny, capsys):
    tiny.write_images(tiny.root, tiny.items)
    tiny.write_text("classes.txt", "animal\n")
    for item in tiny.items:
        tiny.write_text(f"{item.stem}.txt", "0 .5 .5 .25 .25\n")
    audit(read_detection(tiny.root)).print()
    assert "(yolo, 1 class)" in " ".join(capsys.readouterr().out.split())
