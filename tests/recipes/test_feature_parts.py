"""Synthetic features and losses on features, by options of a recipe."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_runs import call, rows

from dlrecipes.cli.commands import main as dlrecipes_command
from dlrecipes.imbalance import FeatureSMOTE
from dlrecipes.tasks import ClassificationTask


@pytest.fixture
def options(configs: Path, photos: Path, tmp_path: Path) -> list[object]:
    return ["--config", configs / "mixer.yaml", "--data", photos, "--output", tmp_path, "--trainer.max_steps", 2]


def test_synthetic_features(mixer: ModuleType, options: list[object], photos: Path, tmp_path: Path) -> None:
    part = ["--model.feature_part", "dlrecipes.imbalance.FeatureSMOTE", "--model.feature_part.dim"]
    outcome = call(mixer.main, *options, *part, 9)
    assert outcome.code == 2
    assert "FeatureSMOTE has dim=9 and is given vectors of length 16: set --model.feature_part.dim 16" in outcome.err
    outcome = call(mixer.main, *options, *part, 16, "--model.feature_part.class_counts", "[8,3,2]")
    assert outcome.code == 0, outcome.err
    run = tmp_path / "mixer-001"
    task: Any = ClassificationTask.load_from_checkpoint(run / "checkpoints" / "last.ckpt")
    assert isinstance(task.feature_part, FeatureSMOTE)
    assert task.feature_part.pushed.sum() > 0  # rare features of the run's two steps
    outcome = call(dlrecipes_command, "predict", run, photos / "test")
    assert outcome.code == 0, outcome.err


def test_contrastive_branch(mixer: ModuleType, options: list[object], tmp_path: Path) -> None:
    loss = ["--model.auxiliary_loss", "dlrecipes.losses.BalancedContrastiveLoss", "--model.auxiliary_loss.dim", 8]
    outcome = call(mixer.main, *options, *loss, "--model.projection_dim", 8, "--model.auxiliary_weight", 0.5)
    assert outcome.code == 0, outcome.err
    assert any(float(row["train/auxiliary_loss_step"] or 0) > 0 for row in rows(tmp_path / "mixer-001"))
    state = torch.load(tmp_path / "mixer-001" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert state["auxiliary_loss.prototypes"].shape == (3, 8)


def test_cosines_by_option(mixer: ModuleType, options: list[object], tmp_path: Path) -> None:
    outcome = call(mixer.main, *options, "--model.model.head", "cosine", "--loss", "dlrecipes.losses.LDAMLoss")
    assert outcome.code == 0, outcome.err
    task: Any = ClassificationTask.load_from_checkpoint(tmp_path / "mixer-001" / "checkpoints" / "last.ckpt")
    assert type(task.model.net.head).__name__ == "CosineLinear"
