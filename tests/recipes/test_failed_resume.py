"""A resume that cannot work is one sentence, and leaves the run as it was."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_runs import assert_refused, call

from dlrecipes.checkpoint_io import load_checkpoint_file, save_checkpoint_file
from dlrecipes.cli.recipe.resume import compare_data
from dlrecipes.contracts import DataInfo


@pytest.fixture(autouse=True)
def blank_figures() -> None:
    """In this module files are compared byte by byte, among them pictures of a shared run."""


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


def test_data_that_has_changed_is_said(efficientnet: ModuleType, run: Path, photos: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(photos, tmp_path / "other"))
    sorted((other / "train").rglob("*.png"))[0].unlink()
    outcome = call(efficientnet.main, "--resume", run, "--data", other, "--epochs", "3")
    assert outcome.code == 0, outcome.err
    assert "warning: the data has changed since the run began (" in outcome.out
    for folder in list(other.glob("*/bar")):
        folder.rename(folder.with_name("beam"))
    before = (run / "config.yaml").read_bytes()
    outcome = call(efficientnet.main, "--resume", run, "--data", other, "--epochs", "4")
    assert_refused(outcome, "go on with the data that the run began with")
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({}, ""),
        ({"num_train": 9}, "9 training images, were 10"),
        ({"class_counts": (5, 5)}, "[5, 5] of the classes in training, were [4, 6]"),
        ({"pixel_mean": (0.5, 0.5, 0.4)}, "pixel_mean of the training split is 0.5, 0.5, 0.4, was 0.5, 0.5, 0.5"),
        ({"pixel_mean": (0.5, 0.5, 0.50001)}, ""),
    ],
)
def test_what_has_changed(now: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = DataInfo(
        task="classification",
        classes=("a", "b"),
        category_ids=(0, 1),
        class_counts=(4, 6),
        num_train=10,
        max_objects=0,
        image_size=8,
        pixel_mean=(0.5, 0.5, 0.5),
    )
    save_checkpoint_file({"dlrecipes": {"info": info.to_dict()}}, tmp_path / "last.ckpt")
    compare_data(tmp_path / "last.ckpt", replace(info, **now))
    printed = capsys.readouterr().out
    assert said in printed
    assert bool(printed) == bool(said)
