import pytest

from dlrecipes.contracts import DataInfo
from dlrecipes.data.audit.expectations import expectations
from dlrecipes.data.formats.records import make_record


def records(*labels):
    return [
        make_record(f"{i}.png", (99, 99), [(0.0, 0.0, 5.0, 5.0)] * len(row), list(row), i)
        for i, row in enumerate(labels)
    ]


def notes(train, val=None, classes=("a", "b"), counts=(500, 500), batch_size=4, strong=False):
    info = DataInfo(
        task="detection",
        classes=classes,
        category_ids=tuple(range(len(classes))),
        class_counts=counts,
        num_train=len(train),
        max_objects=9,
        image_size=64,
    )
    splits = {"train": train, "val": records(*[[0]] * 20) if val is None else val}
    return expectations(info, splits, "train", batch_size, strong=strong)


def test_nothing_to_say_of_plain_data():
    assert notes(records(*[[0, 1]] * 100)) == []


def test_what_is_done_already_is_not_advised():
    assert "--augment strong" in notes(records(*[[0]] * 99))[0]
    assert notes(records(*[[0]] * 99), strong=True)[0].endswith("between seeds; more images help most.")


@pytest.mark.parametrize("images", [3, 30])
def test_a_split_without_objects_has_no_map(images):
    (note,) = notes(records(*[[0]] * 100), val=records(*[[]] * images))
    assert note == f"The val split holds no object in its {images} image{'s' * (images != 1)}: it can have no mAP."


@pytest.mark.parametrize(
    ("count", "says"), [(5, "5 training images: expect a model that knows"), (99, "99 training images are few")]
)
def test_few_images(count, says):
    (note,) = notes(records(*[[0]] * count))
    assert note.startswith(says)
    assert len(notes(records(*[[0]] * 19))[0]) != len(notes(records(*[[0]] * 20))[0])


def test_rare_classes():
    (note,) = notes(records(*[[0]] * 100), classes=tuple("abcdefgh"), counts=(9, 10, 0, 1, 2, 3, 4, 5))
    assert note == (
        "Fewer than 10 boxes to learn from for d (1), e (2), f (3), g (4), h (5) and 1 more: expect little of their AP."
    )


def test_one_class():
    (note,) = notes(records(*[[0]] * 100), classes=("cell",), counts=(100,))
    assert note.startswith("One class (cell): mAP is its AP")


def test_empty_images():
    assert notes(records(*[[0]] * 50, *[[]] * 50)) == []
    (note,) = notes(records(*[[0]] * 20, *[[]] * 80), batch_size=2)
    assert note.startswith("80% of the training images hold no object")
    assert "about 64% of the batches of 2 hold none" in note


@pytest.mark.parametrize(("most", "expected"), [(49, 0), (50, 1), (100, 1), (101, 2)])
def test_crowds(most, expected):
    found = notes(records(*[[0]] * 99, [0] * most))
    assert len(found) == expected
    assert all(str(most) in note for note in found[:1])
    assert expected < 2 or found[1].startswith("1 image with more than 100 objects")


def test_a_small_split_to_measure_on():
    (note,) = notes(records(*[[0]] * 100), val=records([0, 1], [], [1]))
    assert note == "The val split holds 3 images with 3 boxes: expect its mAP to jump between epochs."
