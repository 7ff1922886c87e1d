"""The recipe's real command line, in this process."""

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tiny_runs import CATEGORIES, Outcome, assert_refused, call, rows, write_coco

from dlrecipes.cli.commands import main as dlrecipes_command
from dlrecipes.data.loading.decode import EXIF_ORIENTATION
from dlrecipes.tasks import DetectionTask

Trained = tuple[Path, Outcome]


def test_run_leaves_everything_behind(trained: Trained) -> None:
    run, outcome = trained
    assert outcome.code == 0, outcome.err
    for name in (
        *("config.yaml", "run.json", "classes.json", "data_report.txt", "data_report.json", "metrics.csv"),
        *("curves.png", "batch.png", "confusion.png", "pr_curves.png", "MODEL_CARD.md", "best.safetensors"),
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "predictions/epoch_001.png", "predictions/epoch_002.png"),
    ):
        assert (run / name).stat().st_size > 0, name
    classes = json.loads((run / "classes.json").read_text())
    assert {row["category_id"]: row["name"] for row in classes} == CATEGORIES


def test_run_says_what_it_does_and_nothing_else(trained: Trained) -> None:
    _, outcome = trained
    for text in (
        "disc",
        "parameters",
        "1 device x 2 images x 1 accumulated = 2 images a step",
        "W&B: off",
        "seed 0",
    ):
        assert text in outcome.out
    for text in ("epoch 1/2", "epoch 2/2", "best val/map", "test: mAP", "dlrecipes predict", "--resume"):
        assert text in outcome.out
    assert outcome.err == ""
    for chatter in ("GPU available", "Tip", "Seed set", "Trainer.fit", "Restoring"):
        assert chatter not in outcome.out


def test_metrics_of_every_epoch_and_of_the_test_split(trained: Trained) -> None:
    table = rows(trained[0])
    assert [row["epoch"] for row in table if row["val/map"]] == ["0", "1"]
    assert len([row for row in table if row["train/loss_step"]]) == 8
    assert [row["test/map"] for row in table if row["test/map"]] != []


def test_best_weights_are_those_of_the_best_checkpoint(trained: Trained) -> None:
    run, _ = trained
    weights = load_file(run / "best.safetensors")
    task = DetectionTask.load_from_checkpoint(run / "checkpoints" / "best.ckpt")
    assert task.info is not None
    assert task.info.category_ids == tuple(CATEGORIES)
    for name, value in task.state_dict().items():
        assert torch.equal(weights[name], value), name


def test_resume_goes_on_in_the_same_folder(recipe: ModuleType, trained: Trained, tmp_path: Path) -> None:
    run = shutil.copytree(trained[0], tmp_path / "detr-001")
    before = [row for row in rows(run) if row["val/map"]]
    outcome = call(recipe.main, "--resume", run, "--epochs", "3")
    assert outcome.code == 0, outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["detr-001"]
    after = [row for row in rows(run) if row["val/map"]]
    assert [row["epoch"] for row in after] == ["0", "1", "2"]
    assert [row["val/loss"] for row in after[:2]] == [row["val/loss"] for row in before]
    assert len(json.loads((run / "run.json").read_text())["starts"]) == 2
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 3
    assert "epoch 3/3" in outcome.out
    assert "epoch 2/3" not in outcome.out


def test_same_seed_same_numbers_other_seed_other_numbers(
    recipe: ModuleType, trained: Trained, tiny: Path, coco: Path, tmp_path: Path
) -> None:
    def losses(run: Path) -> list[str]:
        return [row["train/loss_step"] for row in rows(run) if row["train/loss_step"]]

    argv = ["--config", tiny, "--data", coco, "--output", tmp_path]
    assert call(recipe.main, *argv).code == 0
    assert call(recipe.main, *argv, "--seed", "1", "--trainer.limit_train_batches", "1", "--epochs", "1").code == 0
    assert losses(tmp_path / "detr-001") == losses(trained[0])
    assert losses(tmp_path / "detr-002")[0] != losses(trained[0])[0]


def test_printed_config_makes_the_same_config(recipe: ModuleType, tiny: Path, tmp_path: Path) -> None:
    argv = ["--config", tiny, "--lr", "0.5", "--model.model.num_queries", "9", "--ema", "0.9"]
    first = call(recipe.main, *argv, "--print_config")
    assert first.code == 0
    values = yaml.safe_load(first.out)
    assert values["model"]["init_args"]["lr"] == 0.5
    assert values["model"]["init_args"]["model"]["init_args"]["num_queries"] == 9
    assert values["ema"] == 0.9
    (tmp_path / "mine.yaml").write_text(first.out)
    assert call(recipe.main, "--config", tmp_path / "mine.yaml", "--print_config").out == first.out


@pytest.mark.parametrize("preset", ["detr_fast", "detr_paper"])
def test_presets_hold_only_options_that_exist(recipe: ModuleType, preset: str) -> None:
    outcome = call(recipe.main, "--config", preset, "--print_config")
    assert outcome.code == 0, outcome.err
    assert yaml.safe_load(outcome.out)["model"]["init_args"]["model"]["class_path"] == "dlrecipes.models.DETR"


def test_help_all_names_options_of_trainer_task_data_and_model(recipe: ModuleType) -> None:
    outcome = call(recipe.main, "--help-all")
    assert outcome.code == 0
    for option in (
        "--trainer.max_steps",
        "weight_decay",
        "val_fraction",
        "encoder_layers",
        "--checkpoint_every_n_steps",
    ):
        assert option in outcome.out


def test_averaged_weights_are_what_is_evaluated_and_kept(
    recipe: ModuleType, tiny: Path, coco: Path, tmp_path: Path
) -> None:
    argv = ["--config", tiny, "--data", coco, "--output", tmp_path, "--epochs", "1", "--ema", "0.9"]
    outcome = call(recipe.main, *argv, "--data.test_split", "val")
    assert outcome.code == 0, outcome.err
    table = rows(tmp_path / "detr-001")
    losses = [[float(row[f"{split}/loss"]) for row in table if row[f"{split}/loss"]] for split in ("val", "test")]
    assert losses[0] == pytest.approx(losses[1])  # of the same weights on the same images
    checkpoint = torch.load(tmp_path / "detr-001" / "checkpoints" / "last.ckpt", weights_only=True)
    averaged, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    name = "model.input_proj.weight"
    assert not torch.equal(averaged[name], current[name])


def test_checkpoints_within_an_epoch(recipe: ModuleType, tiny: Path, coco: Path, tmp_path: Path) -> None:
    argv = ["--config", tiny, "--data", coco, "--output", tmp_path, "--checkpoint-every-n-steps", "3"]
    argv += ["--trainer.max_steps", "3", "--epochs", "1"]
    outcome = call(recipe.main, *argv)
    assert outcome.code == 0, outcome.err
    checkpoint = torch.load(tmp_path / "detr-001" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3


def test_data_without_a_test_split(recipe: ModuleType, tiny: Path, tmp_path: Path) -> None:
    data = write_coco(tmp_path / "coco", {"train": 4, "val": 2})
    outcome = call(recipe.main, "--config", tiny, "--data", data, "--output", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "test:" not in outcome.out
    best = max((row for row in rows(tmp_path / "detr-001") if row["val/map"]), key=lambda row: float(row["val/map"]))
    card = (tmp_path / "detr-001" / "MODEL_CARD.md").read_text()
    assert f"| val/map_50 | {float(best['val/map_50']):.4f} |" in card
    assert f"| val/loss | {float(best['val/loss']):.4f} |" in card
    assert "train/loss" not in card


def test_predict_writes_coco_results_and_pictures(trained: Trained, coco: Path, tmp_path: Path) -> None:
    outcome = call(dlrecipes_command, "predict", trained[0], coco / "test", "--threshold", "0", "--output", tmp_path)
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "predictions.json").read_text())
    assert {row["category_id"] for row in results} <= set(CATEGORIES)
    assert {row["file_name"] for row in results} == {f"test_{i}.png" for i in range(4)}
    assert all(CATEGORIES[row["category_id"]] == row["category"] for row in results)
    assert all(row["bbox"][2] > 0 and row["bbox"][3] > 0 for row in results)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 4
    assert str(tmp_path) in outcome.out


def test_predict_looks_at_all_images_before_it_begins(trained: Trained, coco: Path, tmp_path: Path) -> None:
    images = shutil.copytree(coco / "test", tmp_path / "images")
    whole = (images / "test_2.png").read_bytes()
    for name in ("test_2.png", "test_3.png"):
        (images / name).write_bytes(whole[: len(whole) // 2])
    argv = ["predict", trained[0], images, "--output", tmp_path / "out"]
    outcome = call(dlrecipes_command, *argv)
    assert_refused(outcome, "test_2.png cannot be decoded")
    assert "(1 more like it); replace it or move it away." in outcome.err
    assert not (tmp_path / "out").exists()


def test_predict_says_what_ids_and_pixels_mean(trained: Trained, coco: Path, tmp_path: Path) -> None:
    images = shutil.copytree(coco / "test", tmp_path / "images")
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.open(images / "test_1.png").save(images / "test_1.png", exif=exif)
    outcome = call(dlrecipes_command, "predict", trained[0], images, "--output", tmp_path / "out")
    assert "where image_id counts the images in order of name; file_name tells which" in outcome.out
    assert f"1 image turned upright, as the EXIF orientation says ({images / 'test_1.png'})" in outcome.out
    numbered = tmp_path / "numbered"
    numbered.mkdir()
    shutil.copy(images / "test_0.png", numbered / "000000397133.png")
    outcome = call(dlrecipes_command, "predict", trained[0], numbered, "--output", tmp_path / "out2")
    assert "where image_id is the number that names the file" in outcome.out
    assert "EXIF" not in outcome.out


def test_export_takes_the_images_that_are_asked_for(trained: Trained, tmp_path: Path) -> None:
    argv = ["export", trained[0], "--format", "torch", "--output", tmp_path / "d.pt2", "--image-size", "64", "96"]
    outcome = call(dlrecipes_command, *argv)
    assert outcome.code == 0, outcome.err
    scores, _, boxes = torch.export.load(tmp_path / "d.pt2").module()(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    assert (len(scores), boxes.shape[2]) == (2, 4)


def test_predict_numbers_its_folders(trained: Trained, coco: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained[0], tmp_path / "detr-001")
    for _ in range(2):
        assert call(dlrecipes_command, "predict", run, coco / "test" / "test_0.png").code == 0
    assert sorted(path.name for path in run.glob("predict-*")) == ["predict-001", "predict-002"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "nowhere"], "nowhere does not exist"),
        (["nowhere", "IMAGES"], "'nowhere' does not exist"),
        (["RUN", "IMAGES", "--threshold", "2"], "--threshold must be between 0 and 1"),
        (["RUN", "IMAGES", "--output", "RUN/run.json"], "run.json"),
        (["RUN/metrics.csv", "IMAGES"], "metrics.csv"),
    ],
)
def test_predict_refuses_in_one_sentence(words: list[str], message: str, trained: Trained, coco: Path) -> None:
    argv = [word.replace("RUN", str(trained[0])).replace("IMAGES", str(coco / "test")) for word in words]
    assert_refused(call(dlrecipes_command, "predict", *argv), message)
