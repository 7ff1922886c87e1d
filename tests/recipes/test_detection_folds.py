"""Cross validation of a detector by the recipe's real command line, and from Python."""

import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_folds import POWER_CUT
from tiny_runs import assert_refused, call, rows, write_coco

from dlrecipes.cli.actions.predict import predict
from dlrecipes.cross_validation import CrossValidator
from dlrecipes.data import DetectionData
from dlrecipes.errors import UserError
from dlrecipes.models import DETR
from dlrecipes.models.detr import SetCriterion
from dlrecipes.tasks import DetectionTask


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two annotation files that both count images from 1, three images without objects, and a test split."""
    return write_coco(tmp_path_factory.mktemp("data") / "shapes", {"train": 8, "val": 4, "test": 2}, empty=3)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def measured_by_coco(root: Path) -> tuple[float, float]:
    """mAP and mAP50 of the files by COCO's own tool."""
    truth = COCO(str(root / "out_of_fold_truth.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(root / "out_of_fold.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def test_each_image_is_predicted_once_and_a_cut_off_fold_goes_on(
    recipe: ModuleType, tiny: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_power_of_boxes.py").write_text(POWER_CUT)
    (tmp_path / "cut.yaml").write_text("trainer: {callbacks: [{class_path: their_power_of_boxes.PowerCut}]}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POWER_CUT", "6")
    options = ["--config", tiny, "--config", "cut.yaml", "--data", shapes, "--epochs", 2, "--folds", 3]
    with pytest.raises(RuntimeError, match="power cut"):  # in the second epoch of the second fold
        call(recipe.main, *options)
    (root,) = tmp_path.glob("runs/detr-folds-*")
    folds = [root / f"fold{k}-001" for k in (1, 2, 3)]
    before = (folds[0] / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    monkeypatch.delenv("POWER_CUT")
    assert_refused(call(recipe.main, "--resume", root, "--lr", 1), "leave out --lr")
    outcome = call(recipe.main, "--resume", root)
    assert outcome.code == 0, outcome.err
    assert "fold 1 of 3" not in outcome.out
    assert (folds[0] / "checkpoints" / "best.ckpt").stat().st_mtime_ns == before
    assert sorted(root.glob("fold*-*")) == folds
    for text in ("3 folds", "95 % interval", "pooled", "map_50"):
        assert text in outcome.out
    truth = read(root / "out_of_fold_truth.json")
    pool = [f"{split}/{path.name}" for split in ("train", "val") for path in (shapes / split).iterdir()]
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    assert sorted(image["file_name"] for image in truth["images"]) == sorted(pool)
    assert len(names) == len(pool)
    results = read(root / "out_of_fold.json")
    assert {result["file_name"] for result in results} == set(pool)
    assert all(names[result["image_id"]] == result["file_name"] for result in results)
    assert {(r["category_id"], r["category"]) for r in results} <= {(3, "disc"), (17, "square")}
    given = [read(shapes / "annotations" / f"instances_{split}.json") for split in ("train", "val")]
    for annotation in (a for part in given for a in part["annotations"]):
        assert annotation["bbox"] in [a["bbox"] for a in truth["annotations"]]
    assert len(truth["annotations"]) == sum(len(part["annotations"]) for part in given)
    for fold in folds:
        own = {image["file_name"] for image in read(fold / "out_of_fold_truth.json")["images"]}
        assert own == {image["file_name"] for image in truth["images"] if image["fold"] == fold.name}
        assert own == {r["file_name"] for r in results if r["fold"] == fold.name}
        assert sum(name in {f"train/train_{k}.png" for k in range(3)} for name in own) == 1  # without objects
        assert len(own) in (3, 4)
        assert yaml.safe_load((fold / "config.yaml").read_text())["data"]["init_args"]["fold"] == f"{fold.name[4]}/3"
        assert [row["epoch"] for row in rows(fold) if row["val/loss"]] == ["0", "1"]
        assert (fold / "MODEL_CARD.md").exists()
    summary = read(root / "summary.json")
    assert summary["val/map"]["mean"] == pytest.approx(sum(summary["val/map"]["folds"]) / 3)
    assert (summary["val/map"]["pooled"], summary["val/map_50"]["pooled"]) == pytest.approx(measured_by_coco(root))
    for fold, value in zip(folds, summary["val/map_50"]["folds"], strict=True):
        assert value == pytest.approx(measured_by_coco(fold)[1], abs=1e-3)
    again = call(recipe.main, "--resume", root)
    assert "map_50" in again.out
    assert "mar_100" not in again.out  # what the task is judged by, though nothing was left to train
    with pytest.raises(UserError, match=f"give one of them, such as '{folds[0]}'"):
        predict(root, shapes / "test")


def test_groups_are_in_one_fold_by_the_command_line(
    recipe: ModuleType, tiny: Path, shapes: Path, tmp_path: Path
) -> None:
    options = ["--config", tiny, "--data", shapes, "--output", tmp_path, "--epochs", 1, "--folds", 2]
    group = r"_([0-9])\.png"  # the same number in train and val is one patient
    outcome = call(recipe.main, *options, "--data.fold_groups", group, "--trainer.limit_train_batches", 1)
    assert outcome.code == 0, outcome.err
    assert "8 groups" in outcome.out
    images = read(tmp_path / "detr-folds-001" / "out_of_fold_truth.json")["images"]
    folds_of: dict[str, set[str]] = {}
    for image in images:
        folds_of.setdefault(Path(image["file_name"]).stem.split("_")[1], set()).add(image["fold"])
    assert len(images) == 12
    assert Counter(map(len, folds_of.values())) == {1: 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "500"], "12 images for 500 folds: take fewer folds"),
        (["--folds", "3", "--data.fold_groups", "train|val"], "2 groups for 3 folds"),
        (["--folds", "3", "--data.fold_groups", "train"], "does not match"),
        (["--folds", "3", "--data.fold", "1/3"], "--data.fold cannot both"),
        (["--folds", "3", "--overfit", "2"], "--overfit cannot both"),
        (["--folds", "3", "--devices", "2"], "one device"),
        (["--folds", "3", "--data.val_split", "test"], "leave out --data.train_split and --data.val_split"),
        (["--data.fold", "4/3"], "such as 2/5"),
        (["--folds", "3", "--data.class_path", "their_plain_data.Plain"], "Plain does not"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(
    recipe: ModuleType,
    tiny: Path,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    (tmp_path / "their_plain_data.py").write_text("class Plain:\n    def __init__(self, path=None):\n        pass\n")
    monkeypatch.chdir(tmp_path)
    common = ["--config", tiny, "--data", shapes, "--output", tmp_path / "runs", "--epochs", 1]
    assert_refused(call(recipe.main, *common, *options), message)
    assert not [*(tmp_path / "runs").glob("*")]


def test_embedded_scenes_have_no_folds(recipe: ModuleType, tmp_path: Path) -> None:
    outcome = call(recipe.main, "--folds", 3, "--output", tmp_path, "--wandb", "off")
    assert_refused(outcome, "leave out --folds and --data.fold for the embedded scenes")
    assert not [*tmp_path.iterdir()]


def test_from_python(shapes: Path, tmp_path: Path) -> None:
    def data(fold: str) -> DetectionData:
        return DetectionData(str(shapes), fold=fold, image_size=32, batch_size=8, num_workers=0, transform="none")

    def task() -> DetectionTask:
        model = DETR("test_resnet", pretrained_backbone=False, num_queries=4, hidden_dim=16, num_heads=2)
        return DetectionTask(model, SetCriterion(), lr=1e-3)

    found = CrossValidator(2, output=tmp_path, name="toy").run(
        task, data, max_epochs=1, trainer_args={"accelerator": "cpu"}
    )
    assert set(found.pooled) >= {"val/map", "val/map_50"}
    assert len(read(found.out_of_fold.with_name("out_of_fold_truth.json"))["images"]) == 12
    assert "val/map_large" not in found.metrics  # no box is that large: COCO's -1 is no number to average
