"""The data says whether images are sorted, tagged or measured; nobody names a task. By the real command line."""

import csv
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from tiny_runs import Outcome, call, rows

from dlrecipes.cli.commands import main as dlrecipes_command

Trained = tuple[Path, Outcome]


@pytest.fixture(autouse=True)
def blank_figures() -> None:
    """In this module, pictures of each kind of data are drawn."""


def parts(run: Path) -> tuple[str, str]:
    """Task and loss of a run, without their rooms."""
    task = yaml.safe_load((run / "config.yaml").read_text())["model"]
    return task["class_path"].rpartition(".")[2], task["init_args"]["loss"]["class_path"].rpartition(".")[2]


def test_a_column_of_numbers_is_regression(regressed: Trained) -> None:
    """With the recipe's own preset, whose loss is another one and has other arguments."""
    run, outcome = regressed
    assert outcome.code == 0, outcome.err
    assert "Preset mixer, since --config names no other; weights are random; 24 images to train on.\n" in outcome.out
    assert outcome.err == ""
    assert parts(run) == ("RegressionTask", "SmoothL1Loss")
    for text in ("(csv, regression, 1 target)", "best val/mae", "test: MAE"):
        assert text in outcome.out
    for name in ("scatter.png", "mistakes.png", "curves.png", "batch.png", "MODEL_CARD.md"):
        assert (run / name).stat().st_size > 0, name
    assert not (run / "confusion.png").exists()


def test_numbers_are_predicted_in_their_own_units(regressed: Trained, photos: Path, tmp_path: Path) -> None:
    run, _ = regressed
    outcome = call(dlrecipes_command, "predict", run, photos / "test", "--output", tmp_path)
    assert outcome.code == 0, outcome.err
    with (tmp_path / "predictions.csv").open() as file:
        predicted = {Path(row["path"]).name: float(row["size"]) for row in csv.DictReader(file)}
    with photos.with_name("sizes.csv").open() as file:
        true = {Path(row["image"]).name: float(row["size"]) for row in csv.DictReader(file)}
    (tested,) = [row for row in rows(run) if row["test/mae"]]
    error = np.mean([abs(value - true[name]) for name, value in predicted.items()])
    assert 990 < min(predicted.values()) <= max(predicted.values()) < 1040
    assert float(tested["test/mae"]) == pytest.approx(error, rel=1e-3)


def test_a_run_on_numbers_resumes(mixer: ModuleType, regressed: Trained, tmp_path: Path) -> None:
    run = shutil.copytree(regressed[0], tmp_path / "mixer-001")
    outcome = call(mixer.main, "--resume", run, "--epochs", 3)
    assert outcome.code == 0, outcome.err
    assert [row["epoch"] for row in rows(run) if row["val/mae"]] == ["0", "1", "2"]
    assert parts(run) == ("RegressionTask", "SmoothL1Loss")


def test_onnx_of_a_run_on_numbers_answers_in_their_units(regressed: Trained, photos: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from PIL import Image

    file = tmp_path / "best.onnx"
    outcome = call(dlrecipes_command, "export", regressed[0], "--format", "onnx", "--output", file)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert call(dlrecipes_command, "predict", regressed[0], photos / "test", "--output", tmp_path).code == 0
    results = json.loads((tmp_path / "predictions.json").read_text())
    images = np.stack([np.asarray(Image.open(row["path"])).transpose(2, 0, 1) for row in results])
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(answers[:, 0], [row["values"]["size"] for row in results], rtol=1e-5)


def test_three_quantiles_of_one_number(mixer: ModuleType, configs: Path, photos: Path, tmp_path: Path) -> None:
    argv = ["--config", configs / "mixer.yaml", "--data", photos.with_name("sizes.csv"), "--output", tmp_path]
    loss = ["--loss", "dlrecipes.losses.QuantileLoss", "--model.loss.quantiles", "[0.2, 0.5, 0.9]"]
    outcome = call(mixer.main, *argv, *loss)
    assert outcome.code == 0, outcome.err
    run = tmp_path / "mixer-001"
    assert parts(run) == ("RegressionTask", "QuantileLoss")
    weights = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert weights["model.net.head.weight"].shape[0] == 3
    assert call(dlrecipes_command, "predict", run, photos / "test").code == 0
    (result, *_) = json.loads((run / "predict-001" / "predictions.json").read_text())
    assert list(result["values"]) == ["size"]


def test_columns_of_flags_are_several_labels(mixer: ModuleType, configs: Path, photos: Path, tmp_path: Path) -> None:
    argv = ["--config", configs / "mixer.yaml", "--data", photos.with_name("tags.csv"), "--output", tmp_path]
    outcome = call(mixer.main, *argv)
    assert outcome.code == 0, outcome.err
    run = tmp_path / "mixer-001"
    assert parts(run) == ("ClassificationTask", "BCELoss")
    assert "test: mAP" in outcome.out
    assert (run / "per_class.png").stat().st_size > 0
    for threshold, labels in (("0", {"filled", "round"}), ("1", set())):
        folder = tmp_path / threshold
        argv = ["predict", run, photos / "test", "--threshold", threshold, "--output", folder]
        assert call(dlrecipes_command, *argv).code == 0
        results = json.loads((folder / "predictions.json").read_text())
        assert all(set(row["labels"]) == labels for row in results)
