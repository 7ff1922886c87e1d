"""The options, with a user's own classes."""

import importlib
from pathlib import Path

import pytest

from dlrecipes.cli.options.arguments import ALIASES, read_arguments
from dlrecipes.cli.options.parser import RecipeCLI
from dlrecipes.errors import UserError


def parse(project: str, tmp_path: Path, *argv: str, preset: str = "{}") -> RecipeCLI:
    user = importlib.import_module(project)
    file = tmp_path / "preset.yaml"
    file.write_text(preset)
    return RecipeCLI(user.Task, user.Data, read_arguments(argv, file).argv)


def test_dotted_overrides_reach_nested_parts(user_project: str, tmp_path: Path) -> None:
    preset = f"model: {{lr: 0.5, model: {{class_path: {user_project}.Net, init_args: {{width: 3}}}}}}"
    cli = parse(user_project, tmp_path, "--model.model.num_queries", "7", "--batch-size", "2", preset=preset)
    assert (cli.model.model.num_queries, cli.model.model.width, cli.model.lr) == (7, 3, 0.5)
    assert cli.datamodule.batch_size == 2


def test_classes_by_import_path(user_project: str, tmp_path: Path) -> None:
    argv = ["--model", f"{user_project}.OtherTask", "--model.criterion", f"{user_project}.Loss"]
    cli = parse(user_project, tmp_path, *argv, "--model.criterion.gamma", "3")
    assert type(cli.model).__name__ == "OtherTask"
    assert cli.model.criterion.gamma == 3.0


@pytest.mark.parametrize(
    "spelt", ["model.criterion.class_weights", "model.init_args.criterion.init_args.class_weights"]
)
def test_null_reaches_an_argument_of_a_part(spelt: str, user_project: str, tmp_path: Path) -> None:
    loss = "criterion: {class_path: dlrecipes.losses.FocalLoss, init_args: {class_weights: inverse}}"
    argv = ["--model.criterion.gamma", "3", f"--{spelt}", "null", "--model.criterion.label_smoothing", ".1"]
    cli = parse(user_project, tmp_path, *argv, preset=f"model: {{{loss}}}")
    found = cli.model.criterion
    assert (found.class_weights, found.gamma, found.label_smoothing) == (None, 3.0, 0.1)
    argv = ["--model.criterion", "dlrecipes.losses.FocalLoss", "--model.criterion.class_weights", "null"]
    assert parse(user_project, tmp_path, *argv, preset=f"model: {{{loss}}}").model.criterion.class_weights is None


def test_hyper_parameters_are_primitive(user_project: str, tmp_path: Path) -> None:
    cli = parse(user_project, tmp_path, "--model.model", f"{user_project}.Net")
    assert cli.model.hparams["model"]["init_args"] == {"num_queries": 30, "width": 8}


def test_dumped_config_makes_the_same_run(user_project: str, tmp_path: Path) -> None:
    cli = parse(
        user_project, tmp_path, "--model.model", f"{user_project}.Net", "--model.model.width", "5", "--ema", ".9"
    )
    assert parse(user_project, tmp_path, preset=cli.dump()).dump() == cli.dump()
    assert "width: 5" in cli.dump()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epoch", "3"], "There is no option --epoch. Did you mean --epochs?"),
        (["--num_queries", "3"], "There is no option --num_queries. Did you mean --model.model.num_queries?"),
        (["--model.model.num_querys", "3"], "--model.model.num_querys. Did you mean --model.model.num_queries?"),
        (["--model.lrr", "3"], "There is no option --model.lrr. Did you mean --model.lr?"),
        (["--trainer.max_step", "3"], "There is no option --trainer.max_step. Did you mean --trainer.max_steps?"),
        (["--epochs", "many"], "--epochs must be int, not 'many'."),
        (["--model.model.width", "wide"], "--model.model.width must be int, not 'wide'."),
        (["--model.criterion", "focal"], "--model.criterion needs the import path of a class, which 'focal' is not."),
        (["--data.class_path", "images"], "--data.class_path needs the import path of a class"),
        (["--model.criterion", "nowhere.Loss"], "Cannot import nowhere.Loss (No module named 'nowhere')"),
        (["--model", "my_small_project.Tsk"], "Cannot import my_small_project.Tsk"),
        (["--model.model.width", "null"], "--model.model.width must be int, not null."),
        (["--model.model.widht", "null"], "There is no option --model.model.widht. Did you mean --model.model.width?"),
        (["--model.model.width", "0"], "width must be positive, got 0"),
        (["--wandb", "sometimes"], "--wandb must be 'auto', 'online', 'offline', 'off', not 'sometimes'."),
        (["--ema", "high"], "--ema must be float, not 'high'."),
        (["--trainer.precision", "17"], "'bf16-mixed'"),
        (["--model", "my_small_project.Net"], "--model needs a subclass of Task, which my_small_project.Net is not."),
    ],
)
def test_one_sentence_for_a_wrong_option(argv: list[str], message: str, user_project: str, tmp_path: Path) -> None:
    preset = f"model: {{model: {{class_path: {user_project}.Net}}}}"
    with pytest.raises(UserError) as caught:
        parse(user_project, tmp_path, *argv, preset=preset)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("model: [1", "preset.yaml is no valid YAML"),
        ("", "preset.yaml holds no options"),
        ("modell: {lr: 1}", "The config sets modell.lr, which does not exist. Did you mean model.lr?"),
        ("epochs: 3", "The config sets epochs, which does not exist. Did you mean trainer.max_epochs?"),
        ("model: {lrr: 1}", "The config sets lrr, which does not exist."),
    ],
)
def test_one_sentence_for_a_wrong_config(preset: str, message: str, user_project: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        parse(user_project, tmp_path, preset=preset)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_no_text_is_one_sentence(user_project: str, tmp_path: Path) -> None:
    (tmp_path / "cut.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cut\.yaml is no valid YAML") as caught:
        parse(user_project, tmp_path, "--config", str(tmp_path / "cut.yaml"))
    assert "\n" not in str(caught.value)


def test_every_short_name_stands_for_an_option_that_exists(user_project: str, tmp_path: Path) -> None:
    values = {"--data": "x", "--lr": "1", "--seed": "1", "--epochs": "1", "--devices": "1", "--batch_size": "1"}
    cli = parse(user_project, tmp_path, *(word for pair in values.items() for word in pair))
    assert values.keys() == ALIASES.keys() - {"-c"}
    assert cli.config["seed_everything"] == 1
