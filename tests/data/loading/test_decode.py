from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlrecipes.data.loading.decode import EXIF_ORIENTATION, decode_image, image_size, read_image
from dlrecipes.errors import UserError

GRADIENT = np.add.outer(np.arange(40), 3 * np.arange(60)).astype(np.uint8)
COLOUR = np.stack([GRADIENT, GRADIENT[::-1], GRADIENT[:, ::-1]], axis=-1)


def _save(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_rgb_is_exact_contiguous_and_writable(tmp_path):
    image = read_image(_save(tmp_path / "a.png", COLOUR))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    np.testing.assert_array_equal(image, COLOUR)


def test_grey_palette_alpha_and_sixteen_bits_become_rgb(tmp_path):
    grey = np.repeat(GRADIENT[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(read_image(_save(tmp_path / "grey.png", GRADIENT)), grey)
    wide = GRADIENT.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_image(_save(tmp_path / "wide.png", wide)), grey)
    np.testing.assert_array_equal(read_image(_save(tmp_path / "wide.tiff", wide)), grey)
    alpha = np.concatenate([COLOUR, np.full_like(GRADIENT, 7)[:, :, None]], axis=2)
    np.testing.assert_array_equal(read_image(_save(tmp_path / "alpha.png", alpha)), COLOUR)
    palette = Image.fromarray(COLOUR).quantize(16)
    palette.save(tmp_path / "palette.png", transparency=3)
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))


def test_exif_rotation_is_reported_and_not_applied(tmp_path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    path = _save(tmp_path / "turned.jpg", COLOUR, exif=exif)
    image, orientation = decode_image(path)
    assert image.shape == (40, 60, 3)
    assert orientation == 6
    assert image_size(path) == (60, 40)


@pytest.mark.parametrize("missing", [2, 100, 900])
def test_truncated_jpeg_is_an_error(tmp_path, missing):
    """OpenCV 4 returns such a picture with the rest in grey."""
    path = _save(tmp_path / "cut.jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-missing])
    assert image_size(path) == (64, 64)
    with pytest.raises(UserError, match=r"cut.jpg cannot be decoded as an image \(.*truncated"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"this is a text file\n" * 50])
def test_text_and_empty_files_are_errors(tmp_path, content):
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    assert image_size(path) is None
    with pytest.raises(UserError, match=r"text.jpg cannot be decoded as an image \(not an image file\)") as caught:
        read_image(path)
    assert str(caught.value).count("text.jpg") == 1


def test_jpeg_that_ends_in_its_header(tmp_path):
    path = tmp_path / "head.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00")
    assert image_size(path) is None
    with pytest.raises(UserError, match=r"head.jpg cannot be decoded as an image"):
        read_image(path)


def test_png_cut_in_the_middle_and_with_a_broken_chunk(tmp_path):
    path = _save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], content[:200] + b"\0\0\0\0" + content[204:]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"a.png cannot be decoded"):
            read_image(path)


def test_missing_file_and_floating_point_pixels(tmp_path):
    with pytest.raises(UserError, match=r"none.jpg: no such image file"):
        read_image(tmp_path / "none.jpg")
    assert image_size(tmp_path / "none.jpg") is None
    path = _save(tmp_path / "float.tiff", GRADIENT.astype(np.float32))
    with pytest.raises(UserError, match=r"float.tiff cannot be decoded as an image \(floating-point pixels"):
        read_image(path)
