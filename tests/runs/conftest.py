"""A toy detector that needs no training: it finds every true box, moved a little, so that callbacks have work to do."""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from dlrecipes.contracts import DataInfo, DetectionBatch

sys.path.insert(0, str(Path(__file__).parent))  # for image_runs.py

CLASSES = ("cat", "dog", "Käfer")
INFO = DataInfo(
    task="detection", classes=CLASSES, category_ids=(3, 7, 90), class_counts=(20, 5, 1), num_train=8, max_objects=2,
    image_size=64,
)  # fmt: skip
WARNINGS = (
    "ignore:.*LeafSpec:FutureWarning",  # Lightning 2.6.6 on torch 2.14
    "ignore:.*exists and is not empty",
    "ignore:.*does not have many workers",
    "ignore:.*your dataloader is not resumable",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "runs":
            for warning in WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


def make_batch(start: int = 0, size: int = 4) -> DetectionBatch:
    """Images of 40 x 60 pixels in 64 x 64, from originals of 80 x 120; image i has i % 3 boxes."""
    images = torch.zeros(size, 3, 64, 64, dtype=torch.uint8)
    mask = torch.ones(size, 64, 64, dtype=torch.bool)
    images[:, :, :40, :60] = 200
    mask[:, :40, :60] = False
    targets = []
    for i in range(start, start + size):
        n = i % 3
        boxes = torch.tensor([[0.25, 0.5, 0.3, 0.6], [0.75, 0.5, 0.2, 0.4]])[:n]
        labels = torch.tensor([i % 3, (i + 1) % 3])[:n]
        crowd = torch.zeros(n, dtype=torch.bool)
        targets.append({"boxes": boxes, "labels": labels, "area": torch.full((n,), 1000.0), "iscrowd": crowd})
    return {
        "images": images, "mask": mask, "targets": targets, "image_ids": list(range(start, start + size)),
        "paths": [f"folder/image_{i}.jpg" for i in range(start, start + size)],
        "sizes": torch.tensor([[40, 60]] * size), "orig_sizes": torch.tensor([[80, 120]] * size),
    }  # fmt: skip


class ToyDetector(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.info = INFO
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Any:
        loss = self.weight.pow(2).sum()
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=True, batch_size=4)
        return loss

    def _evaluate(self, batch: DetectionBatch, stage: str) -> Any:
        found = []
        for target in batch["targets"]:
            cx, cy, w, h = (target["boxes"] * torch.tensor([120.0, 80.0, 120.0, 80.0])).unbind(1)
            boxes = torch.stack([cx - w / 2 + 1, cy - h / 2, cx + w / 2 + 1, cy + h / 2], 1)
            found.append({"boxes": boxes, "labels": target["labels"], "scores": torch.tensor([0.9, 0.3])[: len(boxes)]})
        epoch = self.current_epoch
        self.log_dict({f"{stage}/loss": 1.0 / (epoch + 1), f"{stage}/map": 0.1 * (epoch + 1)}, batch_size=4)
        self.log(f"{stage}/map_class/cat", 0.25, batch_size=4)
        return {"loss": torch.zeros(()), "predictions": found}

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> Any:
        return self._evaluate(batch, "val")

    def test_step(self, batch: DetectionBatch, batch_idx: int) -> Any:
        return self._evaluate(batch, "test")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def info() -> DataInfo:
    return INFO


@pytest.fixture
def batch() -> DetectionBatch:
    return make_batch()


@pytest.fixture
def toy() -> ToyDetector:
    return ToyDetector()


@pytest.fixture
def loader() -> Any:
    """Two batches of four images."""
    return DataLoader([0, 4], batch_size=1, collate_fn=lambda starts: make_batch(starts[0]))


@pytest.fixture
def fit(loader):
    """``fit(module, epochs, callbacks, loggers, test=False, ckpt_path=None)`` on the CPU, quietly; the trainer."""

    def run(module, epochs=1, callbacks=(), loggers=(), test=False, ckpt_path=None):
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=epochs, log_every_n_steps=1, callbacks=list(callbacks),
            logger=list(loggers), enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=any(
                isinstance(c, pl.callbacks.ModelCheckpoint) for c in callbacks),
        )  # fmt: skip
        trainer.fit(module, loader, loader, ckpt_path=ckpt_path)
        if test:
            trainer.test(module, loader, verbose=False)
        return trainer

    return run
