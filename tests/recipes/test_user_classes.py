"""A user's own loss and task, from a folder that has nothing to do with dlrecipes, through the real command line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from lightning.pytorch.loggers.logger import DummyLogger
from tiny_runs import CATEGORIES, call

from dlrecipes.cli.commands import main as dlrecipes_command
from dlrecipes.tasks import DetectionTask

NAME = "my_detection_project"

CODE = """
import torch

from dlrecipes.models.detr import SetCriterion
from dlrecipes.tasks import DetectionTask


class MyCriterion(SetCriterion):
    def __init__(self, gamma: float = 1.0) -> None:
        super().__init__(class_loss="focal")
        self.gamma = gamma

    def forward(self, outputs, targets):
        losses = super().forward(outputs, targets)
        return {name: value * self.gamma for name, value in losses.items()}


class MyTask(DetectionTask):
    def configure_loss(self):
        return MyCriterion(gamma=3.0)


class NaNCriterion(SetCriterion):
    def forward(self, outputs, targets):
        return {name: value * torch.nan for name, value in super().forward(outputs, targets).items()}
"""


@pytest.fixture
def project(users_module: Callable[[str, str], Path]) -> Path:
    """The user's folder, as current folder."""
    return users_module(NAME, CODE)


def test_own_loss_by_import_path(recipe: ModuleType, tiny: Path, coco: Path, project: Path) -> None:
    loss = f"{NAME}.MyCriterion"
    argv = ["--config", tiny, "--data", coco, "--epochs", "1"]
    outcome = call(recipe.main, *argv, "--model.criterion", loss, "--model.criterion.gamma", "3")
    assert outcome.code == 0, outcome.err
    config = yaml.safe_load((project / "runs" / "detr-001" / "config.yaml").read_text())
    assert config["model"]["init_args"]["criterion"] == {"class_path": loss, "init_args": {"gamma": 3.0}}

    task = DetectionTask.load_from_checkpoint(project / "runs" / "detr-001" / "checkpoints" / "best.ckpt")
    assert task.criterion.gamma == 3.0


def test_own_task_trains_reloads_and_predicts(recipe: ModuleType, tiny: Path, coco: Path, project: Path) -> None:
    outcome = call(recipe.main, "--config", tiny, "--data", coco, "--epochs", "1", "--model", f"{NAME}.MyTask")
    assert outcome.code == 0, outcome.err
    run = project / "runs" / "detr-001"

    del sys.modules[NAME]  # as in a new process
    assert call(dlrecipes_command, "predict", run, coco / "test", "--threshold", "0").code == 0
    results = json.loads((run / "predict-001" / "predictions.json").read_text())
    assert {row["category_id"] for row in results} <= set(CATEGORIES)
    assert NAME in sys.modules


def test_predict_without_the_users_code_says_what_is_missing(
    recipe: ModuleType, tiny: Path, coco: Path, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    argv = ["--config", tiny, "--data", coco, "--epochs", "1", "--model.criterion", f"{NAME}.MyCriterion"]
    assert call(recipe.main, *argv).code == 0
    del sys.modules[NAME]
    (project / f"{NAME}.py").unlink()
    outcome = call(dlrecipes_command, "predict", project / "runs" / "detr-001", coco / "test")
    assert outcome.code == 2
    assert f"cannot import '{NAME}.MyCriterion'" in outcome.err
    assert outcome.err.count("\n") == 1


class Tracker(DummyLogger):
    """In W&B's place."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[tuple[str, ...]]] = {}
        self.exit_code = -1

    def log_table(self, key: str, columns: object, rows: list[tuple[str, ...]]) -> None:
        self.tables[key] = rows

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def test_loss_that_is_not_finite_ends_with_exit_code_3(
    recipe: ModuleType, tiny: Path, coco: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker()
    monkeypatch.setattr("dlrecipes.cli.recipe.training.make_tracker", lambda *_: (tracker, "in a test"))
    outcome = call(recipe.main, "--config", tiny, "--data", coco, "--model.criterion", f"{NAME}.NaNCriterion")
    assert outcome.code == 3
    assert outcome.err.startswith("error: ")
    assert "train_" in outcome.err  # the images of the batch
    assert outcome.err.count("\n") == 1
    assert not list((project / "runs" / "detr-001" / "checkpoints").iterdir())
    (verdict,) = json.loads((project / "runs" / "detr-001" / "verdicts.json").read_text())
    assert (verdict["source"], verdict["title"], verdict["level"]) == ("fit doctor", "diverged", "warning")
    assert outcome.err == f"error: {verdict['evidence']}\n"
    assert [row[2] for row in tracker.tables["verdicts"]] == ["diverged"]
    assert tracker.exit_code == 3
