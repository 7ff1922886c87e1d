from pathlib import Path

import pytest

from dlrecipes.checkpoint_io import save_checkpoint_file
from dlrecipes.cli.options.arguments import preset_names, read_arguments, suggest
from dlrecipes.errors import UserError


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    for name in ("detr_fast", "detr_paper"):
        (tmp_path / "configs").mkdir(exist_ok=True)
        (tmp_path / "configs" / f"{name}.yaml").write_text("trainer: {max_epochs: 1}\n")
    return tmp_path / "configs" / "detr_fast.yaml"


def test_default_preset_comes_first(preset: Path) -> None:
    assert read_arguments([], preset).argv == ("--config", str(preset))


def test_short_names_become_full_names(preset: Path) -> None:
    argv = ["--data", "here", "--batch-size=3", "--lr", "1e-3", "--seed=5", "--devices", "2", "--model.x.y_z", "1"]
    assert read_arguments(argv, preset).argv[2:] == (
        *("--data.path", "here", "--data.batch_size", "3", "--model.lr", "1e-3", "--seed_everything", "5"),
        *("--trainer.devices", "2", "--model.x.y_z", "1"),
    )


def test_negative_and_option_like_values_belong_to_their_option(preset: Path) -> None:
    assert read_arguments(["--trainer.max_steps", "-1"], preset).argv[2:] == ("--trainer.max_steps", "-1")


def test_a_class_stands_before_its_arguments(preset: Path) -> None:
    argv = ["--x.y.width", "3", "--lr", "1", "--x.y", "Net", "--x", "Task", "--print_config"]
    assert read_arguments(argv, preset).argv[2:] == (
        *("--x", "Task", "--x.y", "Net", "--x.y.width", "3", "--model.lr", "1", "--print_config"),
    )


def test_presets_by_name_or_path_layer_in_order_before_every_override(preset: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("{}")
    paper = preset.with_stem("detr_paper")
    read = read_arguments(["--epochs", "2", "--config", "detr_paper", "-c", str(own)], preset)
    assert read.argv == ("--config", str(paper), "--config", str(own), "--trainer.max_epochs", "2")


def test_resume_takes_the_config_of_the_run(preset: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "detr-1"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    checkpoint = run / "checkpoints" / "last.ckpt"
    checkpoint.touch()
    for target in (run, checkpoint):
        read = read_arguments(["--resume", str(target), "--epochs", "9"], preset)
        assert read.resume == target
        assert read.argv == ("--config", str(run / "config.yaml"), "--trainer.max_epochs", "9")


@pytest.mark.parametrize(
    ("argv", "wanted"), [(["-h"], "short"), (["--help"], "short"), (["--help-all"], "all"), ([], "")]
)
def test_help(argv: list[str], wanted: str, preset: Path) -> None:
    assert read_arguments(argv, preset).help == wanted


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs"], "--epochs needs a value"),
        (["nowhere"], "'nowhere' belongs to no option"),
        (["--config", "detr_papr"], "Did you mean detr_paper?"),
        (["--resume", "runs/none"], "'runs/none' does not exist"),
    ],
)
def test_one_sentence_for_what_cannot_be_used(argv: list[str], message: str, preset: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_arguments(argv, preset)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_forgotten_data_option_is_suggested(preset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Did you mean --data "):
        read_arguments([str(tmp_path)], preset)


def test_a_resumed_run_asks_for_no_other_weights(preset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    model = "{class_path: DETR, init_args: {pretrained_backbone: true}}"
    (run / "config.yaml").write_text(f"model: {{init_args: {{init: weights.pth, model: {model}}}}}\n")
    argv = read_arguments(["--resume", str(run), "--lr", "1"], preset).argv
    assert argv[2:] == ("--model.model.pretrained_backbone", "false", "--model.init", "null", "--model.lr", "1")


def test_a_resumed_run_keeps_what_its_weights_had_decided(preset: Path, tmp_path: Path) -> None:
    """Without the pretrained weights, the model could not know their mean and std again."""
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    args = {"pretrained": False, "normalisation": [[0.5], [0.25]], "stride": 32, "width": 8, "name": None}
    record = {"task": {"init_args": {"model": {"class_path": "Net", "init_args": args}}}}
    save_checkpoint_file({"state_dict": {}, "dlrecipes": record}, checkpoints / "last.ckpt")
    config = "{pretrained: package, normalisation: null, stride: null, width: 4, name: null}"
    for text, more in ((config, ("--model.model.pretrained", "false")), (config.replace("package", "false"), ())):
        (tmp_path / "run" / "config.yaml").write_text(f"model: {{init_args: {{model: {{init_args: {text}}}}}}}\n")
        if more:
            decided = ("--model.model.normalisation", "[[0.5], [0.25]]", "--model.model.stride", "32")
            more = (*more, *decided)
        assert read_arguments(["--resume", str(tmp_path / "run")], preset).argv[2:] == more


def test_resume_of_a_folder_that_is_no_run(preset: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    with pytest.raises(UserError, match="holds no checkpoint"):
        read_arguments(["--resume", str(tmp_path / "run")], preset)
    (checkpoints / "last.ckpt").touch()
    with pytest.raises(UserError, match=r"config\.yaml is missing"):
        read_arguments(["--resume", str(tmp_path / "run")], preset)


def test_suggestion_finds_a_name_without_its_namespace() -> None:
    known = ["--model.model.num_queries", "--trainer.max_epochs"]
    assert suggest("--num_queries", known) == " Did you mean --model.model.num_queries?"
    assert suggest("--zzz", known) == ""


def test_embedded_data_has_a_preset_of_its_own(preset: Path) -> None:
    embedded = preset.with_stem("detr_paper")
    assert read_arguments([], preset, embedded=embedded).argv == ("--config", str(embedded))
    for given in (["--data", "here"], ["--data.path=here"], ["--data.class_path", "my.Data"]):
        assert read_arguments(given, preset, embedded=embedded).argv[1] == str(preset)
    assert read_arguments(["--config", "detr_fast"], preset, embedded=embedded).argv == ("--config", str(preset))


def test_short_names_of_a_recipe(preset: Path) -> None:
    read = read_arguments(["--image-size", "32", "--lr=1"], preset, aliases={"--image_size": "--data.image_size"})
    assert read.argv[2:] == ("--data.image_size", "32", "--model.lr", "1")
    assert read.short["--image_size"] == "--data.image_size"
    assert read.short["--lr"] == "--model.lr"


def test_presets_are_those_of_the_same_family(preset: Path) -> None:
    (preset.parent / "mixer.yaml").touch()
    assert preset_names(preset) == ["detr_fast", "detr_paper"]
    assert preset_names(preset.parent / "mixer.yaml") == ["mixer"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("--learning_rate", "--lr"), ("--learning-rate", "--lr"), ("--imgsz", "--image_size"), ("--bs", "--batch_size")],
)
def test_names_of_other_programs_are_understood(typed: str, meant: str) -> None:
    known = ["--lr", "--image_size", "--batch_size", "--model.lr", "--data.batch_size"]
    assert suggest(typed, known) == f" Did you mean {meant}?"
    assert meant not in suggest(typed, ["--epochs"])


def test_a_name_that_begins_as_typed_goes_before_one_that_looks_alike() -> None:
    assert suggest("logit", ["list", "logit_adjust", "none"]) == " Did you mean logit_adjust?"
