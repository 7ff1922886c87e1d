"""Options read with the task that the data needs, without a training step."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dlrecipes.cli import Recipe, TaskChoice
from dlrecipes.cli.options.arguments import read_arguments
from dlrecipes.cli.options.kinds import common_base, read_options
from dlrecipes.cli.options.parser import RecipeCLI
from dlrecipes.errors import UserError

NAME = "my_project_of_kinds"

CODE = """
from types import SimpleNamespace

from lightning.pytorch import LightningDataModule

from dlrecipes.tasks import ClassificationTask, RegressionTask


class Data(LightningDataModule):
    reads = 0

    def __init__(self, kind: str = "classification") -> None:
        super().__init__()
        self.kind = kind

    def prepare_data(self) -> None:
        Data.reads += 1
        self.info = SimpleNamespace(task=self.kind)


class MyRegression(RegressionTask):
    pass


class MyClassification(ClassificationTask):
    pass
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recipe]:
    (tmp_path / f"{NAME}.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "configs").mkdir()
    preset = tmp_path / "configs" / "toy.yaml"
    preset.write_text("model: {lr: 0.5, loss: {label_smoothing: 0.1}}\n")
    model = "torch.nn.Flatten"
    yield Recipe(
        task="dlrecipes.tasks.ClassificationTask",
        data=f"{NAME}.Data",
        parts={"model": model, "loss": "dlrecipes.losses.CrossEntropyLoss"},
        by_data={
            "multilabel": TaskChoice(
                task="dlrecipes.tasks.ClassificationTask", parts={"model": model, "loss": "dlrecipes.losses.BCELoss"}
            ),
            "regression": TaskChoice(
                task="dlrecipes.tasks.RegressionTask", parts={"model": model, "loss": "dlrecipes.losses.SmoothL1Loss"}
            ),
        },
        links={},
        pictures=(),
        preset=preset,
        name="toy",
        description="",
        data_help="",
    )
    sys.modules.pop(NAME, None)


def read(recipe: Recipe, *argv: str) -> RecipeCLI:
    return read_options(recipe, read_arguments(argv, recipe.preset))


def chosen(cli: RecipeCLI) -> tuple[str, str]:
    task: Any = cli.model
    return type(task).__name__, type(task.loss).__name__


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("classification", ("ClassificationTask", "CrossEntropyLoss")),
        ("multilabel", ("ClassificationTask", "BCELoss")),
        ("regression", ("RegressionTask", "SmoothL1Loss")),
    ],
)
def test_task_and_loss_follow_the_data(kind: str, wanted: tuple[str, str], recipe: Recipe) -> None:
    """Though the preset sets an argument that SmoothL1Loss does not have; what holds for all kinds is kept."""
    cli = read(recipe, "--data.kind", kind)
    assert chosen(cli) == wanted
    assert cli.model.lr == 0.5
    assert type(cli.datamodule).reads == 1
    if kind == "multilabel":
        assert cli.model.loss.label_smoothing == 0.1


def test_what_the_user_names_stays(recipe: Recipe) -> None:
    argv = ["--data.kind", "regression"]
    loss = ["--model.loss", "dlrecipes.losses.HuberLoss", "--model.loss.delta", "2"]
    assert chosen(read(recipe, *argv, *loss)) == ("RegressionTask", "HuberLoss")
    assert chosen(read(recipe, *argv, "--model", f"{NAME}.MyRegression")) == ("MyRegression", "SmoothL1Loss")
    mine = ["--model", f"{NAME}.MyClassification"]
    assert chosen(read(recipe, *mine)) == ("MyClassification", "CrossEntropyLoss")
    assert chosen(read(recipe, *mine, "--data.kind", "multilabel")) == ("MyClassification", "BCELoss")


def test_a_users_config_goes_before_what_the_data_wants(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model: {loss: {class_path: dlrecipes.losses.L1Loss}}\n")
    for configs in (["--config", str(file)], ["--config", "toy", "--config", str(file)]):
        assert chosen(read(recipe, *configs, "--data.kind", "regression")) == ("RegressionTask", "L1Loss")


def test_the_config_of_a_run_makes_the_same_run(recipe: Recipe, tmp_path: Path) -> None:
    """As --resume gives it: nothing is left to default."""
    first = read(recipe, "--data.kind", "regression", "--model.loss.beta", "0.25")
    file = tmp_path / "config.yaml"
    file.write_text(first.dump())
    again = read(recipe, "--config", str(file))
    assert again.dump() == first.dump()
    assert again.model.loss.beta == 0.25


def test_arguments_of_the_loss_that_the_data_wants(recipe: Recipe) -> None:
    assert read(recipe, "--data.kind", "regression", "--model.loss.beta", "0.25").model.loss.beta == 0.25
    with pytest.raises(UserError, match=r"There is no option --model\.loss\.beta\."):
        read(recipe, "--data.kind", "classification", "--model.loss.beta", "0.25")


def test_a_wrong_option_is_refused_before_the_data_is_read(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"There is no option --model\.lrr\. Did you mean --model\.lr\?"):
        read(recipe, "--model.lrr", "1")
    assert sys.modules[NAME].Data.reads == 0


def test_a_task_of_ones_own_derives_from_what_the_recipes_tasks_share(recipe: Recipe) -> None:
    assert common_base(recipe).__name__ == "ImageTask"
    with pytest.raises(
        UserError, match=r"--model needs a subclass of ImageTask, which dlrecipes\.tasks\.DetectionTask"
    ):
        read(recipe, "--model", "dlrecipes.tasks.DetectionTask")


def test_a_short_flag_of_another_class_names_the_class_that_was_chosen(recipe: Recipe) -> None:
    """--smooth is the cross entropy's, and the user has taken another loss."""
    argv = ["--smooth", "0.1", "--model.loss", "dlrecipes.losses.L1Loss"]
    arguments = read_arguments(argv, recipe.preset, aliases={"--smooth": "--model.loss.label_smoothing"})
    with pytest.raises(UserError) as caught:
        read_options(recipe, arguments)
    assert str(caught.value).startswith("--smooth sets --model.loss.label_smoothing, which L1Loss does not take")


def test_a_presets_rate_is_for_the_presets_optimizer(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    cli = read(recipe, "--model.optimizer", "sgd")
    assert (cli.model.optimizer, cli.model.lr) == ("sgd", None)
    assert capsys.readouterr().out == (
        "The learning rate of sgd is its usual 0.1: the preset's 0.5 is for adamw, and --lr sets another.\n"
    )
