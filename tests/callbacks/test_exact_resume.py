from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from toy_fit import ToyModule, fit, same_weights

from dlrecipes.callbacks import ExactResume
from dlrecipes.callbacks.exact_resume import seed_everything_at

SCRIPT = Path(__file__).with_name("toy_fit.py")


def draw() -> tuple[float, float, float]:
    return float(torch.rand(1)), float(np.random.rand()), random.random()  # noqa: NPY002


def best(trainer: object) -> tuple[str, dict[str, float]]:
    callback = next(c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))  # type: ignore[attr-defined]
    return Path(callback.best_model_path).name, {Path(k).name: float(v) for k, v in callback.best_k_models.items()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object, ToyModule]:
    folder = tmp_path_factory.mktemp("reference")
    return folder, *fit(folder)


def test_position_decides_what_all_generators_draw() -> None:
    seed_everything_at(0, 1, 2)
    first = draw()
    draw()
    seed_everything_at(0, 1, 2)
    assert draw() == first
    for other in [(0, 2, 1), (0, 1, 3), (1, 1, 2), (0, 1, 2, 0, 1)]:
        seed_everything_at(*other)
        assert not set(draw()) & set(first)


@pytest.mark.parametrize("seed", [-1, 1.0, True, "0"])
def test_bad_seed_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match="seed must be an integer"):
        ExactResume(seed)  # type: ignore[arg-type]


def test_killed_run_resumes_bitwise(reference: tuple[Path, object, ToyModule], tmp_path: Path) -> None:
    """SIGKILL in mid-epoch and at an epoch's end, with workers, EMA, a schedule, dropout and accumulation."""
    _, trainer, module = reference
    # 14 batches and 5 steps an epoch: batch 20 comes after step 6 of epoch 1, batch 28 just after step 10, its last.
    cases = {20: "at_step=6.ckpt", 28: "at_step=10.ckpt"}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = {
        batch: subprocess.Popen(
            [sys.executable, SCRIPT, tmp_path / str(batch), "--signal=SIGKILL", f"--batch={batch}"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for batch in cases
    }
    for batch, checkpoint in cases.items():
        assert killed[batch].wait(timeout=300) == -signal.SIGKILL
        folder = tmp_path / str(batch)
        assert max(folder.glob("at_*"), key=lambda p: p.stat().st_mtime_ns).name == checkpoint
        resumed_trainer, resumed = fit(folder, resume=folder / checkpoint)
        assert same_weights(resumed, module)
        assert best(resumed_trainer) == best(trainer)


@pytest.mark.parametrize("checkpoint", ["at_step=2.ckpt", "at_step=4.ckpt", "last.ckpt"])
def test_any_checkpoint_leads_to_the_same_weights_with_any_number_of_workers(
    reference: tuple[Path, object, ToyModule], tmp_path: Path, checkpoint: str
) -> None:
    folder, _, module = reference
    _, resumed = fit(tmp_path, resume=folder / checkpoint, num_workers=0)
    assert same_weights(resumed, module)


def test_without_it_a_resumed_run_differs(tmp_path: Path) -> None:
    torch.manual_seed(5)
    _, module = fit(tmp_path, exact=False, num_workers=0)
    _, resumed = fit(tmp_path, exact=False, num_workers=0, resume=tmp_path / "at_step=6.ckpt")
    assert not same_weights(resumed, module)


def test_validations_in_between_change_nothing(reference: tuple[Path, object, ToyModule], tmp_path: Path) -> None:
    _, module = fit(tmp_path, num_workers=0, val_check_interval=1.0, num_sanity_val_steps=0)
    assert same_weights(module, reference[2])


def test_best_checkpoints_are_remembered_when_the_folder_moves(tmp_path: Path) -> None:
    trainer, _ = fit(tmp_path / "old", num_workers=0, max_epochs=2)
    shutil.move(tmp_path / "old", tmp_path / "new")
    name, scores = best(trainer)
    (tmp_path / "new" / name).unlink()  # a file that is gone is forgotten, the others are kept
    moved, _ = fit(tmp_path / "new", num_workers=0, max_epochs=2, resume=tmp_path / "new" / "last.ckpt")
    callback = next(c for c in moved.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
    assert set(callback.best_k_models) == {str(tmp_path / "new" / other) for other in scores if other != name}
    assert callback.best_model_path == ""
    assert callback.last_model_path == str(tmp_path / "new" / "last.ckpt")
