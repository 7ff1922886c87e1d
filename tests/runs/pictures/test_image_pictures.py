import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from image_runs import GivenAnswers, make_info, make_trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.image_labels import agreement_color, compare_lines, describe_output, describe_target, target_lines
from dlrecipes.runs.pictures.image_pictures import ImageBatchPicture, ImagePredictions
from dlrecipes.runs.tracking.tracked import ImageTracker

GREEN, RED = (0, 170, 70), (215, 30, 40)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def count(path, color):
    with Image.open(path) as picture:
        return int((np.asarray(picture.convert("RGB")) == color).all(-1).sum())


def sorted_by_class(count=40):
    """Three classes, one after another; the answer is always cat."""
    targets = torch.arange(count) * 3 // count
    return GivenAnswers(make_info(), targets, torch.tensor([[0.8, 0.15, 0.05]]).expand(count, 3))


class Tracker(CSVLogger):
    """A logger that keeps what it is given."""

    def __init__(self, folder):
        super().__init__(folder)
        self.calls = []

    def log_images(self, key, images, captions=None, step=None):
        self.calls.append((key, list(images), captions, step))


def test_batch_picture_is_what_the_model_sees_before_the_first_step(run, monkeypatch, tmp_path):
    lines, seen = [], []
    monkeypatch.setattr(
        "dlrecipes.runs.pictures.image_pictures.draw_image_tile",
        lambda image, texts, side: (lines.append((image, texts)), Image.new("RGB", (9, 9)))[1],
    )

    class Mixing(GivenAnswers):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            if not self.trainer.training:
                return batch
            soft = torch.nn.functional.one_hot(batch["targets"], 3).float()
            return {**batch, "images": batch["images"].float() + 0.6, "targets": 0.7 * soft + 0.3 * soft.roll(1, 1)}

        def training_step(self, batch, batch_idx):
            seen.append(run.batch_picture.exists())
            return super().training_step(batch, batch_idx)

    model = sorted_by_class(8)
    mixing = Mixing(model.info, model.targets, model.answers)
    tracker = Tracker(tmp_path / "logs")
    assert isinstance(tracker, ImageTracker)
    make_trainer([ImageBatchPicture(run, n=3)], [tracker], epochs=2).fit(mixing, mixing.loader(), mixing.loader())
    assert seen == [True] * 4
    assert [texts for _, texts in lines] == [["cat .70 + dog .30", f"{i}.jpg"] for i in range(3)]
    assert [int(image.unique()) for image, _ in lines] == [1, 2, 3]  # rounded, and uint8 again
    assert lines[0][0].dtype == torch.uint8
    assert tracker.calls == [("train/batch", [run.batch_picture], None, 0)]


def test_a_resumed_run_keeps_its_batch_picture(run):
    model = sorted_by_class(4)
    trainer = make_trainer([callback := ImageBatchPicture(run)])
    trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = 0
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = 7
    callback.on_train_batch_start(trainer, model, model.collate([0]), 0)
    assert not run.batch_picture.exists()


def test_predictions_are_spread_over_a_split_that_is_sorted_by_class(run, tmp_path):
    model, tracker = sorted_by_class(), Tracker(tmp_path / "logs")
    make_trainer([ImagePredictions(run, n=4)], [tracker], epochs=2).fit(model, model.loader(), model.loader(7))
    assert sorted(p.name for p in run.predictions.iterdir()) == ["epoch_001.png", "epoch_002.png"]
    captions = [
        "5.jpg: true cat, said cat .80", "15.jpg: true dog, said cat .80", "25.jpg: true dog, said cat .80",
        "35.jpg: true Käfer, said cat .80",
    ]  # fmt: skip
    assert [(key, texts, step) for key, _, texts, step in tracker.calls] == [
        ("val/predictions", captions, 9), ("val/predictions", captions, 19)]  # fmt: skip
    assert [int(image.unique()) for image in tracker.calls[0][1]] == [5, 15, 25, 35]
    sheet = run.prediction_picture(1)
    assert count(sheet, RED) == pytest.approx(3 * count(sheet, GREEN))


@pytest.mark.parametrize("limit", [2, 1.0])
def test_a_limited_validation_is_spread_over_what_it_sees(run, monkeypatch, limit):
    model, picked = sorted_by_class(10), []
    callback = ImagePredictions(run, n=3)
    pick = callback.pick
    monkeypatch.setattr(callback, "pick", lambda b, i, o: (picked.append(int(b["index"][i])), pick(b, i, o))[1])
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, limit_val_batches=limit, callbacks=[callback], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, model.loader(), model.loader(3))
    assert picked == ([1, 3, 5] if limit == 2 else [1, 5, 8])


def test_targets_and_outputs_in_words():
    labels = make_info("multilabel", ("a", "b", "c", "d", "e", "f"))
    ages = make_info("regression", target_names=("age",), target_mean=(40.0,), target_std=(10.0,))
    both = make_info("regression", target_names=("age", "height"), target_mean=(40.0, 1.7), target_std=(10.0, 0.1))
    assert describe_target(torch.tensor([1.0, 0, 1, 1, 1, 1]), labels) == "a, c, d, e +1"
    assert describe_target(torch.zeros(6), labels) == "no label"
    assert describe_target(torch.tensor([0.7, 0.3, 0, 0, 0, 0]), labels) == "a .70 + b .30"
    assert describe_output(torch.tensor([0.1, 0.3, 0, 0, 0, 0]), labels) == "no label (best: b .30)"
    assert describe_output(torch.tensor([0.6, 0.9, 0, 0, 0, 0]), labels) == "b .90, a .60"
    assert describe_target(torch.tensor([41.5]), ages) == "41.50"
    assert describe_output(torch.tensor([41.5, 1.8]), both) == "age 41.50  height 1.800"
    assert target_lines(torch.tensor([204.84, 1987.2]), both) == ["age 204.8", "height 1987"]
    assert target_lines(torch.tensor([41.5]), ages) == ["41.50"]
    assert describe_target(torch.tensor([0.0, 1.0, 0.0]), make_info()) == "dog"
    assert compare_lines(torch.tensor([1.0, 0, 1, 0, 0, 0]), torch.tensor([0.9, 0.8, 0.2, 0, 0, 0]), labels) == [
        "found: a", "missed: c", "not there: b"]  # fmt: skip
    assert compare_lines(torch.tensor([40.0, 1.5]), torch.tensor([42.0, 1.6]), both) == [
        "age 40.00 → 42.00", "height 1.500 → 1.600"]  # fmt: skip


def test_frames_tell_right_from_wrong():
    labels = make_info("multilabel")
    assert agreement_color(torch.tensor([1.0, 0, 1]), torch.tensor([0.9, 0.4, 0.5]), labels) == GREEN
    assert agreement_color(torch.tensor([1.0, 0, 1]), torch.tensor([0.9, 0.6, 0.5]), labels) == RED
    ages = make_info("regression", target_names=("age",), target_mean=(40.0,), target_std=(10.0,))
    near, far, worse = (agreement_color(torch.tensor([40.0]), torch.tensor([v]), ages) for v in (40.5, 50.0, 90.0))
    assert near[1] > near[0]
    assert far == worse
    assert far[0] > far[1]


@pytest.mark.parametrize("make", [ImageBatchPicture, ImagePredictions])
def test_bad_arguments_are_named(make, run):
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        make(run, n=0)
