"""Tiny images whose brightness gives their target away, and a fit on them; imported by tests and scripts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from dlrecipes.contracts import DataInfo, ImageBatch
from dlrecipes.tasks import ImageTask

CLASSES = ("ant", "bee", "cow")
SIDE = 8
_BASE = DataInfo(
    task="classification",
    classes=CLASSES,
    category_ids=(0, 1, 2),
    class_counts=(10, 10, 10),
    num_train=30,
    max_objects=0,
    image_size=SIDE,
    mean=(0.4, 0.4, 0.4),
    std=(0.3, 0.3, 0.3),
)
INFO = {
    "classification": _BASE,
    "multilabel": replace(_BASE, task="multilabel"),
    "regression": replace(
        _BASE,
        task="regression",
        classes=(),
        category_ids=(),
        class_counts=(),
        target_names=("year", "price"),
        target_mean=(2000.0, 5.0),
        target_std=(10.0, 2.0),
    ),
}


class ToyImages(Dataset[dict[str, Any]]):
    """Samples as pure functions of their index."""

    def __init__(self, task: str, size: int, weights: bool = False) -> None:
        self.task, self.size, self.weights = task, size, weights

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        label = index % 3
        image = torch.randint(0, 80, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        image[label] += 120
        targets = {
            "classification": torch.tensor(label),
            "multilabel": (torch.arange(3) != label).float(),
            "regression": torch.tensor([2000.0 + 10 * (label - 1), 5.0 - 2 * (label - 1)]),
        }
        return {"image": image, "target": targets[self.task], "weight": 1.0 + label, "index": index}


class Shard(Sampler[int]):
    """Every ``world``-th sample from ``rank`` on: shards of unequal size, none padded."""

    def __init__(self, size: int, rank: int, world: int) -> None:
        self.size, self.rank, self.world = size, rank, world

    def __iter__(self) -> Any:
        return iter(range(self.rank, self.size, self.world))

    def __len__(self) -> int:
        return len(range(self.rank, self.size, self.world))


class ToyData(L.LightningDataModule):
    def __init__(
        self, task: str = "classification", train: int = 30, val: int = 13, batch_size: int = 6, weights: bool = False
    ) -> None:
        super().__init__()
        self.task, self.train, self.val, self.batch_size, self.weights = task, train, val, batch_size, weights
        self.info = INFO[task]

    def _collate(self, samples: list[dict[str, Any]]) -> ImageBatch:
        return {
            "images": torch.stack([s["image"] for s in samples]),
            "targets": torch.stack([s["target"] for s in samples]),
            "weights": torch.tensor([s["weight"] for s in samples]) if self.weights else None,
            "index": torch.tensor([s["index"] for s in samples]),
            "epoch": 0,
            "paths": [f"{s['index']}.png" for s in samples],
        }

    def _loader(self, size: int) -> DataLoader[Any]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return DataLoader(
            ToyImages(self.task, size),
            batch_size=self.batch_size,
            sampler=Shard(size, rank, world),
            collate_fn=self._collate,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.val)

    test_dataloader = predict_dataloader = val_dataloader


def batch(task: str = "classification", size: int = 6, weights: bool = False) -> ImageBatch:
    data = ToyData(task, val=size, batch_size=size, weights=weights)
    found: ImageBatch = next(iter(data.val_dataloader()))
    return found


class Net(nn.Module):
    """Convolution, batch norm, head; takes its width from the data."""

    def __init__(self, width: int = 6, outputs: int = 1, pretrained: bool = False) -> None:
        super().__init__()
        self.width, self.outputs, self.pretrained = width, outputs, pretrained
        self.stem = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, outputs)

    def bind(self, info: DataInfo) -> None:
        self.head = nn.Linear(self.width, info.num_outputs)

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        return ((0.5,) * 3, (0.25,) * 3) if self.pretrained else None

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.norm(self.stem(images)).relu().mean((2, 3)))
        return found


def make_trainer(folder: Path, *callbacks: L.Callback, epochs: int = 1, **options: Any) -> L.Trainer:
    return L.Trainer(
        **(
            {
                "max_epochs": epochs,
                "accelerator": "cpu",
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "enable_checkpointing": False,
                "default_root_dir": folder,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
                "callbacks": list(callbacks),
            }
            | options
        )
    )


def fit(task: ImageTask, folder: Path, data: ToyData, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    trainer = make_trainer(folder, *callbacks, **options)
    trainer.fit(task, datamodule=data)
    return trainer
