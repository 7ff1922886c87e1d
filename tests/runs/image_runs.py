"""A toy classifier or regressor whose answers are given: images in order, several ranks, any task."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from dlrecipes.contracts import DataInfo, ImageBatch

NAMES = ("cat", "dog", "Käfer")


def make_info(task: str = "classification", names: tuple[str, ...] = NAMES, **values: Any) -> DataInfo:
    empty = {"classes": (), "category_ids": (), "class_counts": ()}
    classes = {"classes": names, "category_ids": tuple(range(len(names))), "class_counts": (5,) * len(names)}
    return DataInfo(
        task=task, num_train=20, max_objects=0, image_size=16, **(empty if task == "regression" else classes), **values
    )  # fmt: skip


def make_images(count: int) -> torch.Tensor:
    """uint8 [count, 3, 16, 16]; image i is filled with the value i."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 16, 16).contiguous()


class GivenAnswers(pl.LightningModule):
    """Answers image i with ``answers[i]``; truth is ``targets[i]``."""

    def __init__(self, info: DataInfo, targets: torch.Tensor, answers: torch.Tensor) -> None:
        super().__init__()
        self.info, self.targets, self.answers = info, targets, answers
        self.images = make_images(len(targets))
        self.weight = torch.nn.Parameter(torch.ones(1))

    def loader(self, batch_size: int = 4) -> DataLoader:
        return DataLoader(range(len(self.targets)), batch_size=batch_size, collate_fn=self.collate)

    def collate(self, chosen: list[int]) -> ImageBatch:
        index = torch.tensor(chosen)
        return {
            "images": self.images[index], "targets": self.targets[index], "weights": None, "index": index, "epoch": 0,
            "paths": [f"folder/{i}.jpg" for i in chosen],
        }  # fmt: skip

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Any:
        return self.weight.pow(2).sum()

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> Any:
        return {"loss": torch.zeros(()), "outputs": self.answers[batch["index"]]}

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_trainer(callbacks: list[pl.Callback], loggers: list[Any] | None = None, epochs: int = 1) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", max_epochs=epochs, log_every_n_steps=1, callbacks=callbacks, logger=loggers or False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
