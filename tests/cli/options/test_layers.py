"""Who says what of a section."""

from pathlib import Path

import pytest

from dlrecipes.cli.options.layers import Layer, layers, opened, section_of


def test_all_words_stand_in_a_layer_in_their_order(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("model: {class_path: my.Task, init_args: {lr: 0.1, loss: my.Loss}}\ndata: {path: photos}\n")
    argv = ["--config", str(config), "--print_config", "--model.lr", "null", "--trainer.max_steps", "-1"]
    found = layers(argv, "model")
    assert found == [
        Layer(("--config", str(config)), {"class_path": "my.Task", "lr": 0.1, "loss": "my.Loss"}),
        Layer(("--print_config",), {}),
        Layer(("--model.lr", "null"), {"lr": None}),
        Layer(("--trainer.max_steps", "-1"), {}),
    ]
    assert [layer.is_config for layer in found] == [True, False, False, False]
    assert [word for layer in found for word in layer.words] == argv
    assert layers(argv, "data")[0].says == {"path": "photos"}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--model", "my.Task"], {"class_path": "my.Task"}),
        (["--model", "{class_path: my.Task, init_args: {lr: 1}}"], {"class_path": "my.Task", "lr": 1}),
        (["--model.class_path", "my.Task"], {"class_path": "my.Task"}),
        (["--model.loss", "my.Loss"], {"loss": "my.Loss"}),
        (["--model.init_args.loss.class_path", "my.Loss"], {"loss": {"class_path": "my.Loss"}}),
        (["--model.loss.init_args.gamma", "2"], {"loss": {"gamma": 2}}),
        (["--model.name", "[1"], {"name": "[1"}),
        (["--model.day", "2026-13-45"], {"day": "2026-13-45"}),
        (["--models", "my.Task"], {}),
    ],
)
def test_every_way_to_write_an_option(argv: list[str], says: dict[str, object]) -> None:
    assert layers(argv, "model")[0].says == says


@pytest.mark.parametrize(
    "text", ["model: [1", "model: [1]", "- model", "model:", "", "other: {}", "day: 2026-13-45", "\xff"]
)
def test_what_cannot_be_read_is_left_to_the_parser(text: str, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(text, encoding="latin-1")
    assert section_of(config, "model") == {}
    assert section_of(tmp_path / "none.yaml", "model") == {}


def test_arguments_beside_a_class_without_init_args() -> None:
    assert opened({"class_path": "my.Loss", "gamma": 2}) == {"class_path": "my.Loss", "gamma": 2}
    assert opened({"gamma": 2, "init_args": None}) == {"gamma": 2}
    assert opened([1]) == {}
