"""Checkpoints and precision, as the recipes set them."""

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from dlrecipes.callbacks import SaveWithinEpoch
from dlrecipes.errors import UserError
from dlrecipes.runs import RunFolder
from dlrecipes.trainer import choose_precision, make_checkpoint_callbacks, quiet_lightning, run_callbacks


def test_best_by_the_metric_and_last_after_every_epoch(tmp_path: Path) -> None:
    best, last = make_checkpoint_callbacks(RunFolder(tmp_path), "val/map")
    assert (best.monitor, best.mode, best.filename, best.save_top_k) == ("val/map", "max", "best", 1)
    assert (last.monitor, last.filename) == (None, "last")
    assert best.state_key != last.state_key


def test_more_checkpoints_in_an_epoch_all_go_to_last(tmp_path: Path) -> None:
    callbacks = run_callbacks(RunFolder(tmp_path), "val/map", "max", seed=0, every_n_steps=7, every_n_minutes=0.5)
    (within,) = [callback for callback in callbacks if isinstance(callback, SaveWithinEpoch)]
    assert (within.path.name, within.every_n_steps, within.every_n_minutes) == ("last.ckpt", 7, 0.5)


@pytest.mark.parametrize("interval", [{"every_n_steps": 0}, {"every_n_minutes": -1.0}])
def test_intervals_are_checked(interval: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be above 0"):
        run_callbacks(RunFolder(tmp_path), "val/map", "max", seed=0, **interval)  # type: ignore[arg-type]


def test_a_cpu_computes_in_fp32() -> None:
    assert choose_precision("cpu") == "32-true"


@pytest.mark.gpu
def test_a_gpu_computes_in_bf16() -> None:
    assert choose_precision("auto") == "bf16-mixed"


def test_lightnings_notices_are_dropped_and_warnings_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = logging.StreamHandler()  # Lightning makes one where the application has none; pytest has
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "handlers", [handler])
    quiet_lightning()
    quiet_lightning()

    def passes(level: int, path: str) -> bool:
        return bool(handler.filter(logging.LogRecord("lightning.pytorch", level, path, 1, "text", (), None)))

    assert not passes(logging.INFO, "/site-packages/lightning/pytorch/trainer/setup.py")
    assert passes(logging.WARNING, "/site-packages/lightning/pytorch/trainer/setup.py")
    assert passes(logging.INFO, "/site-packages/dlrecipes/callbacks/graceful_stop.py")
    assert len(handler.filters) == 1


class _Task(pl.LightningModule):
    """Its metric is best at first, its loss later."""

    losses, scores = (3.0, 1.0, 2.0), (0.9, 0.5, 0.6)

    def __init__(self, logs_loss: bool = True) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.logs_loss = logs_loss

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight**2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/f1", self.scores[self.current_epoch])
        if self.logs_loss:
            self.log("val/loss", self.losses[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("logs_loss", [True, False])
def test_the_best_by_loss_is_kept_beside_the_best_by_metric(logs_loss: bool, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    callbacks = make_checkpoint_callbacks(folder, "val/f1", by_loss=True)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, callbacks=callbacks, logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([0.0])
    trainer.fit(_Task(logs_loss), loader, loader)
    assert trainer.checkpoint_callback is not None
    assert trainer.checkpoint_callback.best_model_path == str(folder.best_checkpoint)  # type: ignore[attr-defined]
    epochs = {path.stem: torch.load(path, weights_only=True)["epoch"] for path in folder.checkpoints.glob("*.ckpt")}
    assert epochs == {"best": 0, "last": 2} | ({"best_loss": 1} if logs_loss else {})


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_loss_is_what_the_task_watches_as_one(tmp_path: Path) -> None:
    """Its loss is best in epoch 1, and what it watches as one in epoch 2."""

    class Watching(_Task):
        loss_monitor = "val/balanced_nll"

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            self.log("val/balanced_nll", 1.0 / (1 + self.current_epoch))

    for metric, expected in (("val/f1", 2), ("val/balanced_nll", None)):
        folder = RunFolder(tmp_path / metric)
        callback = make_checkpoint_callbacks(folder, metric, by_loss=True)[-1]
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=3, callbacks=[callback], logger=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        loader = torch.utils.data.DataLoader([0.0])
        trainer.fit(Watching(True), loader, loader)
        found = [torch.load(path, weights_only=True)["epoch"] for path in folder.checkpoints.glob("best_loss.ckpt")]
        assert found == ([] if expected is None else [expected])


def test_one_file_is_enough_where_the_loss_is_the_metric(tmp_path: Path) -> None:
    callbacks = make_checkpoint_callbacks(RunFolder(tmp_path), "val/loss", "min", by_loss=True)
    assert [callback.filename for callback in callbacks] == ["best", "last"]
