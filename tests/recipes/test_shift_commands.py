"""A run and its data under shift, from the command line: expand-test, fit-ood with predict, reweight with a recipe."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_images import TINY_EFFICIENTNET, write_photos
from tiny_runs import assert_refused, call, load_recipe

from dlrecipes.cli import commands
from dlrecipes.cli.actions.predict_images import image_loader
from dlrecipes.cli.actions.run_images import open_run
from dlrecipes.shift.features import penultimate
from dlrecipes.shift.ood import OODScorer, conformal_p_values

EPOCH = ("--epochs", "1", "--trainer.limit_train_batches", "2")


@pytest.fixture(autouse=True)
def blank_figures() -> None:
    """In this module a picture is looked at."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("shift") / "photos", {"train": 20, "val": 20, "test": 40})


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Path], Path]:
    """Trains a tiny network on data, into a folder; gives the run."""
    preset = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    preset.write_text(TINY_EFFICIENTNET)
    main = load_recipe("train_efficientnet").main

    def run(data: Path, output: Path) -> Path:
        outcome = call(main, "--data", data, "--config", preset, "--output", output, *EPOCH)
        assert outcome.code == 0, outcome.err
        return next(output.glob("efficientnet-*"))

    return run


@pytest.fixture(scope="module")
def trained(photos: Path, train: Callable[[Path, Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(photos, tmp_path_factory.mktemp("runs"))


def test_expand_test_writes_a_table_and_a_picture(trained: Path) -> None:
    chosen = ("--corruptions", "contrast", "gaussian_noise", "--severities", "5")
    outcome = call(commands.main, "expand-test", trained, *chosen)
    assert outcome.code == 0, outcome.err
    assert "gaussian_noise" in outcome.out
    with (trained / "expanded_test.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["corruption"] for row in rows] == ["none", "contrast", "gaussian_noise"]
    with Image.open(trained / "expanded_test.png") as picture:
        assert picture.size[0] > 400
    assert_refused(call(commands.main, "expand-test", trained, "--corruptions", "fog"), "fog")


@pytest.mark.parametrize("method", ["knn", "energy"])
def test_fit_ood_gives_predictions_a_p_value(trained: Path, photos: Path, tmp_path: Path, method: str) -> None:
    outcome = call(commands.main, "fit-ood", trained, "--method", method)
    assert outcome.code == 0, outcome.err
    assert "test images" in outcome.out
    found = call(commands.main, "predict", trained, photos / "val" / "disc", "--output", tmp_path / "out")
    assert found.code == 0, found.err
    assert "ood_p is at most 0.05 for" in found.out
    with (tmp_path / "out" / "predictions.csv").open() as file:
        p_values = [float(row["ood_p"]) for row in csv.DictReader(file)]
    scorer = OODScorer.load(trained / "ood.safetensors")
    least = 1 / (1 + len(scorer.reference))
    assert len(p_values) == 20
    assert all(least <= p * 1.0001 and p <= 1 for p in p_values)
    if method == "energy":  # fits nothing: all validation images calibrate
        task = open_run(trained).task
        loader = image_loader(photos / "val", task.info, 7)
        scores, disc = [], []
        with torch.no_grad():
            for batch in loader:
                scores.append(scorer.scores(*penultimate(task.model, task.normalise(batch["images"]))))
                disc += [Path(path).parent.name == "disc" for path in batch["paths"]]
        # what predict sees of a file is what fit-ood saw of it
        torch.testing.assert_close(torch.cat(scores).sort().values, scorer.reference, rtol=1e-5, atol=1e-6)
        wanted = conformal_p_values(torch.cat(scores)[torch.tensor(disc)], scorer.reference)
        np.testing.assert_allclose(p_values, wanted, atol=1.1 * least)  # of scores that differ in their last digit


def test_reweight_makes_a_table_that_a_recipe_trains_on(
    photos: Path, train: Callable[[Path, Path], Path], tmp_path: Path
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    for file in [
        *photos.glob("test/disc/*.png"),
        *photos.glob("test/ring/*_1*.png"),
        *photos.glob("test/bar/*_1*.png"),
    ]:
        shutil.copy(file, new / file.name)
    outcome = call(commands.main, "reweight", photos, new, "--least", "0.02", "--output", tmp_path / "weighted.csv")
    assert outcome.code == 0, outcome.err
    with (tmp_path / "weighted.csv").open() as file:
        rows = list(csv.DictReader(file))
    weights = np.array([float(row["weight"]) for row in rows if row["split"] == "train"])
    assert weights.mean() == pytest.approx(1, abs=1e-4)
    assert weights.std() > 0.1
    assert {row["weight"] for row in rows if row["split"] != "train"} == {"1"}
    assert len(rows) == 240
    disc = np.array([row["label"] == "disc" for row in rows if row["split"] == "train"])
    assert weights[disc].mean() > 1.5 * weights[~disc].mean()  # most of the new images are discs
    run = train(tmp_path / "weighted.csv", tmp_path / "runs")
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    refused = call(commands.main, "reweight", photos, new, "--least", "0.99", "--output", tmp_path / "other.csv")
    assert_refused(refused, "label some of it instead")
