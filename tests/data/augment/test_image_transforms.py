import albumentations as A
import numpy as np
import pytest

from dlrecipes.data.augment.image_transforms import AlbumentationsImages, ImageTransform, build_image_transform
from dlrecipes.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
SMALL = IMAGE[:32, :32]


def darker(image, seed):
    return image // 2


class Darker:
    def __call__(self, image, seed):
        return image // 2


@pytest.mark.parametrize("preset", ["light", "strong"])
@pytest.mark.parametrize(("image", "small"), [(IMAGE, False), (SMALL, True)])
@pytest.mark.parametrize("mirror", [True, False])
def test_presets_are_functions_of_the_seed(preset, image, small, mirror):
    first, second = (build_image_transform(preset, 32, small=small, mirror=mirror) for _ in range(2))
    image = image.copy()
    image.setflags(write=False)
    results = [first(image, seed) for seed in range(12)]
    assert all(r.shape == (32, 32, 3) and r.dtype == np.uint8 for r in results)
    for seed in reversed(range(12)):  # whatever came before
        assert np.array_equal(second(image, seed), results[seed])
    assert len({r.tobytes() for r in results}) == 12


def test_mirroring():
    ramp = np.repeat(np.linspace(0, 255, 32).astype(np.uint8)[None, :, None], 32, axis=0).repeat(3, axis=2)

    def falling(mirror, small):
        transform = build_image_transform("light", 32, small=small, mirror=mirror)
        return [float(out[:, :8].mean()) > float(out[:, -8:].mean()) for out in (transform(ramp, s) for s in range(60))]

    for small in (True, False):
        assert not any(falling(False, small))
        assert 15 < sum(falling(True, small)) < 45


def test_small_pictures_are_shifted_by_at_most_an_eighth():
    dot = np.zeros((32, 32, 3), np.uint8)
    dot[16, 16] = 255
    transform = build_image_transform("light", 32, small=True, mirror=True)
    rows = {int(np.argwhere(transform(dot, seed)[..., 0])[0][0]) for seed in range(200)}
    assert rows == set(range(12, 21))


def test_none_is_what_evaluation_does():
    assert build_image_transform("none") is None


@pytest.mark.parametrize(
    "spec", [darker, Darker(), f"{__name__}.darker", f"{__name__}.Darker", AlbumentationsImages([A.NoOp()])]
)
def test_users_own(spec):
    transform = build_image_transform(spec)
    assert isinstance(transform, ImageTransform)
    if not isinstance(spec, AlbumentationsImages):
        assert np.array_equal(transform(IMAGE, 0), IMAGE // 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("stong", "There is no augmentation 'stong': use one of none, light, strong or an import path"),
        ("no_such_module.Transform", "'no_such_module.Transform' cannot be used"),
        ("numpy.pi", "augment must be a name, an import path or callable, got float"),
        (5, "augment must be a name, an import path or callable, got int"),
    ],
)
def test_wrong_names(spec, message):
    with pytest.raises(UserError, match=message):
        build_image_transform(spec)
