"""Detection data as people have it: few images, one class, crowds, pictures of nothing. Each trains and says what to
expect."""

import math
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from tiny_runs import Outcome, assert_refused, call, rows

from dlrecipes.contracts import DetectionBatch
from dlrecipes.data import DetectionData
from dlrecipes.models import DETR
from dlrecipes.models.detr import SetCriterion
from dlrecipes.tasks import DetectionTask

SIDE = 64


@pytest.fixture(autouse=True)
def blank_figures() -> None:
    """In this module everything is drawn, whatever the data lacks."""


def write_csv(folder: Path, images: dict[str, list[int]], classes: int = 2) -> Path:
    """A folder of noise and a table of boxes, in the splits that are given: so many objects in each image."""
    rng = np.random.default_rng(0)
    lines = ["image,x1,y1,x2,y2,label,split"]
    for split, counts in images.items():
        for number, objects in enumerate(counts):
            name = f"{split}_{number}.png"
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / name)
            if not objects:
                lines.append(f"{name},,,,,,{split}")
            for k in range(objects):
                x, y = rng.integers(0, SIDE - 12, 2).tolist()
                lines.append(f"{name},{x},{y},{x + 8},{y + 10},class {k % classes},{split}")
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    return folder


class Steps(DetectionTask):
    """Keeps each step's loss and number of objects."""

    def on_train_start(self) -> None:
        self.losses: list[float] = []
        self.objects: list[int] = []

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> dict[str, torch.Tensor]:
        terms = super().training_step(batch, batch_idx)
        self.losses.append(float(terms["loss"].detach()))
        self.objects.append(sum(len(target["labels"]) for target in batch["targets"]))
        return terms


def fit(data: DetectionData, queries: int) -> Steps:
    model = DETR(
        "test_resnet",
        pretrained_backbone=False,
        num_queries=queries,
        class_head="sigmoid",
        hidden_dim=16,
        num_heads=2,
        encoder_layers=1,
        decoder_layers=2,
        feedforward_dim=16,
    )
    task = Steps(model, SetCriterion(class_loss="focal"), lr=1e-3)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        warnings.filterwarnings("ignore", message="Encountered more than 100 detections")
        trainer.fit(task, data)
    assert np.isfinite(task.losses).all()
    assert all(torch.isfinite(parameter).all() for parameter in task.parameters())
    return task


def build(folder: Path, **options: object) -> DetectionData:
    return DetectionData(str(folder), **{"batch_size": 4, "num_workers": 0, "image_size": SIDE, **options})


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_five_training_images(tmp_path: Path, mosaic: float) -> None:
    data = build(write_csv(tmp_path, {"train": [2, 1, 3, 1, 2], "val": [2, 1]}), transform="strong", mosaic=mosaic)
    task = fit(data, queries=20)
    assert len(task.losses) == 2
    assert any(note.startswith("5 training images: expect a model that knows these by heart") for note in data.notes)
    assert any(note.startswith("The val split holds 2 images with 3 boxes") for note in data.notes)


def test_five_images_in_all(tmp_path: Path) -> None:
    data = build(write_csv(tmp_path, {"": [2, 1, 3, 1, 2]}))
    fit(data, queries=20)
    assert data.splits == ("train", "val", "test")
    assert any(note.startswith("3 training images") for note in data.notes)


def test_one_class(tmp_path: Path) -> None:
    data = build(write_csv(tmp_path, {"train": [2] * 8, "val": [2] * 4}, classes=1), mixup=1.0, transform="strong")
    task = fit(data, queries=20)
    assert data.info.num_classes == task.model.num_classes == 1
    assert any(note.startswith("One class (class 0): mAP is its AP") for note in data.notes)


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_a_hundred_objects_an_image(tmp_path: Path, mosaic: float) -> None:
    """No mosaic and no mixup may hold more than there are queries."""
    data = build(
        write_csv(tmp_path, {"train": [100] * 8, "val": [100, 101]}), transform="strong", mosaic=mosaic, mixup=mosaic
    )
    task = fit(data, queries=120)
    assert all(4 * 40 < count <= 4 * 120 for count in task.objects)
    assert any(note.startswith("Up to 101 objects in one image: the model needs more queries") for note in data.notes)
    assert any(note.startswith("1 image with more than 100 objects") for note in data.notes)


def test_batches_without_any_object(tmp_path: Path) -> None:
    folder = write_csv(tmp_path, {"train": [0] * 63 + [2], "val": [0, 2, 1]})
    data = build(folder, mosaic=0.5)
    assert fit(data, queries=20).objects == [0, 0]
    assert any(note.startswith("98% of the training images hold no object") for note in data.notes)
    repeated = build(folder, mosaic=0.5, repeat_factor=0.5)
    fit(repeated, queries=20)
    assert any("Images with rare classes are repeated: 69 samples an epoch of 64" in note for note in repeated.notes)


def preset(recipe: ModuleType, folder: Path, *options: object) -> Outcome:
    """Two steps of ``detr_fast`` + ``detr_fast_data``, as the recipe takes them for data, on small images."""
    limits = [word for name in ("val", "test") for word in (f"--trainer.limit_{name}_batches", 1)]
    quick = ["--wandb", "off", "--batch-size", 2, "--data.num_workers", 0, "--data.cache_gb", 0, "--steps-needed", 2]
    argv = ["--data", folder, *quick, *limits, "--pretrained", "false", "--output", folder / "runs"]
    return call(recipe.main, *argv, "--trainer.limit_train_batches", 2, "--epochs", 1, *options)


def assert_trained(outcome: Outcome, folder: Path) -> None:
    assert outcome.code == 0, outcome.err
    assert "Preset detr_fast + detr_fast_data" in outcome.out
    (row,) = [row for row in rows(folder / "runs" / "detr-001") if row["val/map"]]
    assert math.isfinite(float(row["train/loss_epoch"]))
    assert float(row["val/map"]) >= 0


def test_the_preset_trains_on_five_images_of_one_class_some_empty(recipe: ModuleType, tmp_path: Path) -> None:
    write_csv(tmp_path, {"train": [2, 0, 1, 0, 3], "val": [1, 0], "test": [1]}, classes=1)
    outcome = preset(recipe, tmp_path, "--image-size", 64, "--data.mosaic", 0.5)
    assert_trained(outcome, tmp_path)
    assert "5 training images: expect a model that knows these by heart" in outcome.out
    assert "One class (class 0): mAP is its AP" in outcome.out


def test_the_preset_trains_on_a_hundred_objects_an_image(recipe: ModuleType, tmp_path: Path) -> None:
    """Mosaics hold no more than the 121 cells at 176 pixels, though there are 202 queries."""
    write_csv(tmp_path, {"train": [100, 101, 100, 100], "val": [100], "test": [100]})
    outcome = preset(recipe, tmp_path, "--image-size", 176, "--data.mosaic", 1)
    assert_trained(outcome, tmp_path)
    assert "Up to 101 objects in one image" in outcome.out


def test_the_preset_refuses_more_objects_than_cells(recipe: ModuleType, tmp_path: Path) -> None:
    write_csv(tmp_path, {"train": [60, 2, 2, 2], "val": [2], "test": [2]})
    outcome = preset(recipe, tmp_path, "--image-size", 96, "--model.model.num_queries", 200)
    assert_refused(outcome, "the 36 feature cells of an image of 96 x 96 pixels at feature_stride=16 cannot propose")
    assert not list((tmp_path / "runs").glob("*"))
