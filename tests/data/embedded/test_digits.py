import numpy as np
import pytest
from sklearn.datasets import load_digits

from dlrecipes.data.embedded.digits import DIGIT_CLASSES, LONG_TAIL_RATIO, embedded_digits, scan_rows
from dlrecipes.data.embedded.scenes import DigitScenes


def _rows(table):
    return [int(table.images.name(i).split("#")[1]) for i in range(len(table))]


def test_every_scan_is_in_one_split_with_its_own_label():
    source = embedded_digits()
    rows = {split: _rows(table) for split, table in source.splits.items()}
    assert sorted(row for part in rows.values() for row in part) == list(range(1797))
    labels = load_digits().target
    for split, table in source.splits.items():
        np.testing.assert_array_equal(table.targets, labels[rows[split]])
    shares = [len(r) / 1797 for r in rows.values()]
    np.testing.assert_allclose(shares, (0.7, 0.15, 0.15), atol=0.01)
    assert source.classes == DIGIT_CLASSES


def test_the_scenes_draw_from_the_same_split_of_scans():
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(DigitScenes(split).glyph_sources, np.concatenate(scan_rows(split)))


def test_pictures_are_the_scans_scaled_up():
    table = embedded_digits(size=32).splits["val"]
    scans = load_digits().images[_rows(table)]
    for index in (0, 17, 200):
        image = table.images.read(index)
        assert image.shape == (32, 32, 3)
        assert (image == image[:, :, :1]).all()
        blocks = image[:, :, 0].reshape(8, 4, 8, 4).mean(axis=(1, 3))
        assert np.corrcoef(blocks.ravel(), scans[index].ravel())[0, 1] > 0.97


def test_long_tail_thins_training_alone():
    balanced, tailed = embedded_digits(), embedded_digits(long_tailed=True)
    counts = np.bincount(tailed.splits["train"].targets)
    assert (np.diff(counts) < 0).all()
    assert counts[0] == np.bincount(balanced.splits["train"].targets)[0]
    assert counts[0] / counts[9] == pytest.approx(LONG_TAIL_RATIO, rel=0.1)
    assert set(_rows(tailed.splits["train"])) < set(_rows(balanced.splits["train"]))
    for split in ("val", "test"):
        assert _rows(tailed.splits[split]) == _rows(balanced.splits[split])


def test_size_is_checked():
    with pytest.raises(ValueError, match="size=7"):
        embedded_digits(size=7)
