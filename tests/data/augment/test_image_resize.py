import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from dlrecipes.data.augment.image_resize import (
    evaluation_batch,
    evaluation_image,
    resize_shorter,
    scale_levels,
    shorter_to,
)


def photo(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("size", [(300, 451), (451, 300), (57, 83), (333, 333), (97, 1000)])
@pytest.mark.parametrize(("side", "crop_fraction"), [(224, 0.875), (96, 1.0), (71, 0.9)])
def test_evaluation_is_torchvisions_to_the_bit(size, side, crop_fraction):
    image = photo(*size)
    reference = Compose([Resize(int(side / crop_fraction), InterpolationMode.BICUBIC), CenterCrop(side)])
    expected = np.asarray(reference(Image.fromarray(image)))
    assert np.array_equal(evaluation_image(image, side, crop_fraction), expected)


@pytest.mark.parametrize(("given", "side", "crop_fraction"), [(32, 128, 1.0), (32, 64, 0.875), (64, 40, 1.0)])
def test_a_batch_is_scaled_as_each_picture_is(given, side, crop_fraction):
    pictures = np.stack([photo(given, given, seed) for seed in range(3)])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    expected = np.stack([evaluation_image(picture, side, crop_fraction) for picture in pictures])
    out = evaluation_batch(images, side, crop_fraction)
    assert out.dtype == torch.uint8
    difference = np.abs(out.permute(0, 2, 3, 1).numpy().astype(int) - expected.astype(int))
    assert difference.max() <= 1


@pytest.mark.parametrize(("given", "side"), [(32, 128), (32, 71), (64, 40), (7, 7)])
def test_devices_without_a_kernel_for_bytes_come_to_the_same(given, side):
    pictures = np.random.default_rng(0).integers(0, 256, (3, given, given, 3), dtype=np.uint8)
    expected = np.stack([resize_shorter(picture, side) for picture in pictures]).astype(int)
    out = scale_levels(torch.from_numpy(pictures).permute(0, 3, 1, 2).float(), side)
    difference = np.abs(out.permute(0, 2, 3, 1).numpy() - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def test_nothing_to_do():
    image = photo(40, 50)
    assert resize_shorter(image, 40) is image
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert evaluation_batch(images, 32, 1.0).data_ptr() == images.data_ptr()


def test_shorter_side():
    assert [shorter_to(size, 10) for size in ((20, 39), (39, 20), (5, 5), (10, 11))] == [
        (10, 19),
        (19, 10),
        (10, 10),
        (10, 11),
    ]
