"""A datamodule of one's own on the base of both."""

import pytest

from dlrecipes.data.loading.loader import ResumableDataLoader
from dlrecipes.data.split_data import SplitData
from dlrecipes.errors import UserError

OPTIONS = {"batch_size": 4, "num_workers": None, "train_split": "train", "val_split": "val", "test_split": "test"}
OTHERS = {"val_fraction": 0.15, "seed": 0, "skip_corrupt": False, "predict_paths": None, "cache_gb": 8.0}


class Data(SplitData):
    def __init__(self, names: tuple[str, ...] = ("train", "val"), **changed: object) -> None:
        super().__init__(**{**OPTIONS, **OTHERS, **changed})  # type: ignore[arg-type]
        self.names, self.made = names, list[str]()

    @property
    def splits(self) -> tuple[str, ...]:
        return self.names

    def prepare(self) -> None:
        self._note("prepared")

    def _make(self, role: str) -> None:
        self.made.append(role)

    def _loader(self, role: str) -> ResumableDataLoader:
        raise UserError(f"no loader of {role}")


@pytest.mark.parametrize(
    ("stage", "made"),
    [("fit", ["train", "val"]), ("validate", ["val"]), ("test", ["test"]), (None, ["train", "val"]), ("predict", [])],
)
def test_a_stage_makes_what_it_needs(stage: str | None, made: list[str]) -> None:
    data = Data()
    data.setup(stage)
    assert data.made == made
    data = Data(names=("train", "val", "test"))
    data.setup()
    assert data.made == ["train", "val", "test"]


def test_notes_are_told_once_and_workers_are_chosen_once() -> None:
    data = Data()
    data.prepare_data()
    data.setup("fit")
    assert data.notes == ("prepared",)
    chosen = data._workers(8)
    assert data._workers(0) == chosen == data.num_workers
    assert len(data.notes) == 2
    data = Data(num_workers=3)
    assert data._workers(8) == 3
    assert data.notes == ()


def test_each_loader_is_that_of_its_role() -> None:
    data = Data()
    for role in ("train", "val", "test"):
        with pytest.raises(UserError, match=f"no loader of {role}"):
            getattr(data, f"{role}_dataloader")()


def test_a_prepare_that_finds_nothing_out_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="did not set info"):
        Data().info  # noqa: B018


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("batch_size", 0, "batch_size must be at least 1, got 0."),
        ("num_workers", -1, "num_workers must be at least 0, got -1."),
        ("seed", -1, "seed must be at least 0, got -1."),
        ("cache_gb", -1, "cache_gb must be at least 0, got -1."),
        ("val_fraction", 0.5, "val_fraction must be between 0 and 0.5, got 0.5."),
    ],
)
def test_values_outside_their_range(option: str, value: float, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Data(**{option: value})
    assert str(caught.value) == message
