import colorsys

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from dlrecipes.shift import PROPERTIES, image_properties, ks_test
from dlrecipes.shift.corruptions import corrupt


def pictures(count: int, side: int = 16, seed: int = 0) -> Tensor:
    """Blobs of random colour, more or less grainy."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.uniform(20, 200, (count, 3, 4, 4)))
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    grain = torch.from_numpy(random.uniform(0, 12, (count, 1, 1, 1)) * random.standard_normal((count, 1, side, side)))
    return (smooth + grain).clamp(0, 255).round().to(torch.uint8)


def column(images: Tensor, name: str) -> Tensor:
    return image_properties(images)[:, PROPERTIES.index(name)]


def test_each_number_is_its_definition() -> None:
    images = pictures(3, 12)
    found = image_properties(images, torch.tensor([[10, 20], [30, 30], [40, 10]]))
    for picture, row in zip(images.double().numpy() / 255, found.tolist(), strict=True):
        luma = np.tensordot([0.299, 0.587, 0.114], picture, 1)
        laplace = ndimage.convolve(luma, [[0, 1, 0], [1, -4, 1], [0, 1, 0]])[1:-1, 1:-1]
        residue = ndimage.convolve(luma, [[1, -2, 1], [-2, 4, -2], [1, -2, 1]])[1:-1, 1:-1]
        hsv = [colorsys.rgb_to_hsv(*pixel)[1] for pixel in picture.reshape(3, -1).T]
        shares = picture.mean((1, 2)) / picture.mean((1, 2)).sum()
        noise = np.sqrt(np.pi / 2) * np.abs(residue).mean() / 6
        expected = [luma.mean(), luma.std(), laplace.std() / luma.std(), noise, np.mean(hsv), *shares]
        assert row[:-1] == pytest.approx(expected, rel=1e-4)
    assert found[:, -1].tolist() == pytest.approx([2, 1, 0.25])


def test_noise_is_the_deviation_of_white_noise() -> None:
    """The estimate's own spread over 64 × 64 pixels is about 2 %."""
    random = np.random.default_rng(0)
    grey = 128 + 10 * random.standard_normal((1, 1, 64, 64)).repeat(3, axis=1)
    assert float(column(torch.from_numpy(grey.round()).to(torch.uint8), "noise")) * 255 == pytest.approx(10, rel=0.06)


@pytest.mark.parametrize(
    ("change", "name"),
    [("brightness", "brightness"), ("contrast", "contrast"), ("saturation", "saturation"), ("gaussian_noise", "noise")],
)
def test_a_corruption_moves_the_property_of_its_name_most(change: str, name: str) -> None:
    reference, new = pictures(150), corrupt(pictures(100, seed=1), change, 3)
    found = ks_test(image_properties(reference), image_properties(new), names=PROPERTIES)
    assert found.culprits[0].name == name


def test_brightness_leaves_shares_of_colours_and_sharpness() -> None:
    images = pictures(5).clamp(20) // 2
    brighter = images * 2
    for name in ("red share", "green share", "blue share", "saturation", "sharpness"):
        torch.testing.assert_close(column(brighter, name), column(images, name), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(column(brighter, "brightness"), 2 * column(images, "brightness"))


def test_black_images_and_none_are_no_special_case() -> None:
    black = image_properties(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    assert black.isfinite().all()
    assert image_properties(torch.zeros(0, 3, 4, 4, dtype=torch.uint8)).shape == (0, len(PROPERTIES))


def test_other_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8 \[B, 3, H, W\]"):
        image_properties(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="at least 3 × 3"):
        image_properties(torch.zeros(1, 3, 2, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"sizes must be \[1, 2\]"):
        image_properties(pictures(1), torch.zeros(2, 2))
