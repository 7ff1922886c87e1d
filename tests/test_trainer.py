"""Checkpoints and precision, as the recipes set them."""

import logging
from pathlib import Path

import pytest

from dlrecipes.errors import UserError
from dlrecipes.runs import RunFolder
from dlrecipes.trainer import choose_precision, make_checkpoint_callbacks, quiet_lightning


def test_best_by_the_metric_and_last_after_every_epoch(tmp_path: Path) -> None:
    best, last = make_checkpoint_callbacks(RunFolder(tmp_path), "val/map")
    assert (best.monitor, best.mode, best.filename, best.save_top_k) == ("val/map", "max", "best", 1)
    assert (last.monitor, last.filename) == (None, "last")
    assert best.state_key != last.state_key


def test_more_checkpoints_in_an_epoch_all_go_to_last(tmp_path: Path) -> None:
    callbacks = make_checkpoint_callbacks(RunFolder(tmp_path), "val/map", every_n_steps=7, every_n_minutes=0.5)
    assert [callback.filename for callback in callbacks] == ["best", "last", "last", "last"]
    assert len({callback.state_key for callback in callbacks}) == 4  # a resume tells their memories apart


@pytest.mark.parametrize("interval", [{"every_n_steps": 0}, {"every_n_minutes": -1.0}])
def test_intervals_are_checked(interval: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be above 0"):
        make_checkpoint_callbacks(RunFolder(tmp_path), "val/map", **interval)  # type: ignore[arg-type]


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
