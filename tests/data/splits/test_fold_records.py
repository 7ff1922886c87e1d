"""Folds of detection records, counted independently."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dlrecipes.data import DetectionData
from dlrecipes.data.formats.records import DetectionRecord, DetectionSource, make_record
from dlrecipes.data.splits.fold_records import fold_records
from dlrecipes.data.splits.folds import FoldChoice
from dlrecipes.errors import UserError

RNG = np.random.default_rng(0)
# 101 images: most show a, some b, few c; a tenth shows nothing
SHOWN = [[] if i % 10 == 0 else [0] * 3 + [1] * (i % 4 == 1) + [2, 2] * (i % 14 == 3) for i in range(101)]


def source(splits: dict[str, list[tuple[str, list[int]]]], first_id: int = 1) -> DetectionSource:
    made = {
        name: [
            make_record(f"/d/{path}", (10, 10), [[0, 0, 5, 5]] * len(labels), labels, first_id + i)
            for i, (path, labels) in enumerate(images)
        ]
        for name, images in splits.items()
    }
    return DetectionSource("/d", "coco", made, ("a", "b", "c"), (1, 2, 3), notes=("no split is given",))


PLAIN = source({"all": [(f"{i:03}.jpg", labels) for i, labels in enumerate(SHOWN)]})


def held_out(given: DetectionSource, folds: int, **options: object) -> list[list[DetectionRecord]]:
    return [fold_records(given, FoldChoice(k, folds), **options).splits["val"] for k in range(1, folds + 1)]  # type: ignore[arg-type]


def paths(records: Sequence[DetectionRecord]) -> list[str]:
    return [record.path for record in records]


@pytest.mark.parametrize("seed", range(5))
def test_every_image_is_held_out_once_and_every_class_is_spread(seed: int) -> None:
    folds = held_out(PLAIN, 5, seed=seed)
    assert sorted(path for fold in folds for path in paths(fold)) == paths(PLAIN.splits["all"])
    assert sorted(map(len, folds)) == [20, 20, 20, 20, 21]
    total = Counter(k for labels in SHOWN for k in set(labels) or {-1})  # images; -1: without objects
    assert total == {0: 90, 1: 25, 2: 7, -1: 11}
    for kind, images in total.items():
        counts = [sum(kind in (set(r.labels.tolist()) or {-1}) for r in fold) for fold in folds]
        assert sum(counts) == images
        assert max(counts) - min(counts) <= (2 if kind == 0 else 1), (kind, counts)


def test_train_is_the_rest_and_the_note_says_so() -> None:
    found = fold_records(PLAIN, FoldChoice(2, 4))
    train, val = (set(paths(found.splits[name])) for name in ("train", "val"))
    assert not train & val
    assert len(train | val) == 101
    (note,) = found.notes
    assert note.startswith(f"fold 2 of 4, by seed 0: {len(train)} images to train on and {len(val)} to validate on")


def test_seed_paths_and_labels_decide_not_the_order_of_records() -> None:
    order = RNG.permutation(101)
    turned = source({"all": [(f"{i:03}.jpg", SHOWN[i]) for i in order]})
    one = paths(held_out(PLAIN, 4)[1])
    assert paths(held_out(turned, 4)[1]) == one
    assert paths(held_out(PLAIN, 4, seed=1)[1]) != one


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_on_one_side_and_classes_are_still_spread(seed: int) -> None:
    named = [(f"patient_{i % 25}/{i}.jpg", labels) for i, labels in enumerate(SHOWN)]
    folds = held_out(source({"all": named}), 5, groups=r"patient_(\d+)", seed=seed)
    patients = [{path.split("/")[2] for path in paths(fold)} for fold in folds]
    assert sum(map(len, patients)) == 25
    assert len(set.union(*patients)) == 25
    assert sum(map(len, folds)) == 101
    assert all(15 <= len(fold) <= 26 for fold in folds)
    assert all(any(2 in record.labels for record in fold) for fold in folds)


def test_each_fold_gets_a_group_where_there_are_enough() -> None:
    uneven = [("day0/a.jpg", [0])] + [(f"day1/{i}.jpg", [1]) for i in range(9)]
    folds = [held_out(source({"all": uneven}), 2, groups=r"day\d", seed=seed) for seed in range(8)]
    assert all(sorted(map(len, fold)) == [1, 9] for fold in folds)


def test_train_and_val_are_divided_and_test_stays() -> None:
    given = source({"train": [(f"{i}.jpg", [0]) for i in range(9)], "val": [("v.jpg", [1])], "test": [("t.jpg", [0])]})
    found = [fold_records(given, FoldChoice(k, 3)) for k in (1, 2, 3)]
    assert all(fold.splits["test"] is given.splits["test"] for fold in found)
    pool = [record for fold in found for record in fold.splits["val"]]
    assert len(set(paths(pool))) == len(pool) == 10
    # train and val both count from 1, so images are counted anew; each has the same id in all folds
    ids = {record.path: record.image_id for record in pool}
    assert sorted(ids.values()) == list(range(10))
    assert all(ids[record.path] == record.image_id for fold in found for record in fold.splits["train"])


def test_ids_of_the_data_are_kept_where_they_are_unique() -> None:
    folds = held_out(source({"all": [(f"{i}.jpg", [0]) for i in range(6)]}, first_id=400), 2)
    assert {record.path: record.image_id for fold in folds for record in fold} == {
        f"/d/{i}.jpg": 400 + i for i in range(6)
    }


def test_an_image_of_two_splits_is_there_once_and_one_annotated_twice_stays_together() -> None:
    both = source(
        {"train": [("a.jpg", [0]), ("b.jpg", [1])], "trainval": [("a.jpg", [0]), ("b.jpg", [2]), ("c.jpg", [])]}
    )
    folds = held_out(both, 3)
    assert sorted(map(paths, folds)) == [["/d/a.jpg"], ["/d/b.jpg"] * 2, ["/d/c.jpg"]]


@pytest.mark.parametrize(
    ("given", "choice", "options", "message"),
    [
        (PLAIN, FoldChoice(1, 102), {}, "101 images for 102 folds: take fewer folds"),
        (PLAIN, FoldChoice(1, 2), {"groups": "("}, "no regular expression"),
        (PLAIN, FoldChoice(1, 2), {"groups": "patient"}, "does not match /d/000.jpg"),
        (PLAIN, FoldChoice(1, 2), {"groups": "jpg"}, "1 group for 2 folds"),
        (PLAIN, FoldChoice(1, 2), {"names": ("train", "test", "test")}, "leave out --data.train_split and"),
        (source({"test": [("t.jpg", [0])]}), FoldChoice(1, 2), {}, "nothing to divide"),
    ],
)
def test_what_cannot_be_divided_is_one_sentence(
    given: DetectionSource, choice: FoldChoice, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fold_records(given, choice, **options)  # type: ignore[arg-type]


def test_a_datamodule_takes_a_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlrecipes.data import export_coco

    monkeypatch.setenv("DLRECIPES_CACHE", str(tmp_path / "cache"))
    root = str(export_coco(tmp_path / "coco", num_images={"train": 10, "val": 4, "test": 3}))
    batches = []
    for number in (1, 2):
        data = DetectionData(root, fold=f"{number}/2", num_workers=0, batch_size=3)
        data.setup(None)
        assert data.splits == ("train", "val", "test")
        assert (data.info.num_train, len(data.records("val")), len(data.records("test"))) == (7, 7, 3)
        assert f"fold {number} of 2" in data.report
        batches += [path for batch in data.val_dataloader() for path in batch["paths"]]
    assert len(set(batches)) == len(batches) == 14


def test_a_class_of_fewer_images_than_folds_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlrecipes.data import export_coco

    monkeypatch.setenv("DLRECIPES_CACHE", str(tmp_path / "cache"))
    root = str(export_coco(tmp_path / "coco", num_images={"train": 40}))
    for folds, expected in ((40, True), (2, False)):
        data = DetectionData(root, fold=f"1/{folds}", num_workers=0)
        assert data.audit_report is not None
        images = Counter(k for split in data.splits for r in data.records(split) for k in set(r.labels.tolist()))
        scarce = {data.info.classes[k] for k, count in images.items() if count < folds}
        found = [text for text in data.audit_report.warnings if f"fewer images than the {folds} folds show" in text]
        assert len(found) == expected == bool(scarce)
        assert all(any(f"{name} (" in text for name in scarce) for text in found)


@pytest.mark.parametrize(("path", "fold", "message"), [("d", "3", "such as 2/5"), (None, "1/2", "embedded scenes")])
def test_a_fold_that_is_none_is_refused(path: str | None, fold: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DetectionData(path, fold=fold)
