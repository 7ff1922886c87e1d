"""One table that drives every callback of the package through the same checks."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from toy_fit import ToyLoaders, ToyModule, same_weights

import dlrecipes.callbacks
from dlrecipes.callbacks import (
    ActivationMonitor,
    AveragedWeights,
    ConstantPredictions,
    CovariateShiftMonitor,
    ExactEvaluation,
    ExactResume,
    FitDoctor,
    GracefulStop,
    LastValidation,
    LossEarlyStopping,
    LostRank,
    NonFiniteStop,
    ProximalL1,
    SanityChecks,
    StagedRecipe,
    TimeBudget,
)
from dlrecipes.callbacks.stages import Epochs, Stage

CALLBACKS: dict[str, Callable[[Path], pl.Callback]] = {
    "ActivationMonitor": lambda folder: ActivationMonitor(every_n_steps=1),
    "ConstantPredictions": lambda folder: ConstantPredictions(),
    "CovariateShiftMonitor": lambda folder: CovariateShiftMonitor(),
    "AveragedWeights": lambda folder: AveragedWeights(0.9),
    "ExactEvaluation": lambda folder: ExactEvaluation(),
    "ExactResume": lambda folder: ExactResume(seed=0),
    "GracefulStop": lambda folder: GracefulStop(folder / "stopped.ckpt"),
    "LastValidation": lambda folder: LastValidation(),
    "NonFiniteStop": lambda folder: NonFiniteStop(),
    "ProximalL1": lambda folder: ProximalL1(0.0),
    "LostRank": lambda folder: LostRank(folder / "last.ckpt"),
    "LossEarlyStopping": lambda folder: LossEarlyStopping(),
    "FitDoctor": lambda folder: FitDoctor(),
    "SanityChecks": lambda folder: SanityChecks(seconds=600),
    "StagedRecipe": lambda folder: StagedRecipe([Stage("one", Epochs(1)), Stage("two")]),
    "TimeBudget": lambda folder: TimeBudget(minutes=5),
}

ELSEWHERE = {
    "DeferredReweighting",  # needs classes and a loss of ours: test_deferred.py
    "SaveWithinEpoch",  # Lightning refuses it beside enable_checkpointing=False: test_save_within_epoch.py
}


class NoDraws(ToyLoaders):
    """Without augmentation, so that a callback that seeds the generators leaves the weights alone too."""

    def on_after_batch_transfer(self, batch: dict[str, torch.Tensor], dataloader_idx: int) -> dict[str, torch.Tensor]:
        return batch


def fit(folder: Path, *callbacks: pl.Callback, fast_dev_run: bool = False) -> tuple[pl.Trainer, ToyModule]:
    module = ToyModule(draws=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=list(callbacks),
        default_root_dir=folder,
        fast_dev_run=fast_dev_run,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=NoDraws(0))
    return trainer, module


@pytest.fixture(params=list(CALLBACKS))
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], pl.Callback]:
    return lambda: CALLBACKS[request.param](tmp_path)


def test_the_table_is_complete() -> None:
    public = (getattr(dlrecipes.callbacks, name) for name in dlrecipes.callbacks.__all__)
    assert {c.__name__ for c in public if issubclass(c, pl.Callback)} == set(CALLBACKS) | ELSEWHERE


def test_nothing_happens_to_a_run_that_is_well(make: Callable[[], pl.Callback], tmp_path: Path) -> None:
    changes = isinstance(make(), AveragedWeights)  # a fit ends with the average: that is what it is for
    assert same_weights(fit(tmp_path, make())[1], fit(tmp_path)[1]) is not changes


def test_can_be_pickled_and_used_again_after_a_fit(make: Callable[[], pl.Callback], tmp_path: Path) -> None:
    callback = make()
    fit(tmp_path, callback, fast_dev_run=True)
    copy = pickle.loads(pickle.dumps(callback))
    trainer, _ = fit(tmp_path, copy, fast_dev_run=True)
    assert trainer.callbacks.count(copy) == 1


def test_state_can_be_read_without_running_code(make: Callable[[], pl.Callback], tmp_path: Path) -> None:
    file = io.BytesIO()
    trainer, _ = fit(tmp_path, make())
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    torch.save(make().state_dict(), file)
    file.seek(0)
    make().load_state_dict(torch.load(file, weights_only=True))
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["global_step"] == 14


def test_validation_alone_works_and_draws_nothing(make: Callable[[], pl.Callback], tmp_path: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[make()],
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = ToyModule(draws=False)
    before = torch.get_rng_state()
    metrics = trainer.validate(module, datamodule=NoDraws(0), verbose=False)
    assert metrics[0]["val/loss"] > 0
    assert torch.equal(torch.get_rng_state(), before)
