"""A detector that ignores its images is noticed; others are left alone."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from dlrecipes.callbacks import ConstantPredictions
from dlrecipes.callbacks.constant_predictions import agreement
from dlrecipes.contracts import DetectionBatch
from dlrecipes.models import DETR
from dlrecipes.tasks import DetectionTask

SIZES = ((64, 128), (64, 64), (32, 96))  # of the original images: boxes are compared in units of the image


def make_batch(same_truth: bool = False) -> DetectionBatch:
    generator = torch.Generator().manual_seed(0)
    boxes = [torch.rand(2, 4, generator=generator) * 0.3 + 0.3 for _ in SIZES]
    targets = [
        {
            "labels": torch.tensor([0, 1]),
            "boxes": boxes[0 if same_truth else i],
            "area": torch.full((2,), 300.0),
            "iscrowd": torch.zeros(2, dtype=torch.bool),
        }
        for i in range(len(SIZES))
    ]
    return {
        "images": torch.randint(0, 256, (len(SIZES), 3, 64, 64), dtype=torch.uint8, generator=generator), "mask": None,
        "targets": targets, "image_ids": list(range(len(SIZES))), "paths": [f"{i}.png" for i in range(len(SIZES))],
        "sizes": torch.full((len(SIZES), 2), 64), "orig_sizes": torch.tensor(SIZES),
    }  # fmt: skip


class Detector(pl.LightningModule):
    """Finds the objects, or answers every image with those of the first."""

    def __init__(self, blind_from: int, blind_until: int = 99) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.blind = range(blind_from, blind_until)

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> torch.Tensor:
        return self.weight**2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> dict:
        predictions = []
        for i, (target, (height, width)) in enumerate(zip(batch["targets"], SIZES, strict=True)):
            boxes = batch["targets"][0]["boxes"] if self.current_epoch in self.blind else target["boxes"]
            corners = torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), dim=1)
            scores = torch.tensor([0.9, 0.8]) + 0.001 * i
            scale = torch.tensor([width, height, width, height])
            predictions.append({"boxes": corners * scale, "labels": target["labels"], "scores": scores})
        return {"loss": self.weight, "predictions": predictions}


def fit(module: pl.LightningModule, folder: Path, batch: DetectionBatch, epochs: int, **options: int) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[ConstantPredictions(**options)], default_root_dir=folder,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch], batch_size=None), DataLoader([batch], batch_size=None))


@pytest.mark.parametrize(
    ("blind", "epochs", "warnings"),
    [
        ((0, 99), 5, 1),  # at the second validation, and not again
        ((99, 99), 3, 0),  # well
        ((0, 1), 3, 0),  # every detector begins so
        ((2, 99), 3, 1),  # at the last one
        ((0, 99), 1, 1),
    ],
)
def test_illness_is_said_once(
    blind: tuple[int, int], epochs: int, warnings: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(Detector(*blind), tmp_path, make_batch(), epochs)
    out = capsys.readouterr().out
    assert out.count("warning: the 3 validation images that were compared get the same boxes") == warnings
    assert out.count("--overfit 8") == warnings
    assert out.count("\n") == warnings


def test_the_second_validation_is_when(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Marks(Detector):
        def on_train_epoch_end(self) -> None:
            print(f"epoch {self.current_epoch}")

    fit(Marks(0), tmp_path, make_batch(), 3)
    lines = [line[:7] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["epoch 0", "warning", "epoch 1", "epoch 2"]


def test_images_that_are_all_the_same_are_no_illness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(Detector(0), tmp_path, make_batch(same_truth=True), 3)
    assert capsys.readouterr().out == ""


def test_a_detr_that_does_not_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of the image reaches its queries; with the same network that sees, all is well."""
    out = {}
    for sees in (False, True):
        torch.manual_seed(0)
        model = DETR(
            "test_resnet", num_classes=2, num_queries=6, pretrained_backbone=False, hidden_dim=16, num_heads=2,
            encoder_layers=0, decoder_layers=1, feedforward_dim=16,
            queries="two_stage",
        )  # fmt: skip
        if not sees:
            nn.init.zeros_(model.input_proj.weight)
        fit(DetectionTask(model, lr=0.0), tmp_path, make_batch(), 2)
        out[sees] = capsys.readouterr().out
    assert "warning: the 3 validation images" in out[False]
    assert "warning" not in out[True]


def test_agreement_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
    labels, scores = torch.tensor([0, 1]), torch.tensor([0.9, 0.5])
    one = (boxes, labels, scores)
    assert agreement(one, one) == 1
    assert agreement(one, (boxes.flip(0), labels.flip(0), scores.flip(0))) == 1  # the order does not matter
    assert agreement(one, (boxes.flip(0), labels, scores)) == 0  # other classes there
    assert agreement(one, (boxes[:1], labels[:1], scores[:1])) == pytest.approx(2 / 3)  # 1, 0 and 1
    nothing = (boxes[:0], labels[:0], scores[:0])
    assert (agreement(nothing, nothing), agreement(one, nothing)) == (1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"images": 1}, "images must be at least 2, got 1"), ({"top": 0}, "top"), ({"patience": 0}, "patience"),
     ({"threshold": 0}, "threshold must be above 0 and at most 1, got 0")],
)  # fmt: skip
def test_arguments_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConstantPredictions(**options)
