"""A run that is cut off within an epoch and resumed from the command line ends bitwise as the run left alone."""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny_runs import call

NAME = "their_resumed_project"

CODE = """
import os

import lightning as L

from dlrecipes.tasks import DetectionTask


class Eager(DetectionTask):
    def configure_optimizers(self):
        self.trainer.estimated_stepping_batches  # many tasks ask; Lightning makes the loaders for it
        return super().configure_optimizers()


class PowerCut(L.Callback):
    def on_train_batch_end(self, trainer, *args):
        if os.environ.get("POWER_CUT") == str(trainer.global_step):
            raise RuntimeError("power cut")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / f"{NAME}.py").write_text(textwrap.dedent(CODE))
    (tmp_path / "cut.yaml").write_text(f"trainer: {{callbacks: [{{class_path: {NAME}.PowerCut}}]}}\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop(NAME, None)


@pytest.mark.parametrize("task", ["dlrecipes.tasks.DetectionTask", f"{NAME}.Eager"])
def test_cut_off_within_an_epoch(
    task: str, project: Path, recipe: ModuleType, tiny: Path, coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--config", tiny, "--config", project / "cut.yaml", "--data", coco, "--output", project / "runs"]
    options += ["--model", task, "--ema", "0.9", "--model.model.dropout", "0.2", "--checkpoint-every-n-steps", "5"]
    assert call(recipe.main, *options).code == 0
    monkeypatch.setenv("POWER_CUT", "7")  # of 8 steps; the last checkpoint is that of step 5, the first of epoch 2
    with pytest.raises(RuntimeError, match="power cut"):
        call(recipe.main, *options)
    monkeypatch.delenv("POWER_CUT")
    cut = project / "runs" / "detr-002"
    assert torch.load(cut / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
    outcome = call(recipe.main, "--resume", cut)
    assert outcome.code == 0, outcome.err
    alone, resumed = (
        torch.load(project / "runs" / name / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("detr-001", "detr-002")
    )
    assert alone["global_step"] == resumed["global_step"] == 8
    for key in ("state_dict", "current_model_state"):  # the average, and the weights that are trained
        assert alone[key].keys() == resumed[key].keys()
        assert [name for name, value in alone[key].items() if not torch.equal(value, resumed[key][name])] == []
