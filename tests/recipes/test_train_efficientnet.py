"""A classifier by the recipe's real command line, in this process, and what is done with the run afterwards."""

import csv
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_images import CLASSES, SIDE
from tiny_runs import Outcome, assert_refused, call, rows

from dlrecipes.cli.commands import main as dlrecipes_command
from dlrecipes.tasks import ClassificationTask

Trained = tuple[Path, Outcome]


def test_run_leaves_everything_behind(classified: Trained) -> None:
    run, outcome = classified
    assert outcome.code == 0, outcome.err
    for name in (
        *("config.yaml", "run.json", "classes.json", "data_report.txt", "data_report.json", "metrics.csv"),
        *("curves.png", "batch.png", "confusion.png", "pr_curves.png", "reliability.png", "mistakes.png"),
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "predictions/epoch_001.png", "predictions/epoch_002.png"),
        *("MODEL_CARD.md", "best.safetensors"),
    ):
        assert (run / name).stat().st_size > 0, name
    assert [row["name"] for row in json.loads((run / "classes.json").read_text())] == list(CLASSES)


def test_run_says_what_it_does_and_nothing_else(classified: Trained) -> None:
    _, outcome = classified
    for text in (
        *("(folders, classification, 3 classes)", "No problems found.", "The model sees 32 x 32 pixels", "seed 0"),
        *("TimmClassifier, ", "1 device x 6 images x 1 accumulated = 6 images a step", "8 in 2 epochs"),
        *("W&B: off", "epoch 1/2", "epoch 2/2", "val/accuracy", "best val/f1", "test: accuracy", "recall by class"),
        *("dlrecipes predict", "--resume"),
    ):
        assert text in outcome.out, text
    assert outcome.err == ""
    for chatter in ("GPU available", "Tip", "Seed set", "Trainer.fit", "Restoring", "few for a detector"):
        assert chatter not in outcome.out


def test_metrics_of_every_epoch_and_of_the_test_split(classified: Trained) -> None:
    table = rows(classified[0])
    assert [row["epoch"] for row in table if row["val/f1"]] == ["0", "1"]
    assert len([row for row in table if row["train/loss_step"]]) == 8
    (tested,) = [row for row in table if row["test/accuracy"]]
    recalls = [float(tested[f"test/recall_class/{name}"]) for name in CLASSES]
    assert float(tested["test/balanced_accuracy"]) == pytest.approx(sum(recalls) / 3, abs=1e-6)


def test_model_card_loads_the_best_weights(classified: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = classified
    card = (run / "MODEL_CARD.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "| test/accuracy |" in card
    monkeypatch.chdir(run)
    names: dict[str, ClassificationTask] = {}
    exec(card.partition("```python\n")[2].partition("```")[0], names)
    task = names["task"]
    assert task.info is not None
    assert task.info.classes == CLASSES
    weights = load_file(run / "best.safetensors")
    assert [name for name, value in task.state_dict().items() if not torch.equal(weights[name], value)] == []


def test_predict_writes_a_table_json_and_sheets(classified: Trained, photos: Path, tmp_path: Path) -> None:
    outcome = call(dlrecipes_command, "predict", classified[0], photos / "test", "--output", tmp_path)
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "predictions.json").read_text())
    assert {Path(row["path"]).name for row in results} == {path.name for path in photos.glob("test/*/*.png")}
    with (tmp_path / "predictions.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["label"] for row in table] == [row["label"] for row in results]
    for row in table:
        probabilities = {name: float(row[f"p_{name}"]) for name in CLASSES}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(probabilities, key=lambda name: probabilities[name])
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["sheet_001.png"]
    assert f"{len(table)} images: " in outcome.out


def test_predictions_score_as_the_test_split_did(classified: Trained, photos: Path, tmp_path: Path) -> None:
    run, _ = classified
    assert call(dlrecipes_command, "predict", run, photos / "test", "--output", tmp_path).code == 0
    results = json.loads((tmp_path / "predictions.json").read_text())
    right = sum(Path(row["path"]).parent.name == row["label"] for row in results)
    (tested,) = [row for row in rows(run) if row["test/accuracy"]]
    assert float(tested["test/accuracy"]) == pytest.approx(right / len(results), abs=1e-6)


def test_export_answers_as_predict_does(classified: Trained, photos: Path, tmp_path: Path) -> None:
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    file = tmp_path / "best.pt2"
    outcome = call(dlrecipes_command, "export", classified[0], "--format", "torch", "--output", file)
    assert outcome.code == 0, outcome.err
    assert "answers differ" in outcome.out
    assert call(dlrecipes_command, "predict", classified[0], photos / "test", "--output", tmp_path).code == 0
    results = json.loads((tmp_path / "predictions.json").read_text())
    images = torch.stack([pil_to_tensor(Image.open(row["path"])) for row in results])
    assert images.shape[1:] == (3, SIDE, SIDE)
    answers = torch.export.load(file).module()(images)
    expected = torch.tensor([row["probability"] for row in results])
    torch.testing.assert_close(answers.amax(1), expected, atol=1e-5, rtol=0)


def test_check_data_takes_the_folder_and_the_tables(photos: Path) -> None:
    for path, kind in ((photos, "classification"), (photos.with_name("sizes.csv"), "regression")):
        outcome = call(dlrecipes_command, "check-data", path)
        assert outcome.code == 0, outcome.err
        assert f", {kind}, " in outcome.out


def test_resume_of_a_finished_run_trains_no_further(
    efficientnet: ModuleType, classified: Trained, tmp_path: Path
) -> None:
    run = shutil.copytree(classified[0], tmp_path / "efficientnet-001")
    weights, steps = (run / "best.safetensors").read_bytes(), len([r for r in rows(run) if r["train/loss_step"]])
    outcome = call(efficientnet.main, "--resume", run)
    assert outcome.code == 0, outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["efficientnet-001"]
    assert (run / "best.safetensors").read_bytes() == weights
    assert len([row for row in rows(run) if row["train/loss_step"]]) == steps
    assert "epoch 2/2" not in outcome.out
    assert outcome.err == ""


def test_embedded_data_is_long_tailed_with_a_remedy_by_the_counts(efficientnet: ModuleType) -> None:
    outcome = call(efficientnet.main, "--print_config")
    assert outcome.code == 0, outcome.err
    values = yaml.safe_load(outcome.out)
    assert values["data"]["init_args"]["long_tailed"] is True
    task = values["model"]["init_args"]
    assert values["imbalance"] == "auto"
    assert task["model"]["class_path"] == "dlrecipes.models.EfficientNet"


def test_data_of_ones_own_has_another_preset(efficientnet: ModuleType, photos: Path) -> None:
    values = yaml.safe_load(call(efficientnet.main, "--data", photos, "--print_config").out)
    assert values["data"]["init_args"]["long_tailed"] is False
    assert values["model"]["init_args"]["loss"]["class_path"] == "dlrecipes.losses.CrossEntropyLoss"


@pytest.mark.parametrize(
    ("script", "preset"),
    [
        *(("efficientnet", name) for name in ("efficientnet", "efficientnet_digits", "efficientnet_cifar")),
        *(("mixer", name) for name in ("mixer", "mixer_digits", "mixer_cifar")),
    ],
)
def test_presets_hold_only_options_that_exist(script: str, preset: str, request: pytest.FixtureRequest) -> None:
    outcome = call(request.getfixturevalue(script).main, "--config", preset, "--print_config")
    assert outcome.code == 0, outcome.err
    assert yaml.safe_load(outcome.out)["model"]["class_path"] == "dlrecipes.tasks.ClassificationTask"


@pytest.mark.parametrize("script", ["recipe", "efficientnet", "mixer"])
def test_help_is_short(script: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])  # the first line names the program
    outcome = call(request.getfixturevalue(script).main, "-h")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert 20 < len(lines) <= 45
    assert max(map(len, lines)) <= 120
    for flag in ("--data", "--config", "--resume", "--ema", *(("--variant", "--loss") if script != "recipe" else ())):
        assert flag in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "nowhere"], "nowhere does not exist"),
        (["RUN", "RUN/checkpoints"], "checkpoints"),
        (["RUN", "IMAGES", "--threshold", "2"], "--threshold must be between 0 and 1"),
    ],
)
def test_predict_refuses_in_one_sentence(words: list[str], message: str, classified: Trained, photos: Path) -> None:
    argv = [word.replace("RUN", str(classified[0])).replace("IMAGES", str(photos / "test")) for word in words]
    assert_refused(call(dlrecipes_command, "predict", *argv), message)
