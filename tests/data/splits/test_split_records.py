from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrecipes.data.formats.records import DetectionSource, make_record
from dlrecipes.data.splits.split_records import iterative_stratification, missing_parts, split_by_seed
from dlrecipes.errors import UserError


def _source(splits, num_classes=3):
    """Image i of a split shows the classes in its list, one box each."""
    made = {
        name: [
            make_record(f"/d/{name}{i:04}.jpg", (10, 10), [[0, 0, 5, 5]] * len(labels), labels, i)
            for i, labels in enumerate(images)
        ]
        for name, images in splits.items()
    }
    return DetectionSource("/d", "coco", made, tuple("abcdefgh"[:num_classes]), tuple(range(num_classes)))


def _paths(source):
    return {name: [r.path for r in records] for name, records in source.splits.items()}


def test_unsplit_data_get_all_three_splits_with_every_image_once():
    source = _source({"all": [[i % 3] for i in range(100)]})
    done = split_by_seed(source, 0)
    assert {k: len(v) for k, v in done.splits.items()} == {"train": 80, "val": 10, "test": 10}
    assert sorted(p for paths in _paths(done).values() for p in paths) == sorted(_paths(source)["all"])
    assert done.notes == ("no split was given: stratified by class with seed 0 into train 80, val 10, test 10",)


def test_a_rare_class_is_in_every_split():
    images = [[0]] * 170 + [[0, 1]] * 20 + [[2]] * 10
    done = split_by_seed(_source({"all": images}), 3)
    shares = {n: Counter(int(k) for r in records for k in r.labels) for n, records in done.splits.items()}
    assert (shares["train"][2], shares["val"][2], shares["test"][2]) == (8, 1, 1)
    assert (shares["train"][1], shares["val"][1], shares["test"][1]) == (16, 2, 2)


def test_images_without_objects_are_spread_too():
    done = split_by_seed(_source({"all": [[0]] * 50 + [[]] * 50}), 0)
    assert [sum(len(r.labels) == 0 for r in done.splits[n]) for n in ("train", "val", "test")] == [40, 5, 5]


def test_only_the_seed_decides_not_the_order_of_records():
    source = _source({"all": [[i % 3] for i in range(60)]})
    turned = DetectionSource("/d", "coco", {"all": source.splits["all"][::-1]}, source.classes, source.category_ids)
    assert _paths(split_by_seed(source, 1)) == _paths(split_by_seed(turned, 1))
    assert _paths(split_by_seed(source, 1)) != _paths(split_by_seed(source, 2))


def test_val_is_taken_from_train_and_test_is_left_alone():
    source = _source({"train": [[i % 3] for i in range(90)], "test": [[0]] * 7})
    done = split_by_seed(source, 0)
    assert {k: len(v) for k, v in done.splits.items()} == {"train": 80, "val": 10, "test": 7}
    assert done.splits["test"] == source.splits["test"]
    assert "only 'train' was given to train on" in done.notes[0]


def test_train_alone_makes_no_test():
    assert set(split_by_seed(_source({"train": [[0]] * 9})).splits) == {"train", "val"}


def test_given_splits_stay():
    source = _source({"train": [[0]], "val": [[0]], "test": [[0]]})
    assert split_by_seed(source, 5) is source


def test_trainval_is_divided_without_what_val_or_test_holds():
    source = _source({"trainval": [[0]] * 18, "test": [[0]] * 3})
    source.splits["test"].append(source.splits["trainval"][0])
    done = split_by_seed(source)
    assert {k: len(v) for k, v in done.splits.items()} == {"train": 15, "val": 2, "test": 4}
    assert not set(_paths(done)["test"]) & set(_paths(done)["train"] + _paths(done)["val"])


def test_a_single_split_by_another_name_is_the_data():
    assert {k: len(v) for k, v in split_by_seed(_source({"val": [[0]] * 10})).splits.items()} == {
        "train": 8,
        "val": 1,
        "test": 1,
    }


def test_five_images_one_image_no_test():
    five = _source({"all": [[0], [1], [2], [], [0, 1]]})
    assert [len(v) for v in split_by_seed(five).splits.values()] == [3, 1, 1]
    assert {k: len(v) for k, v in split_by_seed(five, fractions=(0.8, 0.2, 0.0)).splits.items()} == {
        "train": 4,
        "val": 1,
    }
    one = split_by_seed(_source({"all": [[0]]}))
    assert _paths(one) == {"train": ["/d/all0000.jpg"], "val": ["/d/all0000.jpg"]}


def test_two_images_make_no_empty_test_split():
    two = split_by_seed(_source({"all": [[0], [1]]}))
    assert {k: len(v) for k, v in two.splits.items()} == {"train": 1, "val": 1}
    assert two.notes[-1].endswith("with seed 0 into train 1, val 1")


def test_several_splits_without_one_to_train_on():
    with pytest.raises(UserError, match=r"/d: the splits are val, test; name the one to train on 'train'"):
        split_by_seed(_source({"val": [[0]], "test": [[0]]}))


@pytest.mark.parametrize("fractions", [(1.0, 0.0, 0.0), (0.5, 0.6, -0.1), (0.5, 0.1, 0.1), (0.5, 0.5)])
def test_fractions_are_validated(fractions):
    with pytest.raises(ValueError, match="fractions="):
        split_by_seed(_source({"all": [[0]] * 5}), fractions=fractions)


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed=-1"):
        split_by_seed(_source({"all": [[0]] * 5}), -1)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 6), st.integers(0, 1000), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_sizes_are_exact_and_no_part_is_left_empty(n, c, seed, weights):
    presence = np.random.default_rng(seed).random((n, c)) < 0.3
    choice = iterative_stratification(presence, weights, seed)
    counts = np.bincount(choice, minlength=len(weights))
    assert choice.min() >= 0
    assert counts.sum() == n
    assert (counts > 0).sum() == min(n, len(weights))
    # each within one image of the wish, but for images given to parts that would be empty
    wish = n * np.array(weights) / sum(weights)
    assert (counts - wish).max() <= 1


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 1000), st.integers(1, 5))
def test_groups_stay_together_and_each_part_gets_one(n, g, seed, parts):
    rng = np.random.default_rng(seed)
    groups = np.unique(rng.integers(0, g, n), return_inverse=True)[1].reshape(-1)
    choice = iterative_stratification(rng.random((n, 4)) < 0.3, [1] * parts, seed, groups=groups)
    parts_of = [set(choice[groups == k].tolist()) for k in range(groups.max() + 1)]
    assert all(len(found) == 1 for found in parts_of)
    assert len(set.union(*parts_of)) == min(parts, len(parts_of))


@pytest.mark.parametrize(
    ("splits", "fractions"),
    [
        (("train", "val"), None),
        (("all",), (0.5, 0.25, 0.25)),
        (("trainval",), (0.75, 0.25, 0.0)),
        (("train", "test"), (0.75, 0.25, 0.0)),
        (("test",), (0.75, 0.25, 0.0)),
    ],
)
def test_what_is_missing_is_made_in_the_place_of_nothing_that_is_named(splits, fractions):
    assert missing_parts("/d", splits, ("train", "val", "test"), 0.25) == fractions


def test_a_split_that_was_asked_for_by_name_must_be_there():
    with pytest.raises(UserError) as caught:
        missing_parts("/d", ("train", "val"), ("train", "valid", "test"), 0.25)
    assert str(caught.value) == "/d has no split 'valid', only train, val: choose of these."
    assert missing_parts("/d", ("one", "two"), ("one", "two", "test"), 0.25) is None
