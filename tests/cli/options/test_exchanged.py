"""A class that takes another's place has its own defaults, unless something else was asked for."""

import importlib
from pathlib import Path

import pytest

from dlrecipes.cli.options.arguments import read_arguments
from dlrecipes.cli.options.parser import RecipeCLI

PRESET = "model: {criterion: {class_path: my_small_project.Loss}}"


@pytest.fixture
def more_losses(user_project: str, tmp_path: Path) -> str:
    with (tmp_path / f"{user_project}.py").open("a") as file:
        file.write(
            "\n\nclass Sharper(nn.Module):\n"
            "    def __init__(self, gamma: float = 4.0, scale: float = 1.0) -> None:\n"
            "        super().__init__()\n"
            "        self.gamma = gamma\n"
        )
    return user_project


def gamma(project: str, tmp_path: Path, *argv: str, preset: str = PRESET) -> float:
    user = importlib.import_module(project)
    file = tmp_path / "preset.yaml"
    file.write_text(preset)
    cli = RecipeCLI(user.Task, user.Data, read_arguments(argv, file).argv, {"criterion": f"{project}.Loss"})
    return cli.model.criterion.gamma


@pytest.mark.parametrize(
    "argv",
    [
        ("--model.criterion", "my_small_project.Sharper"),
        ("--model.criterion.class_path", "my_small_project.Sharper"),
        ("--model.init_args.criterion", "{class_path: my_small_project.Sharper, init_args: {scale: 2}}"),
        ("--model", "{class_path: my_small_project.Task, init_args: {criterion: my_small_project.Sharper}}"),
    ],
)
def test_a_default_does_not_outlive_its_class(argv: tuple[str, ...], more_losses: str, tmp_path: Path) -> None:
    assert gamma(more_losses, tmp_path) == 2
    assert gamma(more_losses, tmp_path, *argv) == 4


def test_a_later_config_exchanges_the_class_too(more_losses: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: {init_args: {criterion: {class_path: my_small_project.Sharper}}}")
    both = ["--config", str(tmp_path / "preset.yaml"), "--config", str(mine)]
    (tmp_path / "preset.yaml").write_text(PRESET)
    assert gamma(more_losses, tmp_path, *both) == 4


def test_what_was_asked_for_is_kept(more_losses: str, tmp_path: Path) -> None:
    new = ("--model.criterion", "my_small_project.Sharper")
    preset = "model: {criterion: {class_path: my_small_project.Loss, init_args: {gamma: 3}}}"
    assert gamma(more_losses, tmp_path, *new, preset=preset) == 3
    assert gamma(more_losses, tmp_path, *new, "--model.criterion.gamma", "2") == 2
    word = "{class_path: my_small_project.Sharper, init_args: {gamma: 2}}"
    assert gamma(more_losses, tmp_path, "--model.criterion", word) == 2
