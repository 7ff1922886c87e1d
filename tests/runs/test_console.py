import re

import lightning.pytorch as pl
import pytest

from dlrecipes.runs.console import EpochLines, make_progress


def test_one_line_an_epoch_with_metrics_and_time(toy, fit, capsys):
    fit(toy, 3, [EpochLines(["train/loss", "val/loss", "val/map", "absent"])])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    pattern = r"epoch 1/3  train/loss 0\.820  val/loss 1\.000  val/map 0\.100  lr 1\.0e-01  [\d.]+s  left [\d.]+s"
    assert re.fullmatch(pattern, lines[0])
    assert lines[1].startswith("epoch 2/3  train/loss 0.336  val/loss 0.500  val/map 0.200")
    assert "left" not in lines[2]


def test_stale_validation_is_not_repeated(toy, loader, capsys):
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=4, check_val_every_n_epoch=2, callbacks=[EpochLines()], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(toy, loader, loader)
    shown = ["val/map" in line for line in capsys.readouterr().out.splitlines()]
    assert shown == [False, True, False, True]


def test_many_short_epochs_do_not_fill_the_screen(toy, loader, capsys):
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=102, check_val_every_n_epoch=34, callbacks=[EpochLines()], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, limit_train_batches=1,
        limit_val_batches=1,
    )  # fmt: skip
    trainer.fit(toy, loader, loader)
    shown = [re.sub(r"  [a-z].*", "", line) for line in capsys.readouterr().out.splitlines()]
    assert shown == ["epoch  34/102", "epoch  68/102", "epoch 102/102"]


def test_a_bar_only_on_a_terminal():
    assert [type(c).__name__ for c in make_progress(False)] == ["EpochLines"]
    assert [type(c).__name__ for c in make_progress(True)] == ["EpochLines", "RichProgressBar"]


def test_no_number_of_epochs(toy, loader, capsys):
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=-1, max_steps=3, callbacks=[EpochLines()], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(toy, loader, loader)
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == ["epoch 1", "epoch 2"]


def test_the_first_three_measured_metrics_of_a_headline_are_shown(toy, fit, capsys):
    class Classifier(type(toy)):
        def _evaluate(self, batch, stage):
            self.log_dict({f"{stage}/{name}": 0.5 for name in ("accuracy", "f1", "auprc", "ece")}, batch_size=4)
            return super()._evaluate(batch, stage)

    fit(Classifier(), 1, make_progress(False, ("accuracy", "map_of_several_labels", "f1", "auprc", "ece")))
    [line] = capsys.readouterr().out.splitlines()
    words = [
        "train/loss 0.820",
        "val/loss 1.000",
        "val/accuracy 0.500",
        "val/f1 0.500",
        "val/auprc 0.500",
        "lr 1.0e-01",
    ]
    assert line.split("  ")[1:7] == words
    assert make_progress(False)[0].metrics == ("train/loss", "val/loss", "val/map", "val/map_50")
    with pytest.raises(ValueError, match="most must be at least 1, got 0"):
        EpochLines(most=0)
