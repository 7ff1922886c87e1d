import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from dlrecipes.data.audit import near_duplicates
from dlrecipes.data.audit.audit_boxes import audit
from dlrecipes.data.audit.audit_images import audit_images
from dlrecipes.data.audit.check import check_data
from dlrecipes.data.audit.near_duplicates import close_pairs, find_near_copies, fingerprint, similarity, thumbnail
from dlrecipes.data.embedded.digits import embedded_digits
from dlrecipes.data.formats.discover import read_detection
from dlrecipes.data.formats.discover_images import read_images


def _scene(seed, height=150, width=200):
    """A smooth random picture, as photographs are: no two of them alike."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _jpeg(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=quality)
    return np.array(Image.open(file))


CHANGES = {
    "jpeg": lambda p: _jpeg(p, 30),
    "half": lambda p: cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "square": lambda p: cv2.resize(p, (224, 224)),
    "darker": lambda p: (p * 0.6).astype(np.uint8),
    "brighter": lambda p: np.clip(p * 1.2, 0, 255).astype(np.uint8),
    "crop": lambda p: np.ascontiguousarray(p[2:-2, 2:-2]),
}


def _bits(a, b):
    return bin(a ^ b).count("1")


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_near_and_others_are_not(change):
    for seed in range(5):
        first, second = _scene(seed), CHANGES[change](_scene(seed))
        other = _scene(seed + 100)
        assert _bits(fingerprint(first), fingerprint(second)) <= 7
        assert similarity(thumbnail(first), thumbnail(second)) > 0.95 > similarity(thumbnail(first), thumbnail(other))
        assert _bits(fingerprint(first), fingerprint(other)) > 7


def test_real_photographs(data_root):
    """One pair is near, in all of BCCD and these of COCO: 37 and 38 show one field in two focal planes."""
    files = [*sorted((data_root / "bccd/JPEGImages").glob("*.jpg"))[30:60], *sorted((data_root).rglob("*2017/*.jpg"))]
    pictures = [np.array(Image.open(file).convert("RGB")) for file in files[:80]]
    names = [file.stem for file in files]
    prints = np.array([fingerprint(p) for p in pictures], dtype=np.uint64)
    first, second, _ = close_pairs(prints, prints)
    apart = first < second
    found = {(names[a], names[b]) for a, b in zip(first[apart], second[apart], strict=True)}
    assert found == {("BloodImage_00037", "BloodImage_00038")}
    again = [fingerprint(_jpeg(p, 40)) for p in pictures]
    assert all(_bits(int(a), b) <= 7 for a, b in zip(prints, again, strict=True))


@pytest.mark.parametrize("distance", [0, 3, 4, 7])
def test_pairs_are_those_of_comparing_all_with_all(distance, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_CHUNK", 37)  # many chunks, with borders inside a bucket
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2**64, 60, dtype=np.uint64)
    known[40:] &= np.uint64(0xFFFF)  # crowded buckets
    queries = known[rng.permutation(60)[:40]].copy()
    for k in range(40):
        for bit in rng.choice(64, k % 10, replace=False):
            queries[k] ^= np.uint64(1 << int(bit))
    apart = np.array([[_bits(int(q), int(b)) for b in known] for q in queries])
    a, b, bits = close_pairs(queries, known, distance)
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == set(map(tuple, np.argwhere(apart <= distance).tolist()))
    assert len(a) == (apart <= distance).sum() > 0
    assert (bits == apart[a, b]).all()
    assert (np.diff(a) >= 0).all()


def test_no_pictures_and_wrong_distances():
    none = np.zeros(0, dtype=np.uint64)
    assert [len(part) for part in close_pairs(none, np.ones(3, np.uint64))] == [0, 0, 0]
    assert [len(part) for part in close_pairs(np.ones(3, np.uint64), none)] == [0, 0, 0]
    with pytest.raises(ValueError, match=r"distance must be in 0\.\.7, got 8"):
        close_pairs(none, none, 8)


def test_blank_and_tiny_pictures_have_no_fingerprint():
    page = np.full((100, 100, 3), 250, dtype=np.uint8)
    page[50] = 240
    assert fingerprint(page) == 0
    assert fingerprint(_scene(0)[:31]) == 0 != fingerprint(_scene(0)[:32])


def _find(pictures, splits):
    return find_near_copies(
        {name: np.array(rows) for name, rows in splits.items()},
        np.array([fingerprint(p) for p in pictures], dtype=np.uint64),
        [p.tobytes() for p in pictures],
        np.array([p.shape[:2] for p in pictures]),
        lambda row: pictures[row],
        show_progress=False,
    )


def test_copies_in_an_earlier_split_are_found_and_equal_pictures_left_to_the_audit():
    base = [_scene(seed) for seed in range(4)]
    pictures = [*base, _jpeg(base[2], 50), base[1], _jpeg(base[3], 60), _jpeg(base[3], 40)]
    found = _find(pictures, {"train": [0, 1, 2, 3], "val": [4, 5], "test": [6, 7]})
    assert [(f.split, f.earlier, f.pairs, f.complete) for f in found] == [
        ("val", "train", ((4, 2),), True),
        ("test", "train", ((6, 3), (7, 3)), True),
    ]
    assert _find(pictures, {"all": list(range(8))}) == []
    assert _find(pictures, {"train": [0, 2], "trainval": [0, 2, 4], "test": [6]}) == []


def test_more_candidates_than_are_looked_at_make_a_lower_bound(monkeypatch):
    monkeypatch.setattr(near_duplicates, "MOST_PAIRS", 1)
    pictures = [_scene(0), _scene(1), _jpeg(_scene(0), 50), _jpeg(_scene(1), 50)]
    found = _find(pictures, {"train": [0, 1], "test": [2, 3]})
    assert found[0].pairs == ((2, 0),)
    sentence = next(iter(near_duplicates.near_copy_warnings(found, str, remedy="")))
    assert sentence.startswith("at least 1 image of test has a near copy in train")


def test_small_pictures_must_be_nearly_equal():
    small = [cv2.resize(_scene(seed), (40, 40), interpolation=cv2.INTER_AREA) for seed in range(2)]
    dimmed = (small[0] * 0.9).astype(np.uint8)
    cropped = cv2.resize(_scene(0)[6:-6, 8:-8], (40, 40), interpolation=cv2.INTER_AREA)
    assert [f.pairs for f in _find([*small, dimmed], {"train": [0, 1], "test": [2]})] == [((2, 0),)]
    assert _find([*small, cropped], {"train": [0, 1], "test": [2]}) == []


def test_the_embedded_digits_are_silent():
    assert audit_images(embedded_digits(), show_progress=False).warnings == ()


def _write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_audit_of_images_and_its_json_tell_near_copies_and_remember_fingerprints(tmp_path, monkeypatch, capsys):
    root = tmp_path / "pets"
    for k, (split, name) in enumerate((s, n) for s in ("train", "test") for n in ("cat", "dog")):
        _write(root / split / name / "a.png", _scene(k))
    _write(root / "test/cat/b.png", _jpeg(_scene(0), 50))
    expected = (
        "1 image of test has a near copy in train, which makes results look better: test/cat/b.png ~ train/cat/a.png; "
        "move or remove it, or keep groups together with --data.fold_groups."
    )
    assert expected in audit_images(read_images(root)).warnings
    monkeypatch.setattr("dlrecipes.data.audit.image_probe.fingerprint", lambda pixels: pytest.fail("computed again"))
    assert check_data(root, json_file=tmp_path / "report.json") == 0
    assert expected in json.loads((tmp_path / "report.json").read_text())["warnings"]
    assert "near copy in train" in capsys.readouterr().out


def test_audit_of_boxes_tells_near_copies_and_remembers_fingerprints(tiny, monkeypatch):
    root = tiny.write("coco")
    for item in tiny.items:
        height, width = item.size[1], item.size[0]
        number = 0 if item.stem == "im 5" else item.seed
        pixels = _scene(number, height, width)
        _write(
            root / f"{item.split}2017/{item.stem}.png",
            (pixels * 0.8).astype(np.uint8) if number < item.seed else pixels,
        )
    expected = "1 image of val has a near copy in train, which makes results look better: "
    assert [w for w in audit(read_detection(root)).warnings if w.startswith(expected)]
    monkeypatch.setattr("dlrecipes.data.audit.probe.fingerprint", lambda pixels: pytest.fail("computed again"))
    assert [w for w in audit(read_detection(root)).warnings if w.startswith(expected)]
