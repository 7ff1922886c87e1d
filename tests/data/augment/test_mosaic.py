import numpy as np
import pytest

from dlrecipes.data.augment.mosaic import mix_up, mosaic
from dlrecipes.data.loading.collate import DetectionSample


def sample(number, height, width, boxes):
    """A picture of its own grey with brighter objects."""
    image = np.full((height, width, 3), 40 * number, np.uint8)
    boxes = np.array(boxes, float).reshape(-1, 4)
    for x1, y1, x2, y2 in boxes.astype(int):
        image[y1:y2, x1:x2] = 40 * number + 20
    image.setflags(write=False)
    n = len(boxes)
    return DetectionSample(
        image=image,
        boxes=boxes,
        labels=np.arange(n) + 10 * number,
        area=np.arange(n) + 100.0 * number,
        iscrowd=np.zeros(n, bool),
        image_id=number,
        path=f"{number}.png",
        orig_size=(2 * height, 2 * width),
    )


GRID = [[x, y, x + 14, y + 10] for x in (5, 35, 70) for y in (4, 30, 52)]
FOUR = [sample(k, 64, 96, GRID) for k in (1, 2, 3, 4)]


def test_objects_of_a_mosaic_are_where_their_boxes_are():
    seen, pictures = 0, set()
    for seed in range(30):
        out = mosaic(FOUR, 96, np.random.default_rng(seed))
        assert out["image"].shape == (64, 96, 3)
        assert (out["path"], out["image_id"], out["orig_size"]) == ("1.png", 1, (128, 192))
        assert len(out["boxes"]) == len(out["labels"]) == len(out["area"]) == len(out["iscrowd"])
        for (x1, y1, x2, y2), label, area in zip(out["boxes"], out["labels"], out["area"], strict=True):
            number, place = divmod(int(label), 10)
            assert area == 100.0 * number + place
            inside = out["image"][round(y1 + 0.5) : round(y2 - 0.5), round(x1 + 0.5) : round(x2 - 0.5), 0]
            if inside.size:
                assert np.abs(inside.astype(int) - (40 * number + 20)).max() <= 20  # edges are smooth
                assert np.median(inside) == 40 * number + 20
                seen += 1
            pictures.add(number)
        assert (out["boxes"] >= 0).all()
        assert (out["boxes"] <= [96, 64, 96, 64]).all()
    assert seen > 300
    assert pictures == {1, 2, 3, 4}


def test_four_tiles_without_a_gap():
    plain = [sample(k, 64, 96, []) for k in (1, 2, 3, 4)]
    places = set()
    for seed in range(30):
        image = mosaic(plain, 96, np.random.default_rng(seed))["image"][:, :, 0]
        corners = tuple((image[[0, 0, -1, -1], [0, -1, 0, -1]] // 40).tolist())
        assert sorted(corners) == [1, 2, 3, 4]
        assert set(np.unique(image)) == {40, 80, 120, 160}
        wide = int((image[0] == image[0, 0]).sum())
        high = int((image[:, 0] == image[0, 0]).sum())
        assert 0.3 * 96 - 1 <= wide <= 0.7 * 96 + 1
        assert 0.3 * 64 - 1 <= high <= 0.7 * 64 + 1
        assert (image[:high, :wide] == image[0, 0]).all()
        places.add(corners)
    assert len(places) > 10


def test_scale_of_the_pictures():
    """By objects that were not cut: between half and all of the size that a picture has alone."""

    def scales(**arguments):
        found = []
        for seed in range(40):
            out = mosaic(FOUR, 96, np.random.default_rng(seed), **arguments)
            sides = out["boxes"][:, 2:] - out["boxes"][:, :2]
            found += (sides[:, 0] / 14).tolist()
        return np.array(found)

    free, large = scales(), scales(scales=(1.0, 1.0))
    assert free.max() <= 1.05
    assert 0.5 < np.median(free) < 0.95
    assert np.isclose(np.median(large), 1.0, atol=0.05)
    assert len(large) < len(free)


def test_pictures_of_other_shapes_and_without_objects():
    mixed = [sample(1, 30, 90, [[1, 1, 20, 20]]), sample(2, 90, 20, []), sample(3, 8, 8, []), sample(4, 200, 300, GRID)]
    for seed in range(10):
        for order in (mixed, mixed[::-1]):
            out = mosaic(order, 60, np.random.default_rng(seed))
            assert max(out["image"].shape[:2]) == 60
            assert out["image"].min() >= 40  # no gap: small pictures are enlarged
            assert out["boxes"].shape == (len(out["labels"]), 4)
    thin = mosaic([sample(1, 1, 300, [])] * 4, 60, np.random.default_rng(0))
    assert thin["image"].shape == (2, 60, 3)


def test_a_mosaic_of_three():
    with pytest.raises(ValueError, match="needs 4 samples, got 3"):
        mosaic(FOUR[:3], 96, np.random.default_rng(0))


def test_mixup_is_a_mean_of_both_with_the_objects_of_both():
    first, second = FOUR[0], FOUR[3]
    shares = []
    for seed in range(20):
        out = mix_up(first, second, np.random.default_rng(seed))
        share = (160 - float(out["image"][0, 0, 0])) / 120
        shares.append(share)
        expected = share * first["image"].astype(float) + (1 - share) * second["image"]
        assert np.abs(out["image"] - expected).max() <= 1.01
        assert np.array_equal(out["boxes"], np.concatenate([first["boxes"], second["boxes"]]))
        assert out["labels"].tolist() == [*first["labels"], *second["labels"]]
        assert out["path"] == "1.png"
    assert 0.44 < min(shares) < 0.48
    assert 0.52 < max(shares) < 0.56


def test_mixup_of_two_shapes_moves_the_second_and_its_boxes():
    first = sample(1, 40, 80, [])
    second = sample(4, 60, 50, [[10, 10, 30, 40]])
    for seed in range(10):
        out = mix_up(first, second, np.random.default_rng(seed))
        assert out["image"].shape == (40, 80, 3)
        if len(out["boxes"]):
            x1, y1, x2, y2 = out["boxes"][0].round().astype(int)
            inside, beside = out["image"][y1:y2, x1:x2, 0], out["image"][y1:y2, x1 - 2, 0]
            assert inside.min() == inside.max() > beside.max()
