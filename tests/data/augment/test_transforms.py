import albumentations as A
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dlrecipes.data.augment.geometry import crop, mirror, resize
from dlrecipes.data.augment.transforms import (
    AlbumentationsTransform,
    DetectionTransform,
    LightAugment,
    PaperAugment,
    ResizeLongest,
    ResizeShortest,
    StrongAugment,
    build_transform,
    eval_transform,
)
from dlrecipes.data.loading.sampler import sample_seed
from dlrecipes.errors import UserError

few = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LIGHT, PAPER = LightAugment(48), PaperAugment()
STRONG = StrongAugment(48, turn=True)
USER = AlbumentationsTransform(
    [A.HorizontalFlip(p=0.5), A.Affine(rotate=(-20, 20), p=0.5), A.RandomBrightnessContrast(p=0.5)], min_visibility=0.1
)


@st.composite
def samples(draw, largest=80):
    height, width = draw(st.integers(8, largest)), draw(st.integers(8, largest))
    unit = draw(arrays(np.float64, (draw(st.integers(0, 6)), 2, 2), elements=st.floats(0, 1, width=16)))
    low, high = unit.min(axis=1), unit.max(axis=1)
    boxes = np.concatenate([low, high], axis=1) * [width, height, width, height]
    sides = boxes[:, 2:] - boxes[:, :2]
    boxes = boxes[(sides >= 1).all(axis=1)]
    labels = np.arange(len(boxes)) * 1_000_003 + 2**40  # float32, and float64 after arithmetic, would not keep them
    image = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, boxes, labels


def marked(height=60, width=80):
    """A picture whose objects are filled rectangles of their own colour, so that pixels tell where a box belongs."""
    image = np.zeros((height, width, 3), np.uint8)
    boxes = np.array([[4, 6, 24, 26], [40, 10, 70, 30], [10, 36, 34, 56], [50, 40, 76, 58]], float)
    for number, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
        image[y1:y2, x1:x2] = 60 * (number + 1)
    return image, boxes, np.array([3, 1, 4, 1])


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "transform", [LIGHT, STRONG, STRONG.after_mosaic, PAPER, USER, ResizeLongest(48), ResizeShortest(32, 64)]
)
@given(sample=samples(), seed=st.integers(0, 2**64 - 1))
@few
def test_promises_of_every_transform(transform, sample, seed):
    image, boxes, labels = sample
    given_boxes, given_image = boxes.copy(), image.copy()
    image.setflags(write=False)
    out, new, kept = transform(image, boxes, labels, seed)
    assert isinstance(transform, DetectionTransform)
    assert out.dtype == np.uint8
    assert out.ndim == 3
    assert out.shape[2] == 3
    assert new.dtype == np.float64
    assert new.shape == (len(kept), 4)
    assert kept.dtype == np.int64
    assert len(np.unique(kept)) == len(kept) <= len(boxes)
    assert set(labels[kept]) <= set(labels)
    assert (new >= 0).all()
    assert (new <= np.array([out.shape[1], out.shape[0]] * 2) + 1e-3).all()
    assert (new[:, 2:] > new[:, :2]).all()
    assert same((out, new, kept), transform(image, boxes, labels, seed))
    assert np.array_equal(boxes, given_boxes)
    assert np.array_equal(image, given_image)


@given(sample=samples())
@few
def test_identity_is_exact_to_the_bit(sample):
    image, boxes, labels = sample
    out, new, kept = ResizeLongest(max(image.shape[:2]))(image, boxes, labels, 0)
    assert same((out, new, kept), (image, boxes, np.arange(len(boxes))))


@given(sample=samples())
@few
def test_mirrored_twice_is_the_same_picture_and_the_same_boxes(sample):
    image, boxes, _ = sample
    once = mirror(image, boxes)
    assert np.array_equal(once[0][:, 0], image[:, -1])
    twice = mirror(*once)
    assert np.array_equal(twice[0], image)
    assert np.abs(twice[1] - boxes).max(initial=0) <= 2.0**-46  # width − (width − x): one rounding at most
    whole = np.rint(boxes)
    assert np.array_equal(mirror(*mirror(image, whole))[1], whole)


@pytest.mark.parametrize("transform", [LightAugment(80), LightAugment(80, turn=True), STRONG, PAPER, USER])
def test_boxes_stay_on_their_objects(transform):
    image, boxes, labels = marked()
    plain = AlbumentationsTransform([A.HorizontalFlip(p=0.5), A.Affine(scale=(0.8, 1.3), p=0.5)])
    for seed in range(30):
        out, new, kept = (plain if transform is USER else transform)(image, boxes, labels, seed)
        centres = new.reshape(-1, 2, 2).mean(axis=1).astype(int)
        for (x, y), number in zip(centres, kept, strict=True):
            brightness = out[y, x].astype(float).mean()
            if transform is PAPER:  # changes no colours
                assert abs(brightness - 60 * (number + 1)) < 2
            else:
                assert brightness > 20  # on an object, not on the black between them


def test_right_label_for_the_right_box():
    image, boxes, labels = marked()
    seen = 0
    for seed in range(40):
        out, new, kept = PAPER(image, boxes, labels, seed)
        for (x1, y1, x2, y2), label, number in zip(new, labels[kept], kept, strict=True):
            colour = out[int((y1 + y2) / 2), int((x1 + x2) / 2), 0]
            assert label == labels[round(colour / 60) - 1]
            assert number == round(colour / 60) - 1
            seen += 1
    assert seen > 80


@pytest.mark.parametrize("transform", [LIGHT, STRONG, PAPER, USER])
def test_differs_between_seeds_epochs_and_samples(transform):
    image, boxes, labels = marked()
    seeds = [sample_seed(0, epoch, index) for epoch in range(4) for index in range(4)]
    results = [transform(image, boxes, labels, seed)[0] for seed in seeds]
    distinct = {(result.shape, result.tobytes()) for result in results}
    assert len(distinct) >= 8  # doing nothing may come up several times; repeated epochs would give 4
    order = np.random.default_rng(0).permutation(len(seeds))
    again = {i: transform(image, boxes, labels, seeds[i])[0] for i in order}  # as workers would: in another order
    assert all(np.array_equal(results[i], again[i]) for i in order)


def test_light_without_flip_never_mirrors_and_keeps_an_object():
    image, boxes, labels = marked()
    transform = LightAugment(80, flip=False)
    for seed in range(60):
        _, new, kept = transform(image, boxes, labels, seed)
        assert len(kept) >= 1
        if {0, 1} <= set(kept):
            assert new[list(kept).index(0), 0] < new[list(kept).index(1), 0]
    assert any(
        new[list(kept).index(0), 0] > new[list(kept).index(1), 0]
        for _, new, kept in (LightAugment(80)(image, boxes, labels, seed) for seed in range(20))
        if {0, 1} <= set(kept)
    )


def test_paper_sizes():
    image, boxes, labels = marked(120, 160)
    shapes = [PAPER(image, boxes, labels, seed)[0].shape[:2] for seed in range(200)]
    shorter = {min(shape) for shape in shapes if max(shape) < 1333}
    assert shorter <= set(range(480, 801, 32))
    assert len(shorter) == 11
    assert max(max(shape) for shape in shapes) <= 1333
    assert len({round(h / w, 2) for h, w in shapes}) > 20  # crops of many shapes


def test_crop_keeps_what_is_visible_and_a_tiny_object():
    image = np.arange(10 * 10 * 3, dtype=np.uint8).reshape(10, 10, 3)
    boxes = np.array([[0, 0, 4, 4], [2, 2, 6, 6], [5.25, 5.25, 5.5, 5.5], [8, 8, 10, 10]], float)
    out, new, kept = crop(image, boxes, (3, 3, 9, 9), min_visible=0.5)
    assert kept.tolist() == [1, 2]
    assert new.tolist() == [[0, 0, 3, 3], [2.25, 2.25, 2.5, 2.5]]
    assert np.array_equal(out, image[3:9, 3:9])


def test_crop_pads_with_black_outside():
    image = np.full((4, 6, 3), 9, np.uint8)
    out, new, _ = crop(image, np.array([[0.0, 0.0, 6.0, 4.0]]), (-2, -1, 8, 6), min_visible=1.0)
    assert out.shape == (7, 10, 3)
    assert out.sum() == image.sum()
    assert np.array_equal(out[1:5, 2:8], image)
    assert new.tolist() == [[2, 1, 8, 5]]


def test_resize_scales_each_axis():
    image, boxes = resize(np.zeros((10, 20, 3), np.uint8), np.array([[2.0, 1.0, 8.0, 5.0]]), 30, 10)
    assert image.shape == (30, 10, 3)
    assert boxes.tolist() == [[1.0, 3.0, 4.0, 15.0]]


def test_presets_and_import_paths():
    assert isinstance(build_transform("none", 64), ResizeLongest)
    assert isinstance(build_transform("paper", 64), PaperAugment)
    assert build_transform("light", 64, flip=False).flip is False
    assert isinstance(build_transform("strong", 64, turn=True), StrongAugment)
    for preset in ("light", "strong", "paper"):
        assert build_transform(preset, 64, turn=True).turn is True
        assert build_transform(preset, 64).turn is False
    assert isinstance(build_transform("dlrecipes.data.augment.transforms.ResizeShortest", 64), ResizeShortest)
    assert build_transform(USER, 64) is USER
    assert isinstance(eval_transform(1333, 800), ResizeShortest)
    assert isinstance(eval_transform(64), ResizeLongest)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("heavy", "no transform 'heavy': use one of none, light, strong, paper or an import path"),
        ("nowhere.Transform", "'nowhere.Transform' cannot be imported"),
        ("dlrecipes.data.augment.transforms.Missing", "cannot be imported"),
        ("dlrecipes.data.augment.transforms.TRANSFORMS", "is a tuple and cannot be called"),
        (3, "got int"),
    ],
)
def test_wrong_transforms(spec, message):
    with pytest.raises(UserError, match=message):
        build_transform(spec, 64)


def test_wrong_numbers():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        ResizeLongest(0)
    with pytest.raises(ValueError, match=r"min_visibility must be in 0\.\.1, got 2"):
        AlbumentationsTransform([], min_visibility=2)
