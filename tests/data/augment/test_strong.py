import numpy as np
import pytest

from dlrecipes.data.augment.geometry import choose_window, crop, turn_over
from dlrecipes.data.augment.strong import StrongAugment


def cross(height=60, width=80):
    """A picture with one white object in the middle on grey, and its box."""
    image = np.full((height, width, 3), 90, np.uint8)
    image[20:40, 30:50] = 250
    return image, np.array([[30.0, 20.0, 50.0, 40.0]]), np.array([0])


def colourless(size=80, **arguments):
    """The geometry alone."""
    transform = StrongAugment(size, **arguments)
    transform._colours = type(
        "Same", (), {"set_random_seed": lambda s, x: None, "__call__": lambda s, image: {"image": image}}
    )()
    return transform


def test_picture_keeps_its_shape_whatever_the_zoom():
    image, boxes, labels = cross()
    transform = StrongAugment(40)
    assert {transform(image, boxes, labels, seed)[0].shape for seed in range(40)} == {(30, 40, 3)}


def test_pixels_in_the_box_are_the_object():
    """By moments of the white pixels: edge by edge within the blur of the scaling."""
    image, boxes, labels = cross()
    transform, factors = colourless(turn=True), []
    for seed in range(60):
        out, new, kept = transform(image, boxes, labels, seed)
        ys, xs = np.nonzero(out[:, :, 0] > 170)
        inked = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert kept.tolist() == [0]
        assert np.abs(inked - new[0]).max() <= 1.01
        factors.append((new[0, 2:] - new[0, :2]) / 20)
    whole = np.array(factors)
    area = np.sqrt(whole.prod(axis=1))
    assert 0.55 < area.min() < 0.75  # zoomed out, the factor's limit being 0.6
    assert 1.5 < area.max() < 2.1
    assert 0.1 < np.mean(np.abs(whole - 1.0).max(axis=1) < 1e-9) < 0.35  # one in five is not zoomed
    stretch = whole[:, 0] / whole[:, 1]
    uncut = area < 1.4
    assert 0.75 < stretch[uncut].min() < 0.95
    assert 1.05 < stretch[uncut].max() < 1.35


def test_flips_are_what_was_asked_for():
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    none = np.zeros((0, 4)), np.zeros(0, np.int64)

    def results(**arguments):
        transform = colourless(8, zoom=False, **arguments)
        return {transform(image, *none, seed)[0].tobytes() for seed in range(40)}

    ways = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    assert results(flip=False) == {image.tobytes()}
    assert results() == {way.tobytes() for way in ways[:2]}
    assert results(turn=True) == {way.tobytes() for way in ways}


def test_turned_over_twice_is_the_same():
    image, boxes, _ = cross(61, 80)
    boxes = boxes + np.array([0.0, 0.25, 0.0, 3.5])
    once = turn_over(image, boxes)
    assert once[1].tolist() == [[30.0, 61 - 43.5, 50.0, 61 - 20.25]]
    twice = turn_over(*once)
    assert np.array_equal(twice[0], image)
    assert np.array_equal(twice[1], boxes)


def test_after_a_mosaic_nothing_is_zoomed():
    image, boxes, labels = cross()
    transform = colourless()
    for seed in range(20):
        out, new, _ = transform.after_mosaic(image, boxes, labels, seed)
        assert new.tolist() == [[30.0, 20.0, 50.0, 40.0]]  # in the middle: a flip changes nothing
        assert np.array_equal(out, image)


def test_window_shows_no_object_that_is_not_labelled_if_there_is_one():
    boxes = np.array([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    cuts_both, whole_second, nothing = (8, 0, 22, 10), (18, 0, 32, 10), (12, 0, 18, 10)
    windows = np.array([cuts_both, nothing, whole_second])
    assert choose_window(boxes, windows, 0.3) == whole_second
    assert crop(np.zeros((10, 40, 3), np.uint8), boxes, whole_second, 0.3)[2].tolist() == [1]
    assert choose_window(boxes, windows[:2], 0.3) == nothing  # neither keeps an object: one at least shows none
    assert choose_window(boxes[:0], windows, 0.3) == cuts_both
    tenth, quarter = (0, 0, 1, 10), (17, 0, 22, 10)
    assert choose_window(boxes, np.array([quarter, tenth]), 0.5) == tenth


def test_a_picture_is_left_whole_where_every_window_loses_all_objects():
    image = np.zeros((200, 200, 3), np.uint8)
    image[::2] = 200
    boxes = np.array([[0.0, 0.0, 200.0, 200.0]])  # zoomed in by 2, at most a quarter is visible
    transform = colourless(200)
    left = [transform(image, boxes, np.array([0]), seed) for seed in range(60)]
    assert all(kept.tolist() == [0] for _, _, kept in left)


def test_empty_pictures_are_zoomed_too():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    outs = [colourless(40)(image, np.zeros((0, 4)), np.zeros(0, np.int64), seed) for seed in range(20)]
    assert all(boxes.shape == (0, 4) and kept.shape == (0,) for _, boxes, kept in outs)
    assert len({out.tobytes() for out, _, _ in outs}) > 10


def test_wrong_size():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        StrongAugment(0)
