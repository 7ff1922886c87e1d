import numpy as np
import pytest

from dlrecipes.data.audit.audit_boxes import audit
from dlrecipes.data.formats.discover import holds_detection, read_detection
from dlrecipes.errors import UserError

SUBSETS = {"train": "Train", "val": "Validation", "test": "Test"}


def _xml(tiny, subset=True, shapes=None, more=""):
    """``shapes`` replaces those of the first image."""
    images = ""
    for item in tiny.items:
        drawn = "".join(
            f'<box label="{n}" source="manual" occluded="0" xtl="{b[0]}" ytl="{b[1]}" xbr="{b[2]}" ybr="{b[3]}" '
            'z_order="0"><attribute name="colour">red</attribute></box>'
            for b, n in zip(item.boxes, item.names, strict=True)
        )
        drawn = shapes if shapes is not None and item.number == 0 else drawn
        part = f' subset="{SUBSETS[item.split]}"' if subset else ""
        size = f'width="{item.size[0]}" height="{item.size[1]}"'
        images += (
            f'<image id="{item.number}" name="{item.stem}.png"{part} {size}>{drawn}<tag label="day"></tag></image>'
        )
    labels = "".join(f"<label><name>{n}</name><type>any</type></label>" for n in ("bird", "cat", "dog"))
    labels += "<label><name>day</name><type>tag</type></label>"
    meta = f"<meta><project><labels>{labels}</labels></project></meta>"
    return f'<?xml version="1.0"?>\n<annotations><version>1.1</version>{meta}{images}{more}</annotations>'


def test_subsets_become_splits(tiny):
    for split, subset in SUBSETS.items():
        tiny.write_images(tiny.root / "images" / subset, tiny.of(split))
    tiny.write_text("annotations.xml", _xml(tiny))
    source = read_detection(tiny.root)
    assert source.format == "cvat"
    tiny.check(source, category_ids=(1, 2, 3))
    assert holds_detection(tiny.root)
    assert audit(source).total.images == 8


def test_a_task_without_subsets_is_not_split(tiny):
    tiny.write_images(tiny.root / "images", tiny.items)
    tiny.write_text("annotations.xml", _xml(tiny, subset=False))
    source = read_detection(tiny.root / "annotations.xml")
    tiny.check(source, ["all"])
    assert source.notes == ("no split is given",)


def test_polygons_become_the_box_around_them(tiny):
    tiny.write_images(tiny.root / "images", tiny.items)
    tiny.write_text("annotations.xml", _xml(tiny, False, '<polygon label="cat" points="8.0,9.5;12.0,4.0;10.0,20.0"/>'))
    source = read_detection(tiny.root)
    np.testing.assert_allclose(source.splits["all"][0].boxes, [[8.0, 4.0, 12.0, 20.0]])
    assert "polygons, of which the box around each is used: 1" in source.notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"shapes": '<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9" rotation="30.0"/>'},
            r"image 'im 0.png': a rotated box; only upright boxes .* COCO, YOLO or Pascal VOC",
        ),
        (
            {"shapes": '<mask label="cat" rle="1, 2" left="1" top="1" width="3" height="3"/>'},
            "'im 0.png': a mask; only",
        ),
        ({"shapes": '<box label="cat" xtl="left" ytl="1" xbr="9" ybr="9"/>'}, "'left' is not a number"),
        ({"more": '<track id="0" label="cat"></track>'}, "holds tracks of a video; export the data as COCO"),
        ({"more": "<image"}, "the XML is invalid at line 2"),
    ],
)
def test_what_is_no_upright_box_is_refused(tiny, changes, message):
    tiny.write_images(tiny.root / "images", tiny.items)
    tiny.write_text("annotations.xml", _xml(tiny, subset=False, **changes))
    with pytest.raises(UserError, match=message):
        read_detection(tiny.root)


def test_two_tasks_are_asked_about(tiny):
    for name in ("one.xml", "two.xml"):
        tiny.write_text(name, _xml(tiny))
    assert holds_detection(tiny.root)
    with pytest.raises(UserError, match=r"holds one.xml and two.xml, both of CVAT; give one file as the path"):
        read_detection(tiny.root)
