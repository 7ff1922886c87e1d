"""Parts exchanged on the command line of the image recipes: dlrecipes' own, and a user's from the current folder."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from tiny_images import CLASSES
from tiny_runs import call, rows

from dlrecipes.cli.commands import main as dlrecipes_command
from dlrecipes.tasks import ClassificationTask

NAME = "my_image_project"

CODE = """
from torch import nn

from dlrecipes.tasks import ClassificationTask


class MyLoss(nn.Module):
    def __init__(self, gamma: float = 1.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, outputs, targets):
        return self.gamma * nn.functional.cross_entropy(outputs, targets)


class MyTask(ClassificationTask):
    headline = ("accuracy",)

    def configure_loss(self, info):
        return MyLoss(gamma=0.5 * info.num_classes)

    def predictions(self, outputs):
        return super().predictions(outputs / 2)
"""


@pytest.fixture
def project(users_module: Callable[[str, str], Path]) -> Path:
    """The user's folder, as current folder."""
    return users_module(NAME, CODE)


@pytest.fixture
def options(configs: Path, photos: Path) -> list[object]:
    return ["--config", configs / "mixer.yaml", "--data", photos]


def first_loss(run: Path) -> float:
    return float(next(row["train/loss_step"] for row in rows(run) if row["train/loss_step"]))


def test_own_loss_by_import_path(mixer: ModuleType, options: list[object], project: Path) -> None:
    for gamma in (1, 3):
        outcome = call(mixer.main, *options, "--loss", f"{NAME}.MyLoss", "--model.loss.gamma", gamma)
        assert outcome.code == 0, outcome.err
    once, thrice = (project / "runs" / f"mixer-{number:03d}" for number in (1, 2))
    assert first_loss(thrice) == pytest.approx(3 * first_loss(once), rel=1e-5)
    config = yaml.safe_load((thrice / "config.yaml").read_text())
    assert config["model"]["init_args"]["loss"] == {"class_path": f"{NAME}.MyLoss", "init_args": {"gamma": 3.0}}
    task: Any = ClassificationTask.load_from_checkpoint(thrice / "checkpoints" / "best.ckpt")
    assert task.loss.gamma == 3.0


def test_own_task_trains_and_predicts(mixer: ModuleType, options: list[object], project: Path, photos: Path) -> None:
    task = ["--model", f"{NAME}.MyTask", "--model.loss", "null"]
    outcome = call(mixer.main, *options, *task)
    assert outcome.code == 0, outcome.err
    assert "val/f1" not in next(line for line in outcome.out.splitlines() if line.startswith("epoch 1/1"))
    del sys.modules[NAME]  # as in a new process
    outcome = call(dlrecipes_command, "predict", project / "runs" / "mixer-001", photos / "test")
    assert outcome.code == 0, outcome.err
    results = json.loads((project / "runs" / "mixer-001" / "predict-001" / "predictions.json").read_text())
    assert {row["label"] for row in results} <= set(CLASSES)
    assert NAME in sys.modules


def test_loss_optimizer_augmentation_and_mixing_of_ours(
    mixer: ModuleType, options: list[object], tmp_path: Path
) -> None:
    changed = ["--loss", "dlrecipes.losses.FocalLoss", "--model.loss.gamma", 3, "--model.optimizer", "muon"]
    drawn = ["--augment", "strong", "--mix", "both", "--lr", 0.02, "--output", tmp_path]
    outcome = call(mixer.main, *options, *changed, *drawn)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    run = tmp_path / "mixer-001"
    values = yaml.safe_load((run / "config.yaml").read_text())
    task, data = values["model"]["init_args"], values["data"]["init_args"]
    assert task["loss"]["class_path"] == "dlrecipes.losses.FocalLoss"
    assert (task["loss"]["init_args"]["gamma"], task["optimizer"], task["lr"]) == (3.0, "muon", 0.02)
    assert (data["augment"], data["mix"]) == ("strong", "both")
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for value in weights.values())
