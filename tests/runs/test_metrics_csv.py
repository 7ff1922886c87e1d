import errno
import os

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from dlrecipes.errors import UserError
from dlrecipes.runs.metrics_csv import MetricsCSV, MetricsResume, read_metrics

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # Lightning 2.6.6 on torch 2.14
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


class Toy(pl.LightningModule):
    """Its losses depend on (epoch, batch) only, so that a resumed run logs what the run left alone logs."""

    def __init__(self, stop_at: int = -1) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.stop_at = stop_at

    def training_step(self, batch, batch_idx):
        if self.global_step == self.stop_at:
            raise KeyboardInterrupt
        self.log("train/loss", float(self.current_epoch * 10 + batch_idx), on_step=True, on_epoch=True)
        return self.layer(batch[0]).pow(2).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/map", 0.5 + self.current_epoch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, epochs, stop_at=-1, resume=False, every_n_train_steps=None):
    checkpoint = pl.callbacks.ModelCheckpoint(
        folder, save_last=True, enable_version_counter=False, every_n_train_steps=every_n_train_steps
    )
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, logger=MetricsCSV(folder / "metrics.csv"), callbacks=[checkpoint, MetricsResume()],
    )  # fmt: skip
    data = DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=2)
    try:
        trainer.fit(Toy(stop_at), data, data, ckpt_path=str(folder / "last.ckpt") if resume else None)
    except (KeyboardInterrupt, SystemExit):
        assert stop_at >= 0


def test_one_row_a_step_with_validation_and_epoch_means(tmp_path):
    fit(tmp_path, epochs=2)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == list(range(8))
    assert [row["epoch"] for row in rows] == [0] * 4 + [1] * 4
    assert rows[3] == {"step": 3, "epoch": 0, "train/loss_step": 3, "val/map": 0.5, "train/loss_epoch": 1.5}
    assert rows[5] == {"step": 5, "epoch": 1, "train/loss_step": 11}
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert header.split(",") == ["step", "epoch", "train/loss_step", "val/map", "train/loss_epoch"]


@pytest.mark.parametrize("every_n_train_steps", [None, 3], ids=["epoch end", "mid epoch"])
def test_resumed_run_has_the_rows_of_the_run_left_alone(tmp_path, every_n_train_steps):
    fit(tmp_path / "whole", epochs=3, every_n_train_steps=every_n_train_steps)
    fit(tmp_path / "cut", epochs=3, every_n_train_steps=every_n_train_steps, stop_at=7)
    saved = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)["global_step"]
    cut = read_metrics(tmp_path / "cut" / "metrics.csv")
    assert cut[-1]["step"] == 6
    assert saved in (4, 6)  # so rows beyond the checkpoint are there to be dropped
    with (tmp_path / "cut" / "metrics.csv").open("a") as file:
        file.write("7,1,99")  # and a line that the kill cut off
    fit(tmp_path / "cut", epochs=3, every_n_train_steps=every_n_train_steps, resume=True)
    whole, resumed = read_metrics(tmp_path / "whole" / "metrics.csv"), read_metrics(tmp_path / "cut" / "metrics.csv")
    if every_n_train_steps:  # the mean of an epoch that was cut in two is Lightning's business
        for row in (*whole, *resumed):
            row.pop("train/loss_epoch", None)
    assert resumed == whole


def test_a_resume_that_trains_nothing_keeps_all_rows(tmp_path):
    fit(tmp_path, epochs=1)
    before = (tmp_path / "metrics.csv").read_text()
    logger = MetricsCSV(tmp_path / "metrics.csv")
    logger.finalize("success")
    assert (tmp_path / "metrics.csv").read_text() == before


def test_later_columns_merge_and_rewrite(tmp_path):
    path = tmp_path / "new" / "metrics.csv"
    logger = MetricsCSV(path)
    logger.log_metrics({"a": torch.tensor(0.5), "epoch": 0}, step=0)
    logger.log_metrics({"lr": 1e-4}, step=0)  # a call without epoch belongs to the row of its step
    logger.log_metrics({"a": 1.5, "epoch": 0}, step=1)
    logger.log_metrics({"a": 1, "epoch": 0}, step=1)  # shorter than the text it replaces
    logger.log_metrics({"a": float("nan"), "epoch": 1}, step=1)  # the same step in another epoch is another row
    assert path.read_text() == "step,epoch,a,lr\n0,0,0.5,0.0001\n1,0,1.0,\n1,1,nan,\n"
    logger.log_metrics({'odd, "name"': 2.0, "epoch": 1}, step=2)
    assert read_metrics(path)[-1] == {"step": 2, "epoch": 1, 'odd, "name"': 2}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.csv"]


def test_new_start_appends_and_drop_from_is_exact(tmp_path):
    path = tmp_path / "metrics.csv"
    for start in (0, 3):
        logger = MetricsCSV(path)
        for step in range(start, start + 3):
            logger.log_metrics({"a": step}, step=step)
    assert [row["a"] for row in read_metrics(path)] == [0, 1, 2, 3, 4, 5]
    assert logger.drop_from(4) == 2
    logger.log_metrics({"a": 40, "b": 1}, step=4)
    assert [row["a"] for row in read_metrics(path)] == [0, 1, 2, 3, 40]
    assert logger.drop_from(99) == 0


def test_each_row_is_on_disk_at_once(tmp_path):
    logger = MetricsCSV(tmp_path / "m.csv")
    for step in range(3):  # nothing is flushed or closed in between, as before a SIGKILL
        logger.log_metrics({"a": 1.0 + step}, step=step)
        assert [row["a"] for row in read_metrics(tmp_path / "m.csv")] == [1.0, 2.0, 3.0][: step + 1]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    logger = MetricsCSV(tmp_path / "m.csv")
    logger.log_metrics({"a": 1.0}, step=0)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(logger, "_write_last", full)
    with pytest.raises(UserError, match=r"m\.csv' could not be written \(No space left on device\)"):
        logger.log_metrics({"a": 2.0}, step=1)


@pytest.mark.parametrize("best", [0, 1])
def test_a_tested_checkpoint_keeps_its_epoch_and_a_row_of_its_own(tmp_path, best):
    class Tested(Toy):
        def validation_step(self, batch, batch_idx):
            self.log("val/map", float(self.current_epoch == best))

        def test_step(self, batch, batch_idx):
            self.log("test/map", 0.25)

    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val/map", mode="max")
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[checkpoint, MetricsResume()],
        logger=MetricsCSV(tmp_path / "metrics.csv"),
    )  # fmt: skip
    data = DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=2)
    trainer.fit(Tested(), data, data)
    fitted = read_metrics(tmp_path / "metrics.csv")
    trainer.test(Tested(), data, ckpt_path=checkpoint.best_model_path, weights_only=True, verbose=False)
    assert read_metrics(tmp_path / "metrics.csv") == [*fitted, {"step": 8, "epoch": best, "test/map": 0.25}]
    trainer.test(Tested(), data, verbose=False)  # of the weights as they are
    assert [row["epoch"] for row in read_metrics(tmp_path / "metrics.csv")[8:]] == [best, 2]
