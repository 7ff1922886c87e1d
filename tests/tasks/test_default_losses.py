"""The losses that tasks take by themselves, and those with several numbers a target, in a fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_images import Net, ToyData, batch, fit

from dlrecipes import losses
from dlrecipes.tasks import ClassificationTask, RegressionTask

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


@pytest.mark.parametrize(
    ("task", "kind", "loss"),
    [
        (ClassificationTask, "classification", losses.CrossEntropyLoss),
        (ClassificationTask, "multilabel", losses.BCELoss),
        (RegressionTask, "regression", losses.SmoothL1Loss),
    ],
)
def test_each_kind_of_data_has_a_loss(task: Any, kind: str, loss: type, tmp_path: Path) -> None:
    made = task(Net(), lr=0.01)
    trainer = fit(made, tmp_path, ToyData(kind, weights=True))
    assert type(made.loss) is loss
    assert trainer.callback_metrics["train/loss"].isfinite()
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert type(task.load_from_checkpoint(tmp_path / "x.ckpt").loss) is loss


@pytest.mark.parametrize(
    "loss", [losses.GaussianNLLLoss(), losses.LaplaceNLLLoss(), losses.QuantileLoss((0.1, 0.5, 0.9))]
)
def test_several_numbers_a_target(loss: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = RegressionTask(Net(), loss, lr=0.05)
    trainer = fit(task, tmp_path, ToyData("regression", weights=True), epochs=15)
    assert trainer.callback_metrics["val/r2"] > 0.8
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = RegressionTask.load_from_checkpoint(tmp_path / "x.ckpt").eval()
    with torch.no_grad():
        assert torch.equal(again.predict_step(batch("regression"), 0), task.eval().predict_step(batch("regression"), 0))
