import numpy as np
import pytest
import torch
from PIL import Image

from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.pictures.detection_pictures import PredictionPictures, TrainBatchPicture, picture_of
from dlrecipes.runs.pictures.sheets import data_info
from dlrecipes.runs.pictures.tiles import TRUE_COLOR


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def count(image, color):
    return int((np.abs(image - np.array(color)).sum(axis=-1) == 0).sum())


def test_picture_of_scales_truth_and_prediction_to_the_same_pixels(batch):
    prediction = {
        "boxes": torch.tensor([[12.0, 16.0, 48.0, 64.0], [0.0, 0.0, 9.0, 9.0]]),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor([0.9, 0.01]),
    }
    picture = picture_of(batch, 1, prediction)
    assert picture.image.shape == (3, 40, 60)
    assert (picture.image == 200).all()  # no padding
    assert torch.allclose(picture.true_boxes, torch.tensor([[6.0, 8.0, 24.0, 32.0]]))
    assert torch.allclose(picture.boxes, picture.true_boxes)  # the same box, given in pixels of the original
    assert picture.scores.tolist() == pytest.approx([0.9])  # a score below 0.05 is nothing to show
    assert picture.title == "image_1.jpg"


def test_batch_picture_has_boxes_and_grey_padding_before_the_first_step(run, toy, fit):
    seen = []

    class Watch(TrainBatchPicture):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            seen.append((trainer.global_step, run.batch_picture.exists()))

    fit(toy, 1, [Watch(run)])
    assert seen[0] == (0, True)
    image = pixels(run.batch_picture)
    assert image.shape[1] > 4 * 400  # four tiles in a row, enlarged from 64 pixels
    assert count(image, (128, 128, 128)) > 4 * 0.35 * 400 * 400  # 41 % of each tile is padding, less what labels cover
    assert count(image, (31, 119, 180)) > 0  # a box in the colour of label 0


def test_prediction_pictures_for_each_epoch_and_for_the_tracker(run, toy, fit, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    class Tracker(CSVLogger):
        calls = []  # noqa: RUF012

        def log_detections(self, key, pictures, classes, step=None):
            self.calls.append((key, [p.title for p in pictures], classes, step))

    fit(toy, 2, [PredictionPictures(run, n=6)], [Tracker(tmp_path / "logs")])
    assert sorted(p.name for p in run.predictions.iterdir()) == ["epoch_001.png", "epoch_002.png"]
    titles = [f"image_{i}.jpg" for i in range(6)]
    assert Tracker.calls == [("val/predictions", titles, toy.info.classes, step) for step in (1, 3)]
    image = pixels(run.prediction_picture(1))
    assert count(image, TRUE_COLOR) > 0
    assert count(image, (255, 127, 14)) > 0  # label 1, found with .9
    assert count(image, (44, 160, 44)) > 0  # label 2, found with .9 in image 2 and .3 in image 1
    again = image.copy()
    fit(toy, 1, [PredictionPictures(run, n=6, score_threshold=0.95)])
    assert count(pixels(run.prediction_picture(1)), (255, 127, 14)) == 0
    assert (again != pixels(run.prediction_picture(1))).any()


def test_a_long_run_is_drawn_about_fifty_times_and_at_its_end(run, toy, fit, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "dlrecipes.runs.pictures.sheets.save_grid", lambda tiles, columns, path: drawn.append(path.stem)
    )
    fit(toy, 120, [PredictionPictures(run, n=1)])
    assert drawn[:3] == ["epoch_001", "epoch_004", "epoch_007"]
    assert drawn[-1] == "epoch_120"
    assert len(drawn) <= 51


def test_a_full_disk_costs_the_picture_not_the_run(run, toy, fit, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dlrecipes.runs.pictures.sheets.save_grid", full)
    trainer = fit(toy, 1, [PredictionPictures(run), TrainBatchPicture(run)])
    assert trainer.global_step == 2
    assert capsys.readouterr().out.count("No space left on device") == 2


def test_names_come_from_the_task_and_bad_arguments_are_named(run, toy, fit):
    trainer = fit(toy, 1)
    assert data_info(trainer, toy) is toy.info
    toy.info = None
    with pytest.raises(ValueError, match=r"set task\.info"):
        data_info(trainer, toy)
    for make in (TrainBatchPicture, PredictionPictures):
        with pytest.raises(ValueError, match="n must be at least 1, got 0"):
            make(run, n=0)
    with pytest.raises(ValueError, match="score_threshold"):
        PredictionPictures(run, score_threshold=1.5)
