import threading

import matplotlib
import pytest
from PIL import Image

from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.metrics_csv import MetricsCSV
from dlrecipes.runs.pictures.curves import CurvesPicture, best_row, draw_curves, new_figure


def write(path, epochs=3):
    logger = MetricsCSV(path)
    for step in range(epochs * 4):
        logger.log_metrics({"train/loss_step": 5 / (step + 1), "lr": 1e-4, "epoch": step // 4}, step=step)
        if step % 4 == 3:
            values = {"val/loss": 1.0, "val/map": [0.1, 0.4, 0.3][step // 4 % 3], "train/loss_epoch": 2.0}
            logger.log_metrics({**values, "epoch": step // 4}, step=step)
    logger.log_metrics({"test/map": 0.9, "epoch": epochs}, step=epochs * 4)


def figure_of(tmp_path, monkeypatch, **arguments):
    made = []
    monkeypatch.setattr(
        "dlrecipes.runs.pictures.curves.new_figure", lambda *size: made.append(new_figure(*size)) or made[-1]
    )
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png", **arguments)
    return made[0]


def test_three_panels_with_the_best_epoch_marked(tmp_path, monkeypatch):
    write(tmp_path / "metrics.csv")
    loss, quality, rate = figure_of(tmp_path, monkeypatch).axes
    assert [axes.get_title() for axes in (loss, quality, rate)][0::2] == ["Loss", "Learning rate"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in quality.lines}
    assert lines["val/map"] == [[1, 0.1], [2, 0.4], [3, 0.3]]  # drawn where the epoch ends
    assert lines["best val/map 0.400, epoch 2"][0][0] == 2
    for axes in (loss, quality, rate):  # epochs stand below one another
        assert axes.get_xlim() == pytest.approx((0, 3.06))
        assert all(tick == round(tick) for tick in axes.get_xticks())
    assert len(next(line for line in loss.lines if line.get_label() == "train, each step").get_xdata()) == 12
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (2046, 506)


def test_errors_and_qualities_do_not_share_an_axis(tmp_path, monkeypatch):
    logger = MetricsCSV(tmp_path / "metrics.csv")
    for epoch, (mae, r2) in enumerate(((40.0, -3.0), (12.0, 0.8), (15.0, 0.7))):
        values = {"val/loss": 1.0, "val/mae": mae, "val/r2": r2, "epoch": epoch}
        logger.log_metrics(values, step=epoch)
    axes = figure_of(tmp_path, monkeypatch, monitor="val/mae", headline=("mae", "r2"), mode="min").axes
    assert [a.get_title() for a in axes] == ["Loss", "Error on the validation split", "Quality on the validation split"]
    _, error, quality = axes
    assert [line.get_label() for line in error.lines][:2] == ["val/mae", "best val/mae 12.000, epoch 2"]
    assert error.get_ylim()[0] == 0
    assert error.get_ylim()[1] > 40
    assert next(line.get_label() for line in quality.lines) == "val/r2"
    assert quality.get_ylim() == (-1, 1)  # what is far below shall not squeeze the rest


def test_a_metric_of_training_is_drawn_beside_those_of_validation(tmp_path, monkeypatch):
    logger = MetricsCSV(tmp_path / "metrics.csv")
    for epoch in range(2):
        logger.log_metrics({"val/map": 0.5, "train/matched_iou": 0.7, "epoch": epoch}, step=epoch)
    [axes] = figure_of(tmp_path, monkeypatch, headline=("map", "train/matched_iou")).axes
    assert {"val/map", "train/matched_iou"} < {line.get_label() for line in axes.lines}
    assert axes.get_title() == "Quality"
    assert axes.get_ylim() == (0, 1)


def test_a_monitor_outside_the_headline_is_drawn_too(tmp_path, monkeypatch):
    logger = MetricsCSV(tmp_path / "metrics.csv")
    logger.log_metrics({"val/f1": 0.5, "val/gain": 7.0, "epoch": 0}, step=0)
    [axes] = figure_of(tmp_path, monkeypatch, monitor="val/gain", headline=("f1",)).axes
    assert {"val/f1", "val/gain"} < {line.get_label() for line in axes.lines}
    assert axes.get_ylim()[1] > 7


def test_missing_panels_and_an_empty_file(tmp_path, monkeypatch):
    logger = MetricsCSV(tmp_path / "metrics.csv")
    logger.log_metrics({"train/loss_step": 1.0}, step=0)
    assert [axes.get_title() for axes in figure_of(tmp_path, monkeypatch).axes] == ["Loss"]
    (tmp_path / "metrics.csv").write_text("step,epoch\n")
    assert figure_of(tmp_path, monkeypatch).axes == []


def test_nothing_is_left_in_pyplot_and_threads_may_draw(tmp_path):
    write(tmp_path / "metrics.csv")
    backend = matplotlib.get_backend()
    errors = []

    def draw(i):
        try:
            draw_curves(tmp_path / "metrics.csv", tmp_path / f"{i}.png")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    assert matplotlib.get_backend() == backend
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []


def test_best_row_ignores_nan_and_knows_both_directions():
    rows = [{"epoch": 0, "m": float("nan")}, {"epoch": 1, "m": 2.0}, {"epoch": 2, "m": 1.0}, {"epoch": 3}]
    assert best_row(rows, "m") == {"epoch": 1, "m": 2.0}
    assert best_row(rows, "m", "min") == {"epoch": 2, "m": 1.0}
    assert best_row(rows, "other") is None
    with pytest.raises(ValueError, match="mode must be 'max' or 'min', got 'best'"):
        best_row(rows, "m", "best")


def test_callback_draws_at_the_end_and_after_an_exception(tmp_path, toy, fit):
    run = RunFolder(tmp_path)
    fit(toy, 1, [CurvesPicture(run)], [MetricsCSV(run.metrics)])
    assert run.curves.exists()
    run.curves.unlink()

    def fail(batch, batch_idx):
        if toy.global_step > 0:
            raise RuntimeError("stop")
        return type(toy).training_step(toy, batch, batch_idx)

    toy.training_step = fail
    with pytest.raises(RuntimeError, match="stop"):
        fit(toy, 1, [CurvesPicture(run)], [MetricsCSV(run.metrics)])
    assert run.curves.exists()
