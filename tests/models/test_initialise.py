"""Starting from another model's weights."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dlrecipes.checkpoint_io import save_checkpoint_file
from dlrecipes.errors import CheckpointError
from dlrecipes.models import DETR, TimmClassifier
from dlrecipes.models.initialise import initialise


def make(classes: int, seed: int, **changes: object) -> DETR:
    torch.manual_seed(seed)
    args = {"hidden_dim": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 1, "feedforward_dim": 32}
    return DETR("test_resnet", num_classes=classes, pretrained_backbone=False, **(args | changes))


def test_class_rows_follow_their_names(tmp_path: Path) -> None:
    source, target = make(3, seed=1), make(4, seed=2)
    start = target.class_embed.weight.clone()
    file = tmp_path / "ours.ckpt"
    state = {f"model.{k}": v for k, v in source.state_dict().items()}
    save_checkpoint_file({"state_dict": state, "dlrecipes": {"info": {"classes": ["cat", "dog", "cow"]}}}, file)
    report = initialise(target, file, classes=["dog", "emu", "cat", "fox"])
    weight = target.class_embed.weight
    assert torch.equal(weight[0], source.class_embed.weight[1])
    assert torch.equal(weight[2], source.class_embed.weight[0])
    assert torch.equal(weight[-1], source.class_embed.weight[-1])  # no-object
    assert torch.equal(weight[[1, 3]], start[[1, 3]])
    assert torch.equal(target.query_embed.weight, source.query_embed.weight)
    assert report.classes == ["class_embed.weight 2 of 4", "class_embed.bias 2 of 4"]
    assert len(report.taken) == len(source.state_dict()) - 2
    assert "class rows copied by name" in str(report)


def test_official_coco_rows_are_known_by_name(tmp_path: Path) -> None:
    source, target = make(91, seed=1), make(2, seed=2)
    file = tmp_path / "official.pth"
    save_checkpoint_file({"model": source.state_dict()}, file)
    initialise(target, file, classes=["zebra", "person"])
    assert torch.equal(target.class_embed.weight[0], source.class_embed.weight[24])  # COCO's id of zebra
    assert torch.equal(target.class_embed.weight[1], source.class_embed.weight[1])


def test_other_shapes_are_left_and_named(tmp_path: Path) -> None:
    source, target = make(3, seed=1, num_queries=5), make(3, seed=2, num_queries=6)
    start = target.query_embed.weight.clone()
    file = tmp_path / "official.pth"
    save_checkpoint_file(source.state_dict(), file)
    report = initialise(target, file, classes=["a", "b", "c"])
    assert torch.equal(target.query_embed.weight, start)
    assert report.other_shape == ["query_embed.weight (5, 32) → (6, 32)"]


def test_nothing_that_fits_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    save_checkpoint_file(nn.Linear(2, 2).state_dict(), file)
    with pytest.raises(CheckpointError, match=r"no weight of .*other\.pth fits DETR"):
        initialise(make(3, seed=1), file, classes=["a", "b", "c"])


def test_a_file_of_something_else_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "numbers.pth"
    save_checkpoint_file({"epoch": 3}, file)
    with pytest.raises(CheckpointError, match="holds no weights"):
        initialise(make(3, seed=1), file, classes=["a", "b", "c"])


def save_run(model: nn.Module, classes: list[str], file: Path) -> None:
    """As a task writes it."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    save_checkpoint_file({"state_dict": state, "dlrecipes": {"info": {"classes": classes}}}, file)


def test_a_classifiers_rows_follow_their_names_too(tmp_path: Path) -> None:
    source, target = TimmClassifier("test_resnet", num_outputs=3), TimmClassifier("test_resnet", num_outputs=2)
    start = target.net.fc.weight.clone()
    save_run(source, ["cat", "dog", "cow"], tmp_path / "run.ckpt")
    report = initialise(target, tmp_path / "run.ckpt", classes=["emu", "cow"])
    assert torch.equal(target.net.fc.weight[1], source.net.fc.weight[2])
    assert torch.equal(target.net.fc.weight[0], start[0])
    assert torch.equal(target.net.conv1[0].weight, source.net.conv1[0].weight)
    assert report.classes == ["net.fc.weight 1 of 2", "net.fc.bias 1 of 2"]


def test_a_classifiers_body_starts_a_regressor_whose_head_stays(tmp_path: Path) -> None:
    source, target = TimmClassifier("test_resnet", num_outputs=3), TimmClassifier("test_resnet", num_outputs=3)
    start = target.net.fc.weight.clone()
    save_run(source, ["cat", "dog", "cow"], tmp_path / "run.ckpt")
    report = initialise(target, tmp_path / "run.ckpt", classes=[])
    assert torch.equal(target.net.fc.weight, start)
    assert len(report.taken) == len(source.state_dict()) - 2


def test_weights_of_timm_start_the_network_around_them(tmp_path: Path) -> None:
    source, target = TimmClassifier("test_resnet", num_outputs=3), TimmClassifier("test_resnet", num_outputs=2)
    start = target.net.fc.weight.clone()
    save_checkpoint_file(source.net.state_dict(), tmp_path / "timm.pth")
    report = initialise(target, tmp_path / "timm.pth", classes=["a", "b"])
    assert torch.equal(target.net.conv1[0].weight, source.net.conv1[0].weight)
    assert torch.equal(target.net.fc.weight, start)
    assert report.other_shape[0] == "net.fc.weight (3, 96) → (2, 96)"
    assert not report.absent
