"""What is done with a classifier's run next: a new last layer, and a student. By the real command lines."""

import csv
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from tiny_images import CLASSES, write_photos
from tiny_runs import Outcome, assert_refused, call, rows

from dlrecipes.cli.commands import main as dlrecipes_command
from dlrecipes.runs import RunFolder
from dlrecipes.tasks import ClassificationTask, DistillationTask

Trained = tuple[Path, Outcome]


@pytest.fixture(scope="module")
def retrained(classified: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A second stage of the shared run: its folder, and what was printed."""
    output = tmp_path_factory.mktemp("second")
    argv = ("second-stage", classified[0], "--method", "logit-adjust", "--output", output)
    return output / "efficientnet-001-logit-adjust-001", call(dlrecipes_command, *argv)


def test_a_second_stage_says_what_it_changed(classified: Trained, retrained: Trained) -> None:
    run, outcome = retrained
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    for text in ("strengths that were tried", "chosen", "val, before", "test, after", "balanced", "bal. NLL", "next:"):
        assert text in outcome.out, text
    assert max(map(len, outcome.out.partition("done")[0].splitlines())) <= 80
    with (run / "second_stage.csv").open() as file:
        table = {(row["split"], row["layer"]): row for row in csv.DictReader(file)}
    assert list(table) == [("val", "before"), ("val", "after"), ("test", "before"), ("test", "after")]
    (tested,) = [row for row in rows(classified[0]) if row["test/accuracy"]]
    for name in ("accuracy", "f1", "ece", "balanced_nll"):  # what the first run measured
        assert float(table["test", "before"][name]) == pytest.approx(float(tested[f"test/{name}"]), abs=1e-5)
    (now,) = [row for row in rows(run) if row["test/accuracy"]]
    for name in ("accuracy", "f1", "ece", "balanced_nll"):  # what the exported network measures
        assert float(table["test", "after"][name]) == pytest.approx(float(now[f"test/{name}"]), abs=1e-5)


def test_its_folder_is_a_run(classified: Trained, retrained: Trained) -> None:
    run, _ = retrained
    for name in ("config.yaml", "run.json", "classes.json", "tau.csv", "best.safetensors", "confusion.png"):
        assert (run / name).stat().st_size > 0, name
    card = (run / "MODEL_CARD.md").read_text()
    assert "## Second stage" in card
    assert "| test | after |" in card
    record = RunFolder.open(run).read_info()["second_stage"]
    assert record["method"] == "logit-adjust"
    assert record["of"] == str(classified[0] / "checkpoints" / "best.ckpt")
    with (run / "tau.csv").open() as file:
        trials = list(csv.DictReader(file))
    assert min(trials, key=lambda row: float(row["balanced_nll"]))["tau"] == str(record["settings"]["tau"])


def test_its_checkpoint_needs_nothing_else(classified: Trained, retrained: Trained) -> None:
    run, _ = retrained
    old, new = (
        ClassificationTask.load_from_checkpoint(folder / "checkpoints" / "best.ckpt").eval()
        for folder in (classified[0], run)
    )
    assert new.info == old.info
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert set(content) == {"epoch", "global_step", "pytorch-lightning_version", "state_dict", "dlrecipes"}
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    shift = (new(images) - old(images)).detach()
    torch.testing.assert_close(shift[0], shift[1])  # of the bias alone
    tau = RunFolder.open(run).read_info()["second_stage"]["settings"]["tau"]
    torch.testing.assert_close(shift[0], torch.full((3,), tau * torch.tensor(3.0).log().item()), atol=1e-4, rtol=1e-3)


def test_it_predicts_and_exports(retrained: Trained, photos: Path, tmp_path: Path) -> None:
    run, _ = retrained
    assert call(dlrecipes_command, "predict", run, photos / "test", "--output", tmp_path / "out").code == 0
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 12
    assert call(dlrecipes_command, "export", run, "--format", "torch", "--output", tmp_path / "x.pt2").code == 0
    assert call(dlrecipes_command, "report", run).code == 0


def test_it_has_no_training_to_go_on_with(efficientnet: ModuleType, retrained: Trained) -> None:
    assert_refused(call(efficientnet.main, "--resume", retrained[0]), "made by dlrecipes second-stage")


def test_other_images_of_the_same_classes(classified: Trained, tmp_path: Path) -> None:
    """Another method, with the images' own numbers, without a test split, augmented."""
    data = write_photos(tmp_path / "more", {"train": 4, "val": 2})
    argv = ["second-stage", classified[0], "--method", "crt", "--data", data, "--output", tmp_path]
    outcome = call(dlrecipes_command, *argv, "--augment", "--epochs", 2)
    assert outcome.code == 0, outcome.err
    assert "There is no test split" in outcome.out
    assert "augmented yes" in outcome.out
    run = tmp_path / "efficientnet-001-crt-001"
    task = ClassificationTask.load_from_checkpoint(run / "checkpoints" / "best.ckpt")
    assert task.info is not None
    assert task.info.class_counts == (4, 4, 4)
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["path"] == str(data)


def test_a_run_that_was_balanced_is_told(classified: Trained, tmp_path: Path) -> None:
    run = shutil.copytree(classified[0], tmp_path / "balanced-001")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["init_args"]["sampler"] = "class"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    outcome = call(dlrecipes_command, "second-stage", run, "--method", "tau", "--tau", "0")
    assert outcome.code == 0, outcome.err
    assert "advice: this run was trained with the sampler 'class', which balances the classes already" in outcome.out
    assert (tmp_path / "balanced-001-tau-001").is_dir()  # beside the run


def test_what_cannot_be_done_is_one_sentence(
    classified: Trained, regressed: Trained, photos: Path, tmp_path: Path
) -> None:
    run = classified[0]
    stage = ("second-stage", run, "--method", "crt")
    assert_refused(call(dlrecipes_command, "second-stage", regressed[0], "--method", "crt"), "this is for regression")
    assert_refused(call(dlrecipes_command, "second-stage", run, "--method", "svm"), "svm")
    assert_refused(call(dlrecipes_command, *stage, "--tau", "much"), "--tau must be a number or auto, got 'much'")
    assert_refused(call(dlrecipes_command, *stage, "--tau", "0.5"), "crt has no tau")
    assert_refused(call(dlrecipes_command, *stage, "--epochs", "0"), "--epochs must be at least 1, got 0")
    assert_refused(call(dlrecipes_command, "second-stage", tmp_path / "none", "--method", "crt"), "does not exist")
    shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    alone = call(dlrecipes_command, "second-stage", tmp_path / "alone.ckpt", "--method", "crt")
    assert_refused(alone, "give the folder of a recipe's run")
    others = shutil.copytree(photos, tmp_path / "others")
    for split in others.iterdir():
        (split / CLASSES[0]).rename(split / "beam")
    assert_refused(call(dlrecipes_command, *stage, "--data", others), "the run was trained for bar, disc, ring")
    assert not list(run.parent.glob("efficientnet-001-crt-*"))


def test_a_run_teaches_a_student_by_the_recipe(
    efficientnet: ModuleType, classified: Trained, configs: Path, photos: Path, tmp_path: Path
) -> None:
    argv = ["--config", configs / "efficientnet.yaml", "--data", photos, "--output", tmp_path, "--epochs", 1]
    student = ["--teacher", classified[0], "--model.weight", 2]
    student += ["--ema", 0.9]  # copies the student, and not the teacher
    outcome = call(efficientnet.main, *argv, *student)
    assert outcome.code == 0, outcome.err
    assert f"teacher    TimmClassifier of {classified[0]}, knows 3 of 3 classes" in outcome.out
    run = tmp_path / "efficientnet-001"
    assert [row for row in rows(run) if row["train/distill_loss"]]
    task = DistillationTask.load_from_checkpoint(run / "checkpoints" / "best.ckpt")
    assert (task.weight, task.teacher) == (2.0, str(classified[0]))
    assert call(dlrecipes_command, "predict", run, photos / "test", "--output", tmp_path / "out").code == 0


def test_a_teacher_that_is_not_there_leaves_nothing_behind(
    efficientnet: ModuleType, configs: Path, photos: Path, tmp_path: Path
) -> None:
    argv = ["--config", configs / "efficientnet.yaml", "--data", photos, "--output", tmp_path / "runs"]
    student = ["--model", "dlrecipes.tasks.DistillationTask", "--model.teacher", tmp_path / "gone"]
    assert_refused(call(efficientnet.main, *argv, *student), "does not exist")
    assert not list((tmp_path / "runs").glob("*"))
