"""A run that is cut off within an epoch and resumed from the command line ends bitwise as the run left alone."""

from collections.abc import Callable
from pathlib import Path

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

DETR = (
    *("recipe", "detr", "coco"),
    ["--model.model.dropout", "0.2", "--data.transform", "strong", "--data.mosaic", "0.5", "--data.mixup", "0.5"],
)
# a network with batch norm and dropout, samples changed and mixed at random
EFFICIENTNET = (
    *("efficientnet", "efficientnet", "photos"),
    ["--model.model.drop_rate", "0.2", "--augment", "strong", "--mix", "both"],
)


@pytest.fixture
def project(users_module: Callable[[str, str], Path]) -> Path:
    folder = users_module(NAME, CODE)
    (folder / "cut.yaml").write_text(f"trainer: {{callbacks: [{{class_path: {NAME}.PowerCut}}]}}\n")
    return folder


@pytest.mark.parametrize(
    ("case", "task"),
    [
        (DETR, "dlrecipes.tasks.DetectionTask"),
        (DETR, f"{NAME}.Eager"),
        (EFFICIENTNET, "dlrecipes.tasks.ClassificationTask"),
    ],
    ids=["detr", "detr, loaders made early", "efficientnet"],
)
def test_cut_off_within_an_epoch(
    case: tuple[str, str, str, list[str]],
    task: str,
    project: Path,
    configs: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script, name, data, random = case
    main = request.getfixturevalue(script).main
    options = ["--config", configs / f"{name}.yaml", "--config", project / "cut.yaml", "--output", project / "runs"]
    options += ["--data", request.getfixturevalue(data), "--model", task, *random]
    options += ["--ema", "0.9", "--checkpoint-every-n-steps", "5"]
    assert call(main, *options).code == 0
    monkeypatch.setenv("POWER_CUT", "7")  # of 8 steps; the last checkpoint is that of step 5, the first of epoch 2
    with pytest.raises(RuntimeError, match="power cut"):
        call(main, *options)
    monkeypatch.delenv("POWER_CUT")
    cut = project / "runs" / f"{name}-002"
    assert torch.load(cut / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
    outcome = call(main, "--resume", cut)
    assert outcome.code == 0, outcome.err
    alone, resumed = (
        torch.load(project / "runs" / f"{name}-{number}" / "checkpoints" / "last.ckpt", weights_only=True)
        for number in ("001", "002")
    )
    assert alone["global_step"] == resumed["global_step"] == 8
    for key in ("state_dict", "current_model_state"):  # the average, and the weights that are trained
        assert alone[key].keys() == resumed[key].keys()
        assert [name for name, value in alone[key].items() if not torch.equal(value, resumed[key][name])] == []
