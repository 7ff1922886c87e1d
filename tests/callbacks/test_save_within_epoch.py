"""A run that goes on from a checkpoint within an epoch leaves nothing out."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from toy_fit import SendSignal, ToyModule, fit, same_weights

from dlrecipes.callbacks import SaveWithinEpoch


class Collect(pl.Callback):
    """Keeps a copy of each state of the file, by its step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[int] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self._look()

    def on_validation_start(self, *args: Any) -> None:
        self._look()

    def _look(self) -> None:
        if self.path.exists():
            step = torch.load(self.path, weights_only=True)["global_step"]
            if step not in self.steps:
                self.steps.append(step)
                shutil.copy(self.path, self.path.with_name(f"step_{step}.ckpt"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int], ToyModule]:
    folder = tmp_path_factory.mktemp("run")
    collect = Collect(folder / "within.ckpt")
    _, module = fit(folder, SaveWithinEpoch(folder / "within.ckpt", every_n_steps=1), collect, num_workers=0)
    return folder, collect.steps, module


def test_steps_before_a_validation_or_an_epochs_end_are_passed_over(run: tuple[Path, list[int], ToyModule]) -> None:
    # 14 batches an epoch, steps of 3; a validation after 6 and 12 of them
    assert run[1] == [1, 3, 6, 8, 11, 13]


@pytest.mark.parametrize("step", [1, 3, 6, 8, 11, 13])
def test_each_of_them_resumes_bitwise_with_all_validations(run: tuple[Path, list[int], ToyModule], step: int) -> None:
    folder, _, module = run
    counter = SendSignal(signal.SIGTERM)
    _, resumed = fit(folder / f"from_{step}", counter, num_workers=0, resume=folder / f"step_{step}.ckpt")
    assert same_weights(resumed, module)
    validations = {1: 6, 3: 5, 6: 4, 8: 3, 11: 2, 13: 1}[step]
    assert counter.seen_validation_batches + 1 == 5 * validations


def test_a_step_that_was_passed_over_is_made_up_for(tmp_path: Path) -> None:
    collect = Collect(tmp_path / "within.ckpt")
    fit(tmp_path, SaveWithinEpoch(tmp_path / "within.ckpt", every_n_steps=2), collect, num_workers=0)
    assert collect.steps == [3, 6, 8, 11, 13]  # for 2, 4 and 5, 8, 10, 12


def test_by_the_clock(tmp_path: Path) -> None:
    collect = Collect(tmp_path / "within.ckpt")
    fit(tmp_path, SaveWithinEpoch(tmp_path / "within.ckpt", every_n_minutes=1e-9), collect, num_workers=0)
    assert collect.steps == [1, 3, 6, 8, 11, 13]


@pytest.mark.parametrize("interval", [{"every_n_steps": 0}, {"every_n_minutes": -0.5}])
def test_intervals_are_checked(tmp_path: Path, interval: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        SaveWithinEpoch(tmp_path / "within.ckpt", **interval)
