"""Means of an epoch's steps: exact, logged once, and there for callbacks that look when the epoch ends."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dlrecipes.contracts import DataInfo
from dlrecipes.tasks import ClassificationTask
from dlrecipes.tasks.epoch_means import EpochMeans

SIZES = (4, 4, 1)
NAME = "train/accuracy"


class Positioned(DataLoader[Any]):
    """Goes on where a resumed epoch stopped."""

    def __init__(self, *args: Any, skip: int = 0, **others: Any) -> None:
        super().__init__(*args, **others)
        self._skip = skip

    def __iter__(self) -> Any:
        skip, self._skip = self._skip, 0
        return islice(super().__iter__(), skip, None)


class Data(L.LightningDataModule):
    info = DataInfo(
        task="classification",
        classes=("a", "b"),
        category_ids=(0, 1),
        class_counts=(5, 4),
        num_train=9,
        max_objects=0,
        image_size=4,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )

    def __init__(self, skip: int = 0) -> None:
        super().__init__()
        self.skip = skip  # batches of the first pass, after a resume

    def train_dataloader(self) -> DataLoader[Any]:
        made = torch.Generator().manual_seed(0)
        batches = [
            {
                "images": torch.randint(0, 256, (size, 3, 4, 4), dtype=torch.uint8, generator=made),
                "targets": torch.randint(0, 2, (size,), generator=made),
            }
            for size in SIZES
        ]
        return Positioned(batches, batch_size=None, skip=self.skip)  # type: ignore[arg-type]  # a list does


class Watch(L.Callback):
    """What was right, by hand, and what the Trainer knows of it when an epoch ends."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.right: list[float] = []
        self.by_hand: list[float] = []
        self.seen: list[float] = []

    def on_train_epoch_start(self, *args: Any) -> None:
        self.right = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.right += (outputs["right"] == batch["targets"]).tolist()
        trainer.should_stop = self.stop_after is not None and trainer.global_step >= self.stop_after

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.by_hand.append(sum(self.right) / len(self.right))
        self.seen.append(float(trainer.callback_metrics.get(NAME, torch.tensor(float("nan")))))


class Task(ClassificationTask):
    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        with torch.no_grad():
            right = self(batch["images"]).argmax(1)
        return super().training_step(batch, batch_idx) | {"right": right}


def trained(watch: Watch, resume: Path | None = None, skip: int = 0, **limits: Any) -> L.Trainer:
    torch.manual_seed(0)
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = L.Trainer(
        accelerator="cpu", log_every_n_steps=1, callbacks=[watch], enable_model_summary=False, **options, **limits
    )
    task = Task(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), lr=0.05, warmup_steps=0)
    trainer.fit(task, datamodule=Data(skip), ckpt_path=resume, weights_only=True)
    return trainer


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("limits", [{"max_epochs": 2}, {"max_epochs": 3, "max_steps": 5}])
def test_callbacks_see_the_mean_over_the_images_when_the_epoch_ends(limits: dict[str, int]) -> None:
    watch = Watch()
    trainer = trained(watch, **limits)
    assert len(watch.seen) == 2
    assert watch.seen == pytest.approx(watch.by_hand)
    assert trainer.callback_metrics[NAME].item() == pytest.approx(watch.by_hand[-1])


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_an_epoch_that_is_cut_off_has_the_mean_of_its_steps() -> None:
    watch = Watch(stop_after=5)
    trainer = trained(watch, max_epochs=4, min_epochs=1)
    assert len(watch.right) == sum(SIZES[:2])
    assert trainer.callback_metrics[NAME].item() == pytest.approx(watch.by_hand[-1])


def test_many_small_values_of_half_precision_do_not_get_lost() -> None:
    means = EpochMeans()
    for _ in range(3000):  # in bfloat16 the sum would stay at 1
        means.add({"loss": torch.tensor(0.0039, dtype=torch.bfloat16)}, 1)
    assert means.take()["loss"].item() == pytest.approx(0.0039, rel=1e-2)


def test_each_name_has_its_own_weight() -> None:
    means = EpochMeans()
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(0.0)}, 1)
    means.add({"a": torch.tensor(4.0)}, 2)
    assert {name: value.item() for name, value in means.take().items()} == {"a": 3.0, "b": 0.0}
    assert means.take() == {}


class CutOff(Watch):
    """Keeps a checkpoint within the second epoch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        super().on_train_batch_end(trainer, *args)
        if trainer.global_step == 5:
            trainer.save_checkpoint(self.path, weights_only=False)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_an_epoch_that_goes_on_has_the_means_of_all_its_steps(tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    alone = trained(CutOff(path), max_epochs=2).callback_metrics
    resumed = trained(Watch(), resume=path, skip=2, max_epochs=2).callback_metrics
    for name in ("train/loss", "train/loss_epoch", NAME):
        assert resumed[name] == alone[name], name
