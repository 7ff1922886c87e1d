import numpy as np
import pytest

from dlrecipes.data.formats.arrays import array_source

PICTURES = np.arange(4 * 8 * 8 * 3, dtype=np.uint64).reshape(4, 8, 8, 3).astype(np.uint8)


def test_labels():
    source = array_source((PICTURES, [2, 0, 1, 2]), test=(PICTURES[:1], [1]), name="cubes")
    assert (source.task, source.classes, set(source.splits)) == ("classification", ("0", "1", "2"), {"train", "test"})
    train = source.splits["train"]
    assert train.targets.dtype == np.int64
    assert train.images.name(3) == "cubes:train#3"
    assert np.array_equal(train.images.read(3), PICTURES[3])


def test_several_labels_and_numbers():
    several = array_source((PICTURES, [[1, 0], [0, 0], [1, 1], [0, 1]]), classes=("cat", "dog"))
    assert several.task == "multilabel"
    assert several.splits["train"].targets.dtype == np.float32
    numbers = array_source((PICTURES[..., 0], np.array([0.5, 1.0, -2.0, 3.0])))
    assert (numbers.task, numbers.classes, numbers.target_names) == ("regression", (), ("target0",))
    assert numbers.splits["train"].targets.shape == (4, 1)
    assert numbers.splits["train"].images.read(1).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        ((PICTURES, [0, 1]), {}, "array:train holds 4 pictures but 2 targets"),
        ((PICTURES, [0, 1, 2, 3]), {"classes": ("a", "b")}, r"labels of array:train must be in 0\.\.1, got 0\.\.3"),
        ((PICTURES, [[2, 0]] * 4), {}, "must be 0 or 1"),
        ((PICTURES.astype(np.float32), [0] * 4), {}, "uint8"),
        ((PICTURES, [0] * 4), {"val": (PICTURES, [0.5] * 4)}, "one kind of targets"),
        ((PICTURES, [[0.5, 1.0]] * 4), {"val": (PICTURES, [[0.5]] * 4)}, r"must be \[n, 2\], got \[4, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(train, options, message):
    with pytest.raises(ValueError, match=message):
        array_source(train, **options)
