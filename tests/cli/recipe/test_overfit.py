"""The few images of --overfit and what is said about them, without a recipe."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from dlrecipes.cli.recipe.overfit import FewImages, OverfitCheck
from dlrecipes.data import ClassificationData, DetectionData
from dlrecipes.errors import UserError


class Numbers(Dataset[Any]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index])


class Plain(L.LightningDataModule):
    """A user's own, with torch's loader."""

    info = "facts"

    def __init__(self, dataset: Any = None, **options: Any) -> None:
        super().__init__()
        self.dataset, self.options = Numbers() if dataset is None else dataset, options

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset, **self.options)


@pytest.mark.parametrize(
    ("images", "batch", "sizes"), [(8, 8, [8]), (8, 32, [8]), (9, 8, [5, 4]), (7, 3, [3, 2, 2]), (50, 8, [7, 7, 6])]
)
def test_parts_of_almost_equal_size_are_trained_and_evaluated_on(images: int, batch: int, sizes: list[int]) -> None:
    few = FewImages(Plain(batch_size=batch), images)
    evaluated = [batch[:, 0].tolist() for batch in few.val_dataloader()]
    assert [len(batch) for batch in evaluated] == sizes
    assert [index for batch in evaluated for index in batch] == list(range(min(images, 20)))
    loader = few.train_dataloader()
    trained = [batch[:, 0].tolist() for batch in loader]
    assert len(trained) == len(loader) >= 25
    rounds = [trained[i : i + len(sizes)] for i in range(0, len(trained), len(sizes))]
    for batches in rounds:
        assert [len(batch) for batch in batches] == sizes
        assert sorted(index for batch in batches for index in batch) == list(range(min(images, 20)))
    assert [batch[:, 0].tolist() for batch in loader] == trained
    loader.batch_sampler.sampler.set_epoch(1)
    other = [batch[:, 0].tolist() for batch in loader]
    if len(sizes) > 1:  # batch norm would learn batches by heart that stay the same
        assert rounds[0] != rounds[1]
        assert other != trained
    assert (few.images, few.info) == (min(images, 20), "facts")


def test_scenes_that_are_new_in_each_epoch_stay_the_same_here() -> None:
    data = DetectionData(batch_size=4, num_workers=0, scenes_train=16)
    data.setup("fit")
    few = FewImages(data, 4)
    (evaluated,) = few.val_dataloader()
    for batch in few.train_dataloader():
        assert torch.equal(batch["images"], evaluated["images"])
        assert batch["paths"] == evaluated["paths"]
    assert (
        few.notes[-1] == "Overfit check: the same 4 training images without augmentation are trained and evaluated on."
    )


def test_images_that_a_data_set_reads_in_batches() -> None:
    data = ClassificationData(batch_size=8, num_workers=0, augment="none")
    data.setup("fit")
    few = FewImages(data, 6, accumulate=2)
    few.setup()
    (batch,) = few.val_dataloader()
    assert few.on_after_batch_transfer(batch, 0)["images"].shape == (6, 3, 32, 32)
    assert len(list(few.train_dataloader())) == 50


def test_a_stream_has_no_single_images() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(UserError, match=r"Plain\.train_dataloader\(\) gives no DataLoader"):
        FewImages(Plain(Stream()), 4)


def judge(goals: dict[str, float], *validations: dict[str, float]) -> OverfitCheck:
    """A check that has seen validations, at steps 25, 50 ..."""
    check = OverfitCheck(goals, 8)
    for number, values in enumerate(validations, start=1):
        measured = {name: torch.tensor(value) for name, value in values.items()}
        trainer: Any = SimpleNamespace(callback_metrics=measured, global_step=25 * number, should_stop=False)
        check.on_validation_end(trainer, L.LightningModule())
        assert trainer.should_stop == check.passed
        check.on_train_end(trainer, L.LightningModule())
    return check


def test_pass_and_fail_in_words() -> None:
    low, high = {"val/map_50": 0.25, "train/matched_iou": 0.3}, {"val/map_50": 0.95, "train/matched_iou": 0.8}
    passed = judge({"map_50": 0.9}, low, high)
    assert passed.passed
    assert passed.verdict(Path("run")) == (
        "PASS: train mAP50 0.950 on the 8 images that it was trained on, after 50 steps; 0.900 was needed."
    )
    failed = judge({"map_50": 0.9}, high | {"val/map_50": 0.5}, low)
    assert not failed.passed
    words = failed.verdict(Path("run"))
    assert words.startswith("FAIL: train mAP50 reached 0.500 on the 8 images")
    for text in ("in 50 steps; 0.900 was needed", "run/batch.png", "run/curves.png", "0.30 at the end (boxes are off)"):
        assert text in words
    assert "classes or scores are wrong" in judge({"map_50": 0.9}, high | {"val/map_50": 0.5}).verdict(Path("run"))
    assert "another --seed" in judge({"map_50": 0.9}, {"val/map_50": -1.0}).verdict(Path("run"))
    assert judge({"map_50": 0.9}).verdict(Path("run")) == (
        "FAIL: the run ended before train mAP50 was first measured on the 8 images that it was trained on: give it "
        "more steps."
    )


def test_the_first_goal_that_is_measured_counts() -> None:
    goals = {"accuracy": 1.0, "subset_accuracy": 1.0}
    assert judge(goals, {"val/subset_accuracy": 1.0}).passed
    assert not judge(goals, {"val/accuracy": 0.99, "val/subset_accuracy": 1.0}).passed
    assert judge({"r2": 0.9}, {"val/r2": -3.0}).verdict(Path("run")).startswith("FAIL: train R² reached -3.000")
    with pytest.raises(UserError, match="overfit_goal = "):
        OverfitCheck({}, 8)
