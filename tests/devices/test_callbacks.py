"""Every callback of the package in a fit on the device: which of them make a step wait."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
from fits import fit, pictures
from stand_in import DEVICE

import dlrecipes.callbacks
from dlrecipes.callbacks import (
    ActivationMonitor,
    AveragedWeights,
    ConstantPredictions,
    CovariateShiftMonitor,
    DeferredReweighting,
    ExactEvaluation,
    FitDoctor,
    GracefulStop,
    LastValidation,
    LossEarlyStopping,
    LostRank,
    NonFiniteStop,
    ProximalL1,
    SaveWithinEpoch,
    StagedRecipe,
    TimeBudget,
)
from dlrecipes.callbacks.stages import Epochs, Stage
from dlrecipes.models import CifarResNet
from dlrecipes.tasks import ClassificationTask

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides"),
]

CALLBACKS: dict[str, Callable[[Path], L.Callback]] = {
    "ActivationMonitor": lambda folder: ActivationMonitor(every_n_steps=1),
    "AveragedWeights": lambda folder: AveragedWeights(0.9, DEVICE),
    "ConstantPredictions": lambda folder: ConstantPredictions(),
    "CovariateShiftMonitor": lambda folder: CovariateShiftMonitor(),
    "DeferredReweighting": lambda folder: DeferredReweighting(0.5),
    "ExactEvaluation": lambda folder: ExactEvaluation(),
    "FitDoctor": lambda folder: FitDoctor(),
    "GracefulStop": lambda folder: GracefulStop(folder / "stopped.ckpt"),
    "LastValidation": lambda folder: LastValidation(),
    "LossEarlyStopping": lambda folder: LossEarlyStopping(),
    "LostRank": lambda folder: LostRank(folder / "last.ckpt"),
    "NonFiniteStop": lambda folder: NonFiniteStop(),
    "ProximalL1": lambda folder: ProximalL1(1e-3),
    "SaveWithinEpoch": lambda folder: SaveWithinEpoch(folder / "last.ckpt", every_n_steps=100),
    "StagedRecipe": lambda folder: StagedRecipe([Stage("one", Epochs(1)), Stage("two")]),
    "TimeBudget": lambda folder: TimeBudget(minutes=5),
}
STAGES = {"DeferredReweighting", "ProximalL1", "StagedRecipe"}
ELSEWHERE = {
    "ExactResume",  # seeds the device's generator, and this one has none
    "SanityChecks",  # trains until a loss has fallen, which a loss without a value never does
}


@pytest.fixture(autouse=True)
def _no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy beside the training needs a stream of CUDA, and what it brings a value."""
    monkeypatch.setattr(NonFiniteStop, "_arrived", lambda self: dlrecipes.callbacks.non_finite._NEVER)
    monkeypatch.setattr(NonFiniteStop, "_check_now", lambda self, *args, **kwargs: None)


def test_the_table_is_complete() -> None:
    public = (getattr(dlrecipes.callbacks, name) for name in dlrecipes.callbacks.__all__)
    assert {c.__name__ for c in public if issubclass(c, L.Callback)} == set(CALLBACKS) | ELSEWHERE


@pytest.mark.parametrize("names", [set(CALLBACKS) - STAGES, STAGES], ids=["watching", "changing"])
def test_no_step_waits(names: set[str], tmp_path: Path) -> None:
    """All at once: a wait names its function."""
    made = [CALLBACKS[name](tmp_path) for name in sorted(names)]
    assert fit(ClassificationTask(CifarResNet(8)), pictures(), tmp_path, *made, max_epochs=2) == {}
