"""Files for other programs: the same answers, any batch, and what is needed to use them inside."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.models import DETR, EfficientNet, MLPMixer, TimmClassifier
from dlrecipes.models.deploy import deploy
from dlrecipes.runs import export
from dlrecipes.runs.export import export_module

HAS_ONNX = all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
NEEDS_ONNX = pytest.mark.skipif(not HAS_ONNX, reason="pip install 'dlrecipes[export]'")
INFO = DataInfo(
    task="classification",
    classes=("cat", "dög", "emu"),
    category_ids=(0, 1, 2),
    class_counts=(1, 1, 1),
    num_train=3,
    max_objects=2,
    image_size=32,
    crop_fraction=0.875,
)
REGRESSION = replace(
    INFO,
    task="regression",
    classes=(),
    target_names=("height", "width"),
    target_mean=(100.0, -3.0),
    target_std=(20.0, 0.5),
    outputs_per_target=2,
)


def efficientnet() -> tuple[nn.Module, DataInfo]:
    """The blocks of one in a small network of timm's."""
    return TimmClassifier("test_efficientnet"), INFO


def efficientnet_b0() -> tuple[nn.Module, DataInfo]:
    return EfficientNet("b0", drop_path_rate=0.2), INFO


def mixer() -> tuple[nn.Module, DataInfo]:
    return MLPMixer("small", blocks=2), replace(INFO, task="multilabel")


def tempered() -> tuple[nn.Module, DataInfo]:
    """Its λ is found by Newton's method, step by step in the file."""
    return TimmClassifier("test_resnet"), replace(INFO, link="tempered:1.4")


def regressor() -> tuple[nn.Module, DataInfo]:
    return TimmClassifier("test_resnet"), REGRESSION


def detector() -> tuple[nn.Module, DataInfo]:
    model = DETR("test_resnet", 3, 7, pretrained_backbone=False, hidden_dim=32, num_heads=4, encoder_layers=0,
                 decoder_layers=1, feedforward_dim=32, queries="two_stage", cross_attention="in_box",
                 class_head="sigmoid", feature_stride=16)  # fmt: skip
    return model, replace(INFO, task="detection", image_size=64)


def answers(path: Path, images: Tensor) -> list[Tensor]:
    """What a program without this project gets from the file."""
    if path.suffix == ".pt2":
        found = torch.export.load(path).module()(images)
        return list(found) if isinstance(found, tuple) else [found]
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(np.asarray(value)) for value in session.run(None, {"images": images.numpy()})]


@pytest.mark.parametrize(
    ("make", "format"),
    [
        pytest.param(efficientnet, "onnx", marks=NEEDS_ONNX),
        pytest.param(mixer, "onnx", marks=NEEDS_ONNX),
        (mixer, "torch"),
        (regressor, "torch"),
        (tempered, "torch"),
        pytest.param(tempered, "onnx", marks=NEEDS_ONNX),
        pytest.param(detector, "onnx", marks=NEEDS_ONNX),
        pytest.param(regressor, "onnx", marks=[NEEDS_ONNX, pytest.mark.slow]),
        pytest.param(detector, "torch", marks=pytest.mark.slow),
        pytest.param(efficientnet_b0, "onnx", marks=[NEEDS_ONNX, pytest.mark.slow]),
        pytest.param(efficientnet_b0, "torch", marks=pytest.mark.slow),
    ],
)
def test_the_file_answers_as_the_network_for_any_batch(make: Any, format: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, info = make()
    model.bind(info)
    exported = export_module(model, info, tmp_path / f"model{export.EXPORT_FORMATS[format]}", format=format)
    assert exported.difference < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == [exported.path.name]
    for batch in (1, 5):
        images = torch.randint(0, 256, (batch, 3, info.image_size, info.image_size), dtype=torch.uint8)
        with torch.no_grad():
            expected = deploy(model, info)(images)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for value, found in zip(expected, answers(exported.path, images), strict=True):
            assert torch.allclose(value, found, rtol=1e-3, atol=1e-4)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))


def check_description(values: dict[str, str]) -> None:
    assert json.loads(values["classes"]) == ["cat", "dög", "emu"]
    assert json.loads(values["image_size"]) == [32, 32]
    assert values["task"] == "classification"
    assert "uint8 [batch, 3, 32, 32], RGB" in values["input"]
    assert "image_size / 0.875 rounded down, 36, by Pillow's BICUBIC" in values["input"]  # bilinear is .1 away
    assert list(json.loads(values["outputs"])) == ["probabilities"]


@NEEDS_ONNX
def test_onnx_says_what_it_is(tmp_path: Path) -> None:
    import onnx

    model = onnx.load(export_module(linear(), INFO, tmp_path / "model.onnx").path)
    check_description({entry.key: entry.value for entry in model.metadata_props})
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, 32, 32]
    assert [output.name for output in model.graph.output] == ["probabilities"]


def test_pt2_says_what_it_is(tmp_path: Path) -> None:
    path = export_module(linear(), INFO, tmp_path / "model.pt2", format="torch").path
    files = {"dlrecipes.json": ""}
    torch.export.load(path, extra_files=files)
    check_description(json.loads(files["dlrecipes.json"]))


def test_a_tasks_predictions_are_what_the_file_answers(tmp_path: Path) -> None:
    """The targets' scale is the task's, which is no part of the network."""
    from dlrecipes.tasks import RegressionTask

    task = RegressionTask(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), nn.HuberLoss())
    task.info = REGRESSION
    task.configure_model()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    path = tmp_path / "model.pt2"
    export_module(task.model, task.info, path, format="torch", answer=task.predictions)
    with torch.no_grad():
        assert torch.allclose(answers(path, images)[0], task.predictions(task(images)), rtol=1e-4)


@pytest.mark.parametrize("format", ["torch", pytest.param("onnx", marks=NEEDS_ONNX)])
def test_one_label_under_a_sigmoid_loss(format: str, tmp_path: Path) -> None:
    """The task says in its info what the loss was learning, so that the file is right without ``answer``, too."""
    from dlrecipes.losses import BCELoss
    from dlrecipes.tasks import ClassificationTask

    task = ClassificationTask(linear(), BCELoss())
    task.info = INFO
    task.configure_model()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    path = export_module(task.model, task.info, tmp_path / f"m{export.EXPORT_FORMATS[format]}", format=format).path
    with torch.no_grad():
        logits = task(images)
        found = answers(path, images)[0]
        torch.testing.assert_close(found, task.predictions(logits), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found, logits.sigmoid() / logits.sigmoid().sum(1, keepdim=True), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.sum(1), torch.ones(3))


def test_images_need_not_be_square(tmp_path: Path) -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    path = export_module(network, INFO, tmp_path / "model.pt2", format="torch", image_size=(8, 12)).path
    assert answers(path, torch.zeros(2, 3, 8, 12, dtype=torch.uint8))[0].shape == (2, 3)


class Wavering(nn.Module):
    """Gives other answers every time."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.randn(images.shape[0], 3)


class Asking(nn.Module):
    """Decides by the images' values."""

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3))
        return means if bool((means.sum() > 0).item()) else -means


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Wavering(), r"Wavering gives other answers as torch .*model\.pt2 was not written"),
        (Asking(), r"Asking cannot be exported by torch\.export: \S+"),
    ],
)
def test_what_cannot_be_exported_leaves_no_file(network: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as raised:
        export_module(network, INFO, tmp_path / "model.pt2", format="torch")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnx, onnxruntime, onnxscript: pip install 'dlrecipes\[export\]'"):
        export_module(linear(), INFO, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "tflite"}, r"format='tflite': choose one of onnx, torch"),
        ({"format": "torch", "path": "model.onnx"}, r"model\.onnx: a file of format torch ends in \.pt2"),
        ({"info": replace(INFO, image_size=0)}, r"image size is not known \(0 × 0\)"),
        ({"model": nn.Linear(2, 2, device="meta")}, r"Linear is on meta: move it to the CPU first"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    args: dict[str, Any] = {"model": linear(), "info": INFO, "path": "model.pt2", "format": "torch"} | arguments
    args["path"] = tmp_path / args["path"]
    with pytest.raises(ValueError, match=message):
        export_module(args.pop("model"), args.pop("info"), args.pop("path"), **args)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"taken.model\.pt2 cannot be written \(.*\): give another path"):
        export_module(linear(), INFO, tmp_path / "taken" / "model.pt2", format="torch")
