from dataclasses import replace

import numpy as np
import pytest
import torch

from dlrecipes.data.augment.image_resize import evaluation_image
from dlrecipes.data.formats.image_files import ArrayImages
from dlrecipes.data.formats.image_source import ImageTable
from dlrecipes.data.loading.cache import ImageCache
from dlrecipes.data.loading.image_dataset import ImageDataset
from dlrecipes.data.loading.sampler import sample_seed

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3), dtype=np.uint8)
TABLE = ImageTable(ArrayImages(PIXELS, [f"array#{i}" for i in range(6)]), np.arange(6))


@pytest.mark.parametrize(
    ("image_size", "crop_fraction", "one_copy"), [(16, 0.8, True), (20, 1.0, True), (16, 1.0, False)]
)
def test_one_copy_is_what_each_picture_would_be(image_size, crop_fraction, one_copy):
    options = {"image_size": image_size, "crop_fraction": crop_fraction}
    dataset = ImageDataset(TABLE, ImageCache(TABLE.images), **options)
    assert dataset.is_one_copy is one_copy
    batch = dataset.__getitems__([(0, 4), (0, 1)])
    expected = [evaluation_image(PIXELS[i], image_size, crop_fraction) for i in (4, 1)]
    assert np.array_equal(batch["images"].permute(0, 2, 3, 1).numpy(), np.stack(expected))
    assert torch.equal(batch["images"], ImageDataset(TABLE, None, **options).__getitems__([4, 1])["images"])
    assert batch["paths"] == ["array#4", "array#1"]


def test_a_batch_may_be_written_to():
    dataset = ImageDataset(TABLE, ImageCache(TABLE.images), image_size=None)
    dataset[2]["images"].zero_()
    assert np.array_equal(dataset[2]["images"][0].permute(1, 2, 0).numpy(), PIXELS[2])


def test_weights_go_with_their_samples():
    weights = np.linspace(0.5, 1.0, 6, dtype=np.float32)
    batch = ImageDataset(replace(TABLE, weights=weights), None, image_size=None).__getitems__([(3, 5), (3, 0)])
    assert batch["weights"].tolist() == [1.0, 0.5]
    assert batch["targets"].tolist() == batch["index"].tolist() == [5, 0]
    assert batch["epoch"] == 3


def test_a_transform_gets_the_seed_of_its_sample():
    seen = []

    def transform(image, seed):
        seen.append(seed)
        return image[:10, :25]

    batch = ImageDataset(TABLE, None, image_size=8, transform=transform, seed=7).__getitems__([(2, 3), (2, 1)])
    assert seen == [sample_seed(7, 2, 3), sample_seed(7, 2, 1)]
    assert np.array_equal(batch["images"][1].permute(1, 2, 0).numpy(), evaluation_image(PIXELS[1, :10, :25], 8, 1.0))


def test_a_further_copy_is_the_same_image_with_a_seed_of_its_own():
    seen = []

    def transform(image, seed):
        seen.append(seed)
        return image

    batch = ImageDataset(TABLE, None, image_size=20, transform=transform, seed=7).__getitems__([(2, 3), (2, 3 + 6 * 2)])
    assert seen == [sample_seed(7, 2, 3), sample_seed(7, 2, 15)]
    assert torch.equal(batch["images"][0], batch["images"][1])
    assert (batch["index"].tolist(), batch["draw"].tolist(), batch["targets"].tolist()) == ([3, 3], [3, 15], [3, 3])
    assert batch["paths"] == ["array#3", "array#3"]


def test_a_bare_index_is_a_position_in_the_split():
    dataset = ImageDataset(TABLE, None, image_size=None)
    assert dataset[-1]["index"].tolist() == [5]
    with pytest.raises(IndexError):
        dataset[6]
