"""``dlrecipes describe``: networks by name, by import path and by run."""

from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from PIL import Image
from torch import nn

from dlrecipes.cli.actions.describe import find_model
from dlrecipes.cli.commands import main
from dlrecipes.contracts import DataInfo
from dlrecipes.nn import StagedNet
from dlrecipes.tasks import ClassificationTask

SMALL = ["--set", "depth=[1,1]", "--set", "width=[4,8]", "--set", "early_pool=false"]
INFO = DataInfo(
    task="classification",
    classes=("a", "b"),
    category_ids=(0, 1),
    class_counts=(1, 1),
    num_train=2,
    max_objects=0,
    image_size=24,
)


def test_an_import_path_with_arguments_and_advice(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["describe", "dlrecipes.nn.StagedNet", *SMALL, "--image-size", "32", "--objects", "1", "60"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "StagedNet for an image of 32x32 pixels" in out
    assert "receptive field 13 pixels, stride 2 (last)" in out
    assert "stages.1.0.branch.conv1  Conv2d 3x3 /2" in out  # on one line
    assert "field smaller than the objects" in out


def test_a_timm_name_takes_timms_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "test_resnet", "--set", "num_classes=3"]) == 0
    assert "ResNet for an image of 160x160 pixels" in capsys.readouterr().out


def test_the_picture_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "field.png"
    argv = ["describe", "dlrecipes.nn.StagedNet", *SMALL, "--image-size", "32", "--picture", str(target)]
    assert main(argv) == 0
    with Image.open(target) as image:
        assert image.width > 1000
    assert "68 % of what counts lies within" in capsys.readouterr().out


def test_a_checkpoint_brings_its_size(tmp_path: Path) -> None:
    task = ClassificationTask(StagedNet((1, 1), (4, 8), early_pool=False))
    task.info = INFO
    task.bind(INFO)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(task)
    path = tmp_path / "best.ckpt"
    trainer.save_checkpoint(path)
    found, size = find_model(str(path))
    assert isinstance(found, StagedNet)
    assert (found.num_outputs, size) == (2, 24)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["resnet1"], "'resnet1' is not a timm model: did you mean resnet18"),
        (["dlrecipes.nn.StagedNett"], "cannot import 'dlrecipes.nn.StagedNett'"),
        (["dlrecipes.nn.StagedNet", "--set", "dept=3"], "cannot be made with {'dept': 3}"),
        (
            ["torch.nn.MultiheadAttention", "--set", "embed_dim=5", "--set", "num_heads=2"],
            "cannot be made with {'embed_dim': 5, 'num_heads': 2}: embed_dim must be divisible",
        ),
        (["dlrecipes.nn.StagedNet", "--set", "depth"], "--set depth: NAME=VALUE is needed"),
        (["dlrecipes.nn.StagedNet", "--set", "depth=[1"], "'[1' is not YAML"),
        (
            ["dlrecipes.nn.compare_kernels", "--set", "in_channels=1", "--set", "out_channels=1", "--set", "n=3"],
            "a list",
        ),
        (["resnet18", "--image-size", "0"], "--image-size 0"),
        (["resnet18", "--objects", "3", "-1"], "--objects -1"),
        (["no/run"], "no/run"),
        (["no/run", "--set", "depth=3"], "--set depth=3: no/run is trained"),
    ],
)
def test_one_sentence_and_exit_code_2(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_detector_is_described_too(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["describe", "dlrecipes.models.DETR", "--set", "pretrained_backbone=false", "--set", "backbone=resnet18"]
    assert main([*argv, "--image-size", "64"]) == 0
    assert "whole image from transformer.encoder.layers.0.self_attn (MultiheadAttention) on" in capsys.readouterr().out


def test_find_model_makes_a_network() -> None:
    found, size = find_model("torch.nn.Identity")
    assert isinstance(found, nn.Identity)
    assert size is None
