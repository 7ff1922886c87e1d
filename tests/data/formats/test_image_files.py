import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.datasets import FakeData

from dlrecipes.data.formats.image_files import ArrayImages, ImageSubset, PathImages, TorchvisionImages, decode_at, take
from dlrecipes.data.formats.image_source import ImageTable
from dlrecipes.data.loading.decode import EXIF_ORIENTATION, decode, read_image
from dlrecipes.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 255, (5, 6, 7, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for k, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    return tmp_path


@pytest.mark.parametrize(
    "paths",
    [
        ["/d/a/1.jpg", "/d/b/2.jpg"],
        ["/d/a/1.jpg", "/d/a/1.jpg"],
        ["x.jpg"],
        ["/d/a.jpg", "e/f.jpg", "/d/a.jpg.png"],
        ["ä/ü.png", "ä/\udcff.png"],
        [],
    ],
)
def test_paths_come_back_as_given(paths):
    images = PathImages(paths)
    assert [images.name(i) for i in range(len(images))] == paths
    assert [pickle.loads(pickle.dumps(images)).name(i) for i in range(len(paths))] == paths


def test_files_are_read_with_size_and_stamp(folder):
    images = PathImages([folder / f"{k}.png" for k in range(5)])
    np.testing.assert_array_equal(images.read(3), PIXELS[3])
    assert images.size(0) == (6, 7)
    assert images.stamp(2)[0] == (folder / "2.png").stat().st_size
    (folder / "2.png").unlink()
    assert images.stamp(2) == (-1, -1)
    assert images.size(2) is None
    with pytest.raises(UserError, match=r"2.png: no such image file"):
        images.read(2)
    with pytest.raises(IndexError, match="image 5 of 5"):
        images.name(5)


def test_bytes_are_decoded_as_files_are(folder):
    content = (folder / "0.png").read_bytes()
    np.testing.assert_array_equal(decode(content, "a#0").pixels, read_image(folder / "0.png"))
    with pytest.raises(UserError, match=r"^a#0 cannot be decoded as an image \(.+\)\.$"):
        decode(content[:60], "a#0")
    with pytest.raises(UserError, match=r"^a#0 cannot be decoded as an image \(not an image file\)\.$"):
        decode(b"text", "a#0")


def test_decode_tells_mode_and_rotation(folder):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.fromarray(PIXELS[0, :, :, 0]).save(folder / "grey.jpg", exif=exif)
    decoded = decode(folder / "grey.jpg")
    assert (decoded.mode, decoded.orientation, decoded.pixels.shape) == ("L", 6, (6, 7, 3))


def test_arrays_are_copied_and_grey_becomes_rgb():
    images = ArrayImages(PIXELS.copy(), list("abcde"))
    images.read(1)[:] = 0
    np.testing.assert_array_equal(images.read(1), PIXELS[1])
    grey = ArrayImages(PIXELS[..., 0], list("abcde"))
    np.testing.assert_array_equal(grey.read(2), np.repeat(PIXELS[2, :, :, :1], 3, axis=2))
    assert len({images.stamp(k) for k in range(5)}) == 5
    with pytest.raises(ValueError, match="names: 1 for 5"):
        ArrayImages(PIXELS, ["a"])
    with pytest.raises(ValueError, match="float64"):
        ArrayImages(PIXELS / 1.0, list("abcde"))


def test_torchvision_is_the_same_from_many_threads_and_after_pickling():
    images = TorchvisionImages(FakeData(24, (3, 8, 8)), "torchvision:FakeData")
    expected = [images.read(i) for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        for got, wanted in zip(pool.map(images.read, list(range(24)) * 4), expected * 4, strict=True):
            np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images)).read(5), expected[5])


def test_subsets_keep_every_column_and_nest():
    table = ImageTable(
        ArrayImages(PIXELS, list("abcde")),
        np.arange(5),
        np.arange(5, dtype=np.float32) / 4,
        np.full((5, 2), 6),
    )
    part = take(take(table, np.array([4, 2, 0])), np.array([1, 0]))
    assert [part.images.name(i) for i in range(2)] == ["c", "e"]
    assert part.targets.tolist() == [2, 4]
    assert part.weights.tolist() == [0.5, 1.0]
    assert part.sizes.shape == (2, 2)
    assert isinstance(part.images, ImageSubset)
    assert not isinstance(part.images.images, ImageSubset)
    np.testing.assert_array_equal(decode_at(part.images, 0).pixels, PIXELS[2])
    assert part.images.size(0) == (6, 7)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
@pytest.mark.parametrize("orientation", range(10))
def test_labelled_images_stand_upright(tmp_path, orientation, suffix):
    path = tmp_path / f"turned{suffix}"
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(PIXELS[0]).save(path, exif=exif, **options)
    with Image.open(path) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    images = PathImages([path])
    read = images.read(0)
    np.testing.assert_array_equal(read, wanted)
    assert read.flags.c_contiguous
    assert images.size(0) == read.shape[:2]
    with Image.open(path) as image:
        np.testing.assert_array_equal(TorchvisionImages([(image, 0)], "x").read(0), wanted)
