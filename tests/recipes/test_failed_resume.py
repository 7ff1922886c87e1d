"""A resume that cannot work is one sentence, and leaves the run as it was."""

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_runs import assert_refused, call

from dlrecipes.checkpoint_io import load_checkpoint_file, save_checkpoint_file


@pytest.fixture
def run(classified: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(classified[0], tmp_path / "efficientnet-001"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "3", "--model.model.name", "test_resnet"], "state_dict"),
        (["--epochs", "3", "--lr", "0.1"], "--lr cannot be given with --resume"),
        (["--epochs", "3", "--model.optimizer", "sgd"], "--model.optimizer cannot be given with --resume"),
        (["--epochs", "3", "--model.init_args.weight_decay=0"], "weight_decay cannot be given"),
    ],
)
def test_options_that_do_not_fit(efficientnet: ModuleType, run: Path, options: list[str], message: str) -> None:
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "run.json"}
    assert_refused(call(efficientnet.main, "--resume", run, *options), message)
    assert {path: path.read_bytes() for path in files} == files


def test_a_checkpoint_of_another_network(efficientnet: ModuleType, run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    content = load_checkpoint_file(last)
    save_checkpoint_file(content | {"state_dict": {"model.other": torch.zeros(2)}}, last)
    outcome = call(efficientnet.main, "--resume", run, "--epochs", "3")
    assert_refused(outcome, f"cannot go on from '{last}'")
    save_checkpoint_file({"state_dict": content["state_dict"]}, last)
    assert_refused(call(efficientnet.main, "--resume", run, "--epochs", "3"), f"cannot go on from '{last}'")


def test_settings_of_a_run_that_goes_on_are_kept(efficientnet: ModuleType, run: Path) -> None:
    assert call(efficientnet.main, "--resume", run, "--epochs", "3").code == 0
    assert "max_epochs: 3" in (run / "config.yaml").read_text()
    assert_refused(call(efficientnet.main, "--resume", run, "--epochs", "1"), "max_epochs=1")
    assert "max_epochs: 3" in (run / "config.yaml").read_text()
