import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrecipes.data.formats.image_files import PathImages
from dlrecipes.data.formats.image_source import ImageSource, ImageTable
from dlrecipes.data.splits.split_images import split_images, stratify
from dlrecipes.errors import UserError


def _table(targets, names=None, weights=None):
    targets = np.asarray(targets)
    names = [f"/d/{k:05}.jpg" for k in range(len(targets))] if names is None else names
    return ImageTable(PathImages(names), targets, weights)


def _source(task="classification", **splits):
    return ImageSource("/d", "folders", task, splits, tuple("abcdefgh"), notes=("no split is given",))


def _names(source):
    return {s: [t.images.name(i) for i in range(len(t))] for s, t in source.splits.items()}


def _counts(source, classes=3):
    return {s: np.bincount(t.targets, minlength=classes).tolist() for s, t in source.splits.items()}


def test_all_three_are_made_and_told():
    done = split_images(_source(all=_table([k % 3 for k in range(300)])))
    assert _counts(done) == {"train": [80] * 3, "val": [10] * 3, "test": [10] * 3}
    assert done.notes == ("no split was given: stratified by class with seed 0 into train 240, val 30, test 30",)


def test_every_column_goes_with_its_image():
    targets = np.arange(60) % 3
    done = split_images(_source(all=_table(targets, weights=np.arange(60, dtype=np.float32))))
    for table in done.splits.values():
        numbers = [int(table.images.name(i)[3:8]) for i in range(len(table))]
        assert table.weights.tolist() == numbers
        assert table.targets.tolist() == [n % 3 for n in numbers]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("given_splits", "made"),
    [
        (["train"], {"train": 81, "val": 9}),
        (["train", "test"], {"train": 81, "val": 9, "test": 90}),
        (["trainval", "test"], {"train": 81, "val": 9, "test": 90}),
        (["val"], {"train": 72, "val": 9, "test": 9}),
        (["all", "test"], {"train": 81, "val": 9, "test": 90}),
    ],
)
def test_the_rules_of_detection_hold(given_splits, made):
    splits = {s: _table([k % 3 for k in range(90)], [f"/d/{s}/{k:03}.jpg" for k in range(90)]) for s in given_splits}
    done = split_images(_source(**splits))
    sizes = {s: len(t) for s, t in done.splits.items()}
    assert sizes.keys() == made.keys()
    assert all(abs(sizes[s] - made[s]) <= 3 for s in made)
    if "test" in given_splits:
        assert done.splits["test"] is splits["test"]


def test_given_splits_stay_and_held_out_ones_alone_are_refused():
    source = _source(train=_table([0, 1]), val=_table([0, 1]))
    assert split_images(source) is source
    with pytest.raises(UserError, match=r"/d: the splits are val, test; name the one to train on 'train'"):
        split_images(_source(val=_table([0]), test=_table([0])))
    with pytest.raises(ValueError, match="seed=-1"):
        split_images(_source(all=_table([0])), -1)
    with pytest.raises(ValueError, match="fractions="):
        split_images(_source(all=_table([0])), fractions=(0.5, 0.5, 0.5))


def test_trainval_gives_nothing_that_test_holds():
    names = [f"/d/{k}.jpg" for k in range(30)]
    done = split_images(_source(trainval=_table([0, 1] * 15, names), test=_table([0, 1, 0], names[:3])))
    assert not set(_names(done)["test"]) & set(_names(done)["train"] + _names(done)["val"])


def test_rows_of_one_image_stay_together():
    names = [f"/d/{k // 4}.jpg" for k in range(400)]
    done = split_images(_source(all=_table([(k // 4) % 2 for k in range(400)], names)))
    parts = [set(names) for names in _names(done).values()]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert {s: len(t) for s, t in done.splits.items()} == {"train": 320, "val": 40, "test": 40}


def test_few_images():
    assert {s: len(t) for s, t in split_images(_source(all=_table([0]))).splits.items()} == {"train": 1, "val": 1}
    two_each = split_images(_source(all=_table([0, 0, 1, 1])))
    assert _counts(two_each, 2) == {"train": [1, 1], "val": [1, 1]}
    three_each = split_images(_source(all=_table([0, 0, 0, 1, 1, 1])))
    assert _counts(three_each, 2) == {"train": [1, 1], "val": [1, 1], "test": [1, 1]}


def test_many_small_classes_share_the_rounding():
    labels = np.repeat(np.arange(200), 14)
    sizes = np.bincount(stratify(labels, [0.8, 0.1, 0.1], 0))
    np.testing.assert_allclose(sizes / len(labels), [0.8, 0.1, 0.1], atol=0.001)


def test_several_labels_are_spread():
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 4)) < (0.5, 0.3, 0.1, 0.05)).astype(np.float32)
    done = split_images(_source("multilabel", all=_table(targets)))
    for table, share in zip(done.splits.values(), (0.8, 0.1, 0.1), strict=True):
        np.testing.assert_allclose(table.targets.sum(axis=0), targets.sum(axis=0) * share, atol=3)
    assert "stratified by labels" in done.notes[-1]


@pytest.mark.parametrize("count", [1, 2])
def test_numbers_are_spread(count):
    targets = np.random.default_rng(0).lognormal(size=(1000, count)).astype(np.float32)
    done = split_images(_source("regression", all=_table(targets)))
    assert {s: len(t) for s, t in done.splits.items()} == {"train": 800, "val": 100, "test": 100}
    for table in done.splits.values():
        for quantile in (0.1, 0.5, 0.9):
            edge = np.quantile(targets, quantile, axis=0)
            np.testing.assert_allclose((table.targets <= edge).mean(axis=0), quantile, atol=0.06)
    assert "stratified by quantiles of the target" in done.notes[-1]


def test_targets_that_are_not_finite_pass_to_the_audit():
    targets = np.array([[1.0], [np.nan], [np.inf], [2.0]] * 5, dtype=np.float32)
    done = split_images(_source("regression", all=_table(targets)))
    assert sum(len(t) for t in done.splits.values()) == 20


_LABELS = st.lists(st.integers(0, 5), min_size=2, max_size=150)
_PARTS = st.sampled_from([(0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.7, 0.3, 0.0), (0.9, 0.1, 0.0), (0.34, 0.33, 0.33)])


@settings(max_examples=60, deadline=None)
@given(_LABELS, _PARTS, st.integers(0, 5), st.randoms(use_true_random=False))
def test_disjoint_complete_stratified_and_independent_of_order(labels, fractions, seed, random):
    names = [f"/d/{k}.jpg" for k in range(len(labels))]
    done = split_images(_source(all=_table(labels, names)), seed, fractions)
    parts = _names(done)
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    shares = [f for f in fractions if f > 0]
    for label in set(labels):
        total = labels.count(label)
        counts = [
            int((done.splits[s].targets == label).sum()) if s in done.splits else 0 for s in ("train", "val", "test")
        ]
        counts = counts[: len(shares)]
        if total >= len(shares):
            assert min(counts) >= 1
        for share, count in zip(shares, counts, strict=True):
            if total * min(shares) >= 1:
                assert abs(count - total * share) <= 1 + 1e-6
    order = list(range(len(labels)))
    random.shuffle(order)
    turned = split_images(_source(all=_table([labels[k] for k in order], [names[k] for k in order])), seed, fractions)
    assert {s: set(n) for s, n in _names(turned).items()} == {s: set(n) for s, n in parts.items()}


def test_the_seed_decides():
    source = _source(all=_table([k % 3 for k in range(90)]))
    assert _names(split_images(source, 1)) == _names(split_images(source, 1))
    assert _names(split_images(source, 1)) != _names(split_images(source, 2))
