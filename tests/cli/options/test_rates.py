"""A preset's learning rate goes with the preset's optimizer."""

from dataclasses import replace
from pathlib import Path

import pytest

from dlrecipes.cli.options.arguments import read_arguments
from dlrecipes.cli.options.rates import settle_rate

TASK = "dlrecipes.tasks.ClassificationTask"


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    file = tmp_path / "toy.yaml"
    file.write_text("model: {optimizer: adamw, lr: 2e-3}\n")
    return file


def added(preset: Path, *argv: str) -> list[str]:
    before = read_arguments(argv, preset)
    return [*settle_rate(before, TASK)[0].argv[len(before.argv) :]]


@pytest.mark.parametrize(
    ("argv", "rate"),
    [
        (["--model.optimizer", "adadelta"], "1"),
        (["--model.optimizer=muon"], "0.001"),
        (["--model.init_args.optimizer", "lion"], "0.0002"),
        (["--model.optimizer", "torch.optim.NAdam", "--epochs", "3"], "0.001"),
        (["--model", f"{{class_path: {TASK}, init_args: {{optimizer: sgd}}}}"], "0.1"),
    ],
)
def test_another_optimizer_has_its_own(argv: list[str], rate: str, preset: Path) -> None:
    arguments, said = settle_rate(read_arguments(argv, preset), TASK)
    assert arguments.argv[-2:] == ("--model.lr", "null")
    assert f"is its usual {rate}: the preset's 2e-3 is for adamw, and --lr sets another." in said


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--lr", "0.1"],
        ["--model.optimizer", "adamw"],
        ["--model.optimizer", "torch.optim.AdamW"],
        ["--model.optimizer", "sgd", "--lr", "0.1"],
        ["--model.lr", "0.1", "--model.optimizer", "sgd"],
        ["--model", "my_project.Missing", "--model.optimizer", "sgd"],  # the parser says it better
        ["--model", "torch.nn.Flatten", "--model.optimizer", "sgd"],  # has no such arguments
    ],
)
def test_what_is_left_alone(argv: list[str], preset: Path) -> None:
    assert added(preset, *argv) == []
    assert settle_rate(read_arguments(argv, preset), TASK)[1] == ""


def test_a_resumed_run_is_left_alone(preset: Path) -> None:
    arguments = replace(read_arguments(["--model.optimizer", "sgd"], preset), resume=Path("runs/toy-001"))
    assert settle_rate(arguments, TASK) == (arguments, "")


def test_a_later_config_counts_as_typed(preset: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    both = ["--config", str(preset), "--config", str(mine)]
    mine.write_text(f"model: {{class_path: {TASK}, init_args: {{optimizer: sgd}}}}\n")
    assert added(preset, *both) == ["--model.lr", "null"]
    mine.write_text("model: {optimizer: sgd, lr: 0.05}\n")
    assert added(preset, *both) == []
    assert added(preset, *both, "--model.optimizer", "lion") == ["--model.lr", "null"]
    mine.write_text("model: {lr: 0.05}\n")
    assert added(preset, *both) == []
    mine.write_text("model: {optimizer: {class_path: torch.optim.SGD}}\n")  # the parser says that it wants a name
    assert added(preset, *both) == ["--model.lr", "null"]


def test_a_backbone_keeps_its_share_and_arguments_go_with_their_optimizer(preset: Path) -> None:
    preset.write_text("model: {optimizer_args: {fused: true}, lr: 1e-4, backbone_lr: 1e-5}\n")
    words = ["--model.lr", "null", "--model.backbone_lr", "0.01"]
    assert added(preset, "--model.optimizer", "sgd") == [*words, "--model.optimizer_args", "null"]
    own = ["--model.optimizer_args.momentum", "0.5", "--model.backbone_lr", "0.1"]
    assert added(preset, "--model.optimizer", "sgd", *own) == words[:2]
    said = settle_rate(read_arguments(["--model.optimizer", "sgd"], preset), TASK)[1]
    assert said == (
        "The learning rate of sgd is its usual 0.1, and 0.1 of it for the backbone, as the preset has it for adamw; "
        "optimizer_args of adamw are left out."
    )
