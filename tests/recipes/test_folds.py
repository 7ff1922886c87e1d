"""Cross validation by the recipe's real command line, and from Python."""

import csv
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger
from sklearn.metrics import accuracy_score
from tiny_images import CLASSES
from tiny_runs import assert_refused, call
from torch import nn

from dlrecipes.callbacks import LossEarlyStopping
from dlrecipes.cross_validation import CrossValidation, CrossValidator, FoldMetric
from dlrecipes.data import ClassificationData, array_source
from dlrecipes.errors import UserError
from dlrecipes.tasks import ClassificationTask


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


POWER_CUT = """
import os

import lightning as L


class PowerCut(L.Callback):
    def on_train_batch_end(self, trainer, *args):
        if "fold2" in trainer.default_root_dir and os.environ.get("POWER_CUT") == str(trainer.global_step):
            raise RuntimeError("power cut")
"""


def test_each_image_is_predicted_by_a_network_that_has_not_seen_it_and_a_cut_off_fold_goes_on(
    mixer: ModuleType, configs: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_power.py").write_text(POWER_CUT)
    (tmp_path / "cut.yaml").write_text("trainer: {callbacks: [{class_path: their_power.PowerCut}]}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POWER_CUT", "3")
    options = ["--config", configs / "mixer.yaml", "--config", "cut.yaml", "--data", photos, "--epochs", 2]
    options += ["--imbalance", "logit_adjust", "--folds", 2, "--trainer.limit_train_batches", 2]
    with pytest.raises(RuntimeError, match="power cut"):  # in the second epoch of the second fold
        call(mixer.main, *options)
    (root,) = tmp_path.glob("runs/mixer-folds-*")
    first, second = (root / f"fold{k}-001" for k in (1, 2))
    before = (first / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    monkeypatch.delenv("POWER_CUT")
    assert_refused(call(mixer.main, "--resume", root, "--lr", 1, "--config", "cut.yaml"), "leave out --config, --lr")
    outcome = call(mixer.main, "--resume", root)
    assert outcome.code == 0
    assert "fold 1 of 2" not in outcome.out
    assert (first / "checkpoints" / "best.ckpt").stat().st_mtime_ns == before
    assert sorted(root.glob("fold*-*")) == [first, second]
    assert "2 folds" in outcome.out
    assert "95 % interval" in outcome.out
    predicted = rows(root / "out_of_fold.csv")
    pool = [p.name for split in ("train", "val") for name in CLASSES for p in (photos / split / name).iterdir()]
    assert sorted(Path(row["image"]).name for row in predicted) == sorted(pool)
    held_out = {
        fold.name: {Path(row["image"]).name for row in rows(fold / "out_of_fold.csv")} for fold in (first, second)
    }
    assert not held_out["fold1-001"] & held_out["fold2-001"]
    for fold in (first, second):
        assert [row["epoch"] for row in rows(fold / "metrics.csv") if row["val/loss"]] == ["0", "1"]
        config = yaml.safe_load((fold / "config.yaml").read_text())
        assert config["imbalance"] == "logit_adjust"
        assert config["model"]["init_args"]["loss"]["class_path"] == "dlrecipes.losses.LogitAdjustedLoss"
        metrics = json.loads((fold / "fold.json").read_text())
        own = rows(fold / "out_of_fold.csv")
        score = accuracy_score([row["target"] for row in own], [row["prediction"] for row in own])
        assert metrics["val/accuracy"] == pytest.approx(score)
        assert all(sum(float(row[f"p({name})"]) for name in CLASSES) == pytest.approx(1, abs=1e-4) for row in own)
        assert (fold / "MODEL_CARD.md").exists()
    summary = json.loads((root / "summary.json").read_text())["val/accuracy"]
    assert summary["mean"] == pytest.approx(sum(summary["folds"]) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "1"], "2 or more"),
        (["--folds", "some"], "2 or more"),
        (["--folds", "3", "--data.fold", "1/3"], "--data.fold cannot both"),
        (["--folds", "3", "--overfit", "2"], "--overfit cannot both"),
        (["--folds", "3", "--devices", "2"], "one device"),
        (["--folds", "500"], "fewer folds"),
        (["--data.fold", "4/3"], "such as 2/5"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(
    mixer: ModuleType, configs: Path, photos: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    common = ["--config", configs / "mixer.yaml", "--data", photos, "--output", tmp_path, "--epochs", 1]
    assert_refused(call(mixer.main, *common, *options), message)
    assert not [*tmp_path.iterdir()]


def test_from_python(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    pixels = (random.integers(0, 120, (60, 8, 8, 3)) + 120 * labels[:, None, None, None]).astype(np.uint8)
    source = array_source((pixels, labels), classes=("dark", "bright"))
    made: list[str] = []

    def data(fold: str) -> ClassificationData:
        made.append(fold)
        return ClassificationData(source=source, fold=fold, num_workers=0, batch_size=10, augment="none")

    def task() -> ClassificationTask:
        return ClassificationTask(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), lr=0.01)

    validator = CrossValidator(3, output=tmp_path, name="toy")
    found = validator.run(task, data, max_epochs=2, trainer_args={"accelerator": "cpu"})
    assert made == ["1/3", "2/3", "3/3"]
    assert found.metrics["val/accuracy"].mean > 0.9
    assert len(rows(found.out_of_fold)) == 60
    validator.run(task, data, max_epochs=2)
    assert len(made) == 3  # finished folds are kept


def test_folds_share_nothing_and_a_stop_between_them_changes_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (24, 8, 8, 3)).astype(np.uint8)
    source = array_source((pixels, np.arange(24) % 2), classes=("even", "odd"))
    first: list[torch.Tensor] = []

    def data(fold: str) -> ClassificationData:
        return ClassificationData(source=source, fold=fold, num_workers=0, batch_size=4, augment="none")

    def task() -> ClassificationTask:
        made = ClassificationTask(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), lr=0.0)
        first.append(made.model[1].weight.detach().clone())
        return made

    stop = LossEarlyStopping(patience=1)
    validator = CrossValidator(2, output=tmp_path, name="toy", seed=3)

    def run() -> CrossValidation:
        return validator.run(task, data, max_epochs=3, trainer_args={"accelerator": "cpu", "callbacks": [stop]})

    before = torch.get_rng_state()
    whole = run()
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(rows(fold / "metrics.csv")) for fold in whole.folds] == [2, 2]  # each waits for itself
    assert not torch.equal(first[0], first[1])
    shutil.rmtree(whole.folds[1])
    torch.rand(1)  # another process begins elsewhere
    again = run()
    assert torch.equal(first[1], first[2])
    assert again.metrics == whole.metrics


def test_one_logger_for_all_folds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has a logger, which would write all trainings into one"):
        CrossValidator(2, output=tmp_path).run(
            pytest.fail, pytest.fail, max_epochs=1, trainer_args={"logger": CSVLogger(tmp_path)}
        )


def test_interval_is_students() -> None:
    from scipy import stats

    values = [0.81, 0.78, 0.86, 0.8, 0.79]
    found = FoldMetric.of(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_fold_is_none() -> None:
    with pytest.raises(UserError, match="folds=1"):
        CrossValidator(1)
