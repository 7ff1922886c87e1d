"""Near copies stay in one split or fold, as far as there can be any."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from dlrecipes.data import ClassificationData, DetectionData
from dlrecipes.data.audit.copies import Copies
from dlrecipes.data.splits.split_images import stratify
from dlrecipes.data.splits.together import keep_together

ALONE, PAIRS = 24, 16


def _scene(seed):
    """A smooth picture, of which one that is scaled and brightened is a near copy."""
    cells = np.random.default_rng(seed).integers(20, 220, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((96, 96), Image.Resampling.BICUBIC)


def _photos(root, box=False):
    """Two classes; each even scene has a near copy of another size whose name tells nothing."""
    for k in range(ALONE + PAIRS):
        folder = root / ("images" if box else ("cat", "dog")[k % 2])
        folder.mkdir(parents=True, exist_ok=True)
        _scene(k).save(folder / f"a{k}.png")
        if k >= ALONE:
            _scene(k).resize((80, 80)).point(lambda v: min(255, v + 12)).save(folder / f"z{(k * 7) % 97}_{k}.png")
    return root


def _scenes(names):
    """Numbers of the scenes."""
    return {int("".join(c for c in name.rpartition("/")[2].rpartition("_")[2] if c.isdigit())) for name in names}


def _image_names(data, split):
    table = data.table(split)
    return [table.images.name(i) for i in range(len(table))]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRECIPES_CACHE", str(tmp_path / "cache"))


def test_near_copies_are_in_one_split_and_it_is_told(tmp_path, cache):
    root = _photos(tmp_path / "photos")
    for seed in (0, 1):
        data = ClassificationData(str(root), num_workers=0, seed=seed)
        of = {split: _scenes(_image_names(data, split)) for split in ("train", "val", "test")}
        assert not any(a & b for a, b in combinations(of.values(), 2))
        assert f"{PAIRS} groups of near copies ({2 * PAIRS} images) are kept in one split each" in " ".join(
            data.report.split()
        )
        assert "near copy in" not in data.report
        for split in ("val", "test"):  # stratified as far as pairs allow
            counts = np.bincount(data.table(split).targets, minlength=2)
            assert np.abs(counts - 0.15 * 28).max() <= 2


def test_the_split_is_a_function_of_the_seed(tmp_path, cache):
    root = _photos(tmp_path / "photos")
    names = [_image_names(ClassificationData(str(root), num_workers=0, seed=s), "val") for s in (3, 3, 4)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("groups", [None, r"/(.)\w+\.png$"])
def test_near_copies_are_in_one_fold_with_and_without_groups(tmp_path, cache, groups):
    root = _photos(tmp_path / "photos")
    for number in (1, 2):
        data = ClassificationData(str(root), num_workers=0, fold=f"{number}/2", fold_groups=groups)
        if groups is None:
            parts = [_scenes(_image_names(data, split)) for split in ("train", "val")]
            assert not parts[0] & parts[1]
            assert "kept in one fold each" in " ".join(data.report.split())
        else:  # all a and all z would be one group with their copies: too large, and the user's groups stay
            firsts = [{n.rpartition("/")[2][0] for n in _image_names(data, split)} for split in ("train", "val")]
            assert not firsts[0] & firsts[1]
            assert "are spread" in " ".join(data.report.split()) or "is spread" in " ".join(data.report.split())


def test_boxes_too(tmp_path, cache):
    root = _photos(tmp_path / "boxes", box=True)
    names = sorted(p.name for p in (root / "images").iterdir())
    rows = ["image,x1,y1,x2,y2,label", *(f"{n},4,4,40,40,{('cat', 'dog')[k % 2]}" for k, n in enumerate(names))]
    (root / "boxes.csv").write_text("\n".join(rows) + "\n")
    for fold in (None, "1/3"):
        data = DetectionData(str(root), num_workers=0, fold=fold)
        found = [_scenes([r.path for r in data.records(s)]) for s in data.splits]
        assert sum(map(len, found)) == ALONE + PAIRS
        assert "of near copies (32 images) are kept in one" in " ".join(data.report.split())


def test_frames_of_a_film_are_spread_and_it_is_told(tmp_path, cache):
    for k in range(30):
        folder = tmp_path / "film" / ("open", "shut")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        _scene(k % 2 if k < 28 else k).point(lambda v, k=k: min(255, v + k)).save(folder / f"{k}.png")
    data = ClassificationData(str(tmp_path / "film"), num_workers=0)
    report = " ".join(data.report.split())
    assert "2 groups of near copies (28 images, frames of a film?) are spread" in report
    assert len(data.table("val")) >= 4
    assert "near copy in train" in report


def test_copies_join_what_the_user_grouped_and_let_go_what_is_too_large():
    copies = Copies(np.array([0, 1, 2, 2, 3, 4, 5, 6, 7, 8]), True)
    base = ["a", "a", "a", "b", "b", "c", "d", "e", "f", "g"]
    together = keep_together(base, copies, [0.7, 0.3])
    assert (together.kept, together.spread) == ((1, 5), (0, 0))
    assert len(set(together.groups[:5])) == 1
    assert len(set(together.groups.tolist())) == 6
    apart = keep_together(base, copies, [1.0, 1.0, 1.0])  # five of ten in one of three folds
    assert (apart.kept, apart.spread) == ((0, 0), (1, 5))
    assert len(set(apart.groups[:3])) == 1
    assert len(set(apart.groups.tolist())) == 7


def test_stratified_groups_meet_the_shares_as_far_as_they_can():
    labels = np.repeat([0, 1], [60, 40])
    groups = np.concatenate([np.repeat(np.arange(10), 3), np.arange(10, 40), np.repeat(np.arange(40, 60), 2)])
    choice = stratify(labels, [0.7, 0.15, 0.15], 0, groups=groups)
    assert all(len(set(choice[groups == g])) == 1 for g in np.unique(groups))
    for label, total in ((0, 60), (1, 40)):
        share = np.bincount(choice[labels == label], minlength=3) / total
        assert np.abs(share - [0.7, 0.15, 0.15]).max() < 0.06
    assert np.array_equal(stratify(labels, [0.8, 0.2], 1), stratify(labels, [0.8, 0.2], 1, groups=np.arange(100)))
