"""Samplers for rare classes by the recipe's real command line."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from tiny_images import CLASSES
from tiny_runs import Outcome, assert_refused, call

from dlrecipes.tasks import ClassificationTask

Labels = list[list[int]]


@pytest.fixture(scope="module")
def tail(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 training images of the first class, 3 of the second and 1 of the third."""
    folder = shutil.copytree(photos, tmp_path_factory.mktemp("data") / "tail")
    for name, count in zip(CLASSES, (8, 3, 1), strict=True):
        for file in sorted((folder / "train" / name).iterdir())[count:]:
            file.unlink()
    return folder


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> Labels:
    """The labels of every training step."""
    seen: Labels = []
    step = ClassificationTask.training_step

    def recording(self: ClassificationTask, batch, batch_idx):  # type: ignore[no-untyped-def]
        seen.append(batch["targets"].tolist())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", recording)
    return seen


def run(main: ModuleType, configs: Path, data: Path, output: Path, *options: object) -> Outcome:
    argv: Sequence[object] = ["--config", configs / "efficientnet.yaml", "--data", data, "--output", output]
    return call(main.main, *argv, *options)


def counts(labels: Labels) -> list[int]:
    """Images of each class."""
    found = Counter(label for batch in labels for label in batch)
    return [found[label] for label in range(len(CLASSES))]


def test_classes_come_equally_often_and_a_resumed_run_goes_on_in_mid_epoch(
    efficientnet: ModuleType, configs: Path, tail: Path, tmp_path: Path, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data.sampler", "class", "--batch-size", 3, "--augment", "strong"]
    options += ["--checkpoint-every-n-steps", 5]
    outcome = run(efficientnet, configs, tail, tmp_path, *options)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert "Images are drawn by the sampler 'class', 12 in an epoch." in outcome.out
    config = yaml.safe_load((tmp_path / "efficientnet-001" / "config.yaml").read_text())
    assert config["data"]["init_args"]["sampler"] == "class"
    alone = list(labels)
    assert counts(alone[:4]) == counts(alone[4:]) == [4, 4, 4]

    step = ClassificationTask.training_step

    def power_cut(self: ClassificationTask, batch, batch_idx):  # type: ignore[no-untyped-def]
        if self.trainer.global_step == 6:
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run(efficientnet, configs, tail, tmp_path, *options)
    labels.clear()
    assert call(efficientnet.main, "--resume", tmp_path / "efficientnet-002").code == 0
    assert labels == alone[5:]
    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("efficientnet-001", "efficientnet-002")
    )
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_progressive_follows_the_runs_epochs_and_a_balancing_loss_is_warned_of(
    efficientnet: ModuleType, configs: Path, tail: Path, tmp_path: Path, labels: Labels
) -> None:
    options = ["--data.sampler", "progressive", "--loss", "dlrecipes.losses.LogitAdjustedLoss"]
    with pytest.warns(UserWarning, match="'progressive'. and LogitAdjustedLoss both balance the classes"):
        assert run(efficientnet, configs, tail, tmp_path, *options).code == 0
    assert counts(labels[:2]) == [8, 3, 1]
    assert all(abs(n - wanted) < 1 for n, wanted in zip(counts(labels[2:]), (6, 3.5, 2.5), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.sampler", "clas"], "got 'clas'"),
        (["--data.sampler", "repeat"], "use instance, sqrt"),
        (["--data.sampler", "class", "--data.sampler_start", 2], "sampler_start is 2, and there are 2 epochs"),
    ],
)
def test_refused_in_one_sentence(
    options: list[object], message: str, efficientnet: ModuleType, configs: Path, tail: Path, tmp_path: Path
) -> None:
    assert_refused(run(efficientnet, configs, tail, tmp_path, *options), message)
