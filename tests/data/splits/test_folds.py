from collections import Counter
from typing import Any

import numpy as np
import pytest

from dlrecipes.data import ClassificationData, array_source
from dlrecipes.data.formats.image_source import ImageSource, ImageTable
from dlrecipes.data.splits.folds import FoldChoice, fold_of, parse_fold
from dlrecipes.errors import UserError


class Names:
    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def stamp(self, index: int) -> tuple[int, int]:
        return (1, 1)

    def read(self, index: int) -> Any:
        return np.full((8, 8, 3), index, np.uint8)

    def size(self, index: int) -> tuple[int, int]:
        return (8, 8)


def source(names: list[str], targets: Any, task: str = "classification", **more: tuple[list[str], Any]) -> ImageSource:
    splits = {"all": (names, targets)} | more
    tables = {name: ImageTable(images=Names(n), targets=np.asarray(t)) for name, (n, t) in splits.items()}
    return ImageSource(root="photos", format="folders", task=task, splits=tables, classes=("a", "b", "c"))


def names_of(table: ImageTable) -> list[str]:
    return [table.images.name(i) for i in range(len(table))]


LABELS = [0] * 50 + [1] * 20 + [2] * 7
PLAIN = source([f"{i:03}.png" for i in range(77)], LABELS)


def test_every_image_is_held_out_once_and_classes_are_spread() -> None:
    folds = [fold_of(PLAIN, FoldChoice(k, 5)) for k in range(1, 6)]
    held_out = [names_of(f.splits["val"]) for f in folds]
    assert sorted(name for names in held_out for name in names) == names_of(PLAIN.splits["all"])
    for f in folds:
        assert not set(names_of(f.splits["val"])) & set(names_of(f.splits["train"]))
        assert len(f.splits["val"]) + len(f.splits["train"]) == 77
        counts = Counter(f.splits["val"].targets.tolist())
        assert counts[0] == 10
        assert counts[1] == 4
        assert counts[2] in (1, 2)
    assert "fold 5 of 5" in folds[4].notes[-1]


@pytest.mark.parametrize(
    ("folds", "warning"),
    [(7, ""), (25, ", so few that the best epoch is mostly chance: --folds 7 or fewer would leave 10")],
)
def test_folds_of_few_images_are_told(folds: int, warning: str) -> None:
    many = source(PLAIN.splits["all"].images.names, [0, 1] * 38 + [0])
    note = fold_of(many, FoldChoice(1, folds)).notes[-1]
    assert note.partition("validate on")[2] == warning


def test_the_order_of_files_changes_nothing_and_the_seed_does() -> None:
    order = np.random.default_rng(0).permutation(77)
    shuffled = source([f"{i:03}.png" for i in order], [LABELS[i] for i in order])
    one = set(names_of(fold_of(PLAIN, FoldChoice(2, 4)).splits["val"]))
    assert set(names_of(fold_of(shuffled, FoldChoice(2, 4)).splits["val"])) == one
    assert set(names_of(fold_of(PLAIN, FoldChoice(2, 4), seed=1).splits["val"])) != one


def test_a_group_is_on_one_side() -> None:
    names = [f"patient_{i % 11}/scan_{i}.png" for i in range(77)]
    for number in range(1, 4):
        found = fold_of(source(names, LABELS), FoldChoice(number, 3), groups=r"patient_(\d+)")
        train, val = ({name.split("/")[0] for name in names_of(found.splits[s])} for s in ("train", "val"))
        assert not train & val
        assert len(val) >= 3
        assert "11 groups" in found.notes[-1]


def test_training_and_validation_are_put_together_and_the_test_split_stays() -> None:
    parts = {"val": (["x.png", "y.png"], [0, 1]), "test": (["t.png"], [0])}
    whole = source([f"{i}.png" for i in range(20)], [0, 1] * 10)
    splits = {"train": whole.splits["all"], **source([], [], **parts).splits}
    splits.pop("all")
    given = ImageSource(root="r", format="csv", task="classification", splits=splits, classes=("a", "b"))
    held_out = []
    for number in range(1, 3):
        found = fold_of(given, FoldChoice(number, 2))
        assert names_of(found.splits["test"]) == ["t.png"]
        held_out += names_of(found.splits["val"])
    assert len(held_out) == 22
    assert {"x.png", "y.png"} <= set(held_out)


def test_an_image_that_a_table_repeats_stays_together() -> None:
    names = [f"{i // 2}.png" for i in range(40)]
    given = source(names, np.random.default_rng(0).random((40, 2)) > 0.5, task="multilabel")
    for number in range(1, 5):
        found = fold_of(given, FoldChoice(number, 4))
        assert not set(names_of(found.splits["train"])) & set(names_of(found.splits["val"]))


def test_numbers_are_spread_by_their_quantiles() -> None:
    values = np.linspace(0, 1, 100, dtype=np.float32)[:, None]
    given = source([f"{i:03}.png" for i in range(100)], values, task="regression")
    for number in range(1, 6):
        held_out = fold_of(given, FoldChoice(number, 5)).splits["val"].targets[:, 0]
        assert Counter((held_out * 4.999).astype(int).tolist()) == dict.fromkeys(range(5), 4)


def test_a_datamodule_takes_a_fold() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(40) % 2
    whole = array_source((pixels, labels), (pixels[:0], labels[:0]), classes=["a", "b"])
    data = ClassificationData(source=whole, fold="3/4", num_workers=0, batch_size=5)
    data.setup("fit")
    assert len(data.table("val")) == 10
    assert data.info.num_train == 30
    assert "test" not in data.splits


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_class_that_a_fold_holds_out_whole_is_refused_by_every_fold(number: int) -> None:
    names, labels = [f"{i}.png" for i in range(21)], [0, 1] * 10 + [2]
    with pytest.raises(UserError, match=r"fold \d of 3 holds out the only image of the class 'c'"):
        fold_of(source(names, labels), FoldChoice(number, 3))
    groups = [f"day{i % 3}_{label}/{i}.png" for i, label in enumerate([0, 1] * 9)] + [f"day3_2/{i}.png" for i in "xyz"]
    with pytest.raises(UserError, match="all 3 image"):
        fold_of(source(groups, [0, 1] * 9 + [2] * 3), FoldChoice(number, 3), groups=r"day\d_\d")


def test_the_test_split_cannot_be_divided() -> None:
    given = source([], [], train=(["a.png", "b.png"], [0, 1]), test=(["t.png"], [0]))
    with pytest.raises(UserError, match="'test' is to be tested on, and a fold would take its place"):
        fold_of(given, FoldChoice(1, 2), names=("train", "test", "test"))


@pytest.mark.parametrize("text", ["", "5", "0/5", "6/5", "1/1", "a/b"])
def test_a_fold_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="such as 2/5"):
        parse_fold(text)


@pytest.mark.parametrize(
    ("choice", "groups", "message"),
    [
        (FoldChoice(1, 100), None, "77 images for 100 folds"),
        (FoldChoice(1, 3), "(", "no regular expression"),
        (FoldChoice(1, 3), "patient", "does not match 000.png"),
        (FoldChoice(1, 3), "png", "1 group for 3 folds"),
    ],
)
def test_what_cannot_be_divided_is_one_sentence(choice: FoldChoice, groups: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fold_of(PLAIN, choice, groups=groups)
