import errno
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import patch

import cv2
import numpy as np
import pytest
from PIL import Image

from dlrecipes.data.formats.image_files import ArrayImages
from dlrecipes.data.formats.records import make_record
from dlrecipes.data.loading import cache as cache_module
from dlrecipes.data.loading.cache import ImageCache, RecordImages
from dlrecipes.errors import UserError

SIZES = [(40, 30), (64, 80), (9, 200), (33, 31)]  # height, width


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRECIPES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    images, records = [], []
    for number, (height, width) in enumerate(SIZES):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), image[:, :, ::-1])
        images.append(image)
        records.append(make_record(str(path), (width, height), [], [], number))
    return images, records


@pytest.fixture
def decoded():
    """Counts calls of the decoder."""
    with patch.object(cache_module, "read_image", wraps=cache_module.read_image) as counter:
        yield counter


def check(cache, images):
    for index, image in enumerate(images):
        assert np.array_equal(cache[index], image)
        assert cache[index].dtype == np.uint8


@pytest.mark.parametrize(
    ("options", "says", "decodings"),
    [
        ({}, "kept in memory", 4),
        ({"memory_bytes": 0}, r"kept in .*\.bin", 4),
        ({"memory_bytes": 0, "limit_bytes": 10}, "exceed the cache limit of 0.0 MB: each is decoded when needed", 12),
    ],
)
def test_where_pictures_are_kept(pictures, decoded, options, says, decodings):
    images, records = pictures
    cache = ImageCache(RecordImages(records), None, **options)
    assert len(cache) == 4
    check(cache, images)
    check(cache, images[:2])
    assert decoded.call_count == decodings
    assert re.search(says, cache.note)
    assert cache[1].flags.writeable is (decodings != 4)


def test_pictures_are_scaled_down_only(pictures):
    images, records = pictures
    cache = ImageCache(RecordImages(records), 64)
    assert [cache[i].shape[:2] for i in range(4)] == [(40, 30), (51, 64), (3, 64), (33, 31)]
    assert np.array_equal(cache[0], images[0])
    assert np.array_equal(cache[1], cv2.resize(images[1], (64, 51), interpolation=cv2.INTER_AREA))


def test_second_run_finds_the_file(pictures, decoded, folder):
    images, records = pictures
    ImageCache(RecordImages(records), None, memory_bytes=0)
    check(ImageCache(RecordImages(records), None, memory_bytes=0), images)
    assert decoded.call_count == 4
    assert len(list(folder.glob("*.bin"))) == 1
    assert not list(folder.glob("*.partial"))


def test_another_size_or_a_changed_picture_is_another_file(pictures, decoded, folder):
    images, records = pictures
    ImageCache(RecordImages(records), None, memory_bytes=0)
    ImageCache(RecordImages(records), 50, memory_bytes=0)
    os.utime(records[0].path, (1, 1))
    check(ImageCache(RecordImages(records), None, memory_bytes=0), images)
    assert decoded.call_count == 12
    assert len(list(folder.glob("*.bin"))) == 3


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-7])


def overwrite_middle(file):
    content = bytearray(file.read_bytes())
    content[:-12] = bytes(len(content) - 12)
    file.write_bytes(bytes(content))


def overwrite_end(file):
    file.write_bytes(file.read_bytes()[:-12] + b"x" * 12)


@pytest.mark.parametrize("damage", [cut_off, overwrite_middle, overwrite_end])
def test_a_damaged_file_is_written_anew(pictures, decoded, folder, damage):
    images, records = pictures
    ImageCache(RecordImages(records), None, memory_bytes=0)
    damage(next(folder.glob("*.bin")))
    check(ImageCache(RecordImages(records), None, memory_bytes=0), images)
    assert decoded.call_count == 8


def test_a_crash_while_writing_leaves_no_file(pictures, folder):
    images, records = pictures
    with patch.object(cache_module, "read_image", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        ImageCache(RecordImages(records), None, memory_bytes=0)
    assert not list(folder.glob("*.bin"))
    assert not list(folder.glob("*.partial"))
    check(ImageCache(RecordImages(records), None, memory_bytes=0), images)


def test_of_many_at_once_one_decodes(pictures, decoded):
    images, records = pictures
    with ThreadPoolExecutor(4) as pool:
        caches = list(pool.map(lambda _: ImageCache(RecordImages(records), None, memory_bytes=0), range(4)))
    for cache in caches:
        check(cache, images)
    assert decoded.call_count == 4


def test_sent_to_a_worker_without_its_pixels(pictures, decoded):
    images, records = pictures
    cache = ImageCache(RecordImages(records), None, memory_bytes=0)
    sent = pickle.dumps(cache)
    assert len(sent) < cache.total_bytes / 4
    check(pickle.loads(sent), images)
    check(pickle.loads(pickle.dumps(ImageCache(RecordImages(records), None))), images)
    assert decoded.call_count == 8


def test_folder_that_cannot_be_written(pictures, tmp_path, monkeypatch):
    images, records = pictures
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DLRECIPES_CACHE", str(tmp_path / "file"))
    cache = ImageCache(RecordImages(records), None, memory_bytes=0)
    assert "cannot be kept in" in cache.note
    check(cache, images)


def test_too_little_space(pictures, folder):
    images, records = pictures
    with patch.object(cache_module.shutil, "disk_usage", return_value=SimpleNamespace(free=9)):
        cache = ImageCache(RecordImages(records), None, memory_bytes=0)
    assert "more than half of the 0.0 MB that are free" in cache.note
    check(cache, images)
    assert not list(folder.glob("*.bin"))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve space")
def test_a_disk_that_gets_full_is_met_before_pictures_are_written(pictures, folder, monkeypatch):
    """A write into a mapped file without space ends the process by SIGBUS."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    images, records = pictures
    cache = ImageCache(RecordImages(records), memory_bytes=0)
    assert "No space left on device" in cache.note
    check(cache, images)
    assert not list(folder.glob("*.partial"))


def test_files_unused_longest_are_removed(pictures, folder):
    images, records = pictures
    ImageCache(RecordImages(records[:1]), None, memory_bytes=0)
    old = next(folder.glob("*.bin"))
    os.utime(old, (1, 1))
    second = ImageCache(RecordImages(records[1:]), None, memory_bytes=0, limit_bytes=25_000)
    assert not old.exists()
    check(second, images[1:])


def test_a_picture_that_changed_its_size_is_refused(pictures):
    _, records = pictures
    cv2.imwrite(records[2].path, np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(UserError, match=r"2\.png is 5x5 now, but was 200x9 when the data was checked"):
        ImageCache(RecordImages(records), None)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="max_side must be at least 1, got 0"):
        ImageCache(RecordImages([]), 0)


def test_no_pictures():
    assert len(ImageCache(RecordImages([]), None)) == 0


def test_the_shorter_side_is_scaled_down_as_pillow_does(pictures):
    images, records = pictures
    cache = ImageCache(RecordImages(records), min_side=32)
    assert [cache[i].shape[:2] for i in range(4)] == [(40, 30), (32, 40), (9, 200), (33, 31)]
    expected = Image.fromarray(images[1]).resize((40, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(cache[1], np.asarray(expected))
    assert np.array_equal(cache[2], images[2])
    assert cache.dense is None


@pytest.mark.parametrize("memory_bytes", [2**20, 0])
def test_pictures_of_one_shape_are_one_array(memory_bytes):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 12, 8, 3), dtype=np.uint8)
    source = ArrayImages(pixels, [f"array#{i}" for i in range(5)])
    cache = ImageCache(source, memory_bytes=memory_bytes)
    assert np.array_equal(cache.dense, pixels)
    assert not cache.dense.flags.writeable
    assert np.array_equal(pickle.loads(pickle.dumps(cache)).dense, pixels)
    assert cache.keeps_pictures
    each_time = ImageCache(source, memory_bytes=0, limit_bytes=0)
    assert each_time.dense is None
    assert not each_time.keeps_pictures
    assert np.array_equal(each_time[3], pixels[3])


def test_sides_exclude_each_other():
    with pytest.raises(ValueError, match="max_side 5 and min_side 6 cannot both be given"):
        ImageCache(RecordImages([]), 5, min_side=6)
    with pytest.raises(ValueError, match="min_side must be at least 1, got 0"):
        ImageCache(RecordImages([]), min_side=0)


def test_sizes_are_asked_for_where_none_are_given():
    class Undeclared(ArrayImages):
        def size(self, index):
            return None

    pixels = np.zeros((2, 6, 4, 3), np.uint8)
    assert ImageCache(Undeclared(pixels, ["a", "b"])).shapes == [(6, 4)] * 2
    assert ImageCache(Undeclared(pixels, ["a", "b"]), sizes=np.array([[6, 4]] * 2)).shapes == [(6, 4)] * 2
