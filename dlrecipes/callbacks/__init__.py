"""What Lightning lacks: an average of the weights that is of use at once, exact resume and evaluation, a last
validation, stops at a NaN, a signal or by the clock, class weights that come late, and a warning where a detector
ignores its images."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlrecipes.callbacks.activation_monitor import ActivationMonitor
    from dlrecipes.callbacks.averaged_weights import AveragedWeights
    from dlrecipes.callbacks.constant_predictions import ConstantPredictions
    from dlrecipes.callbacks.deferred import DeferredReweighting
    from dlrecipes.callbacks.exact_evaluation import ExactEvaluation
    from dlrecipes.callbacks.exact_resume import ExactResume
    from dlrecipes.callbacks.fit_doctor import FitDoctor
    from dlrecipes.callbacks.graceful_stop import GracefulStop, StopRequested
    from dlrecipes.callbacks.last_validation import LastValidation
    from dlrecipes.callbacks.loss_early_stopping import LossEarlyStopping
    from dlrecipes.callbacks.lost_rank import LostRank
    from dlrecipes.callbacks.non_finite import NonFiniteStop
    from dlrecipes.callbacks.proximal_l1 import ProximalL1
    from dlrecipes.callbacks.sanity_checks import SanityChecks
    from dlrecipes.callbacks.save_within_epoch import SaveWithinEpoch
    from dlrecipes.callbacks.shift_monitor import CovariateShiftMonitor
    from dlrecipes.callbacks.staged_recipe import StagedRecipe
    from dlrecipes.callbacks.time_budget import TimeBudget

__all__ = [
    "ActivationMonitor",
    "AveragedWeights",
    "ConstantPredictions",
    "CovariateShiftMonitor",
    "DeferredReweighting",
    "ExactEvaluation",
    "ExactResume",
    "FitDoctor",
    "GracefulStop",
    "LastValidation",
    "LossEarlyStopping",
    "LostRank",
    "NonFiniteStop",
    "ProximalL1",
    "SanityChecks",
    "SaveWithinEpoch",
    "StagedRecipe",
    "StopRequested",
    "TimeBudget",
]

# Lightning takes seconds to import, so a callback is imported when it is first asked for.
_MODULES = {
    "ActivationMonitor": "activation_monitor",
    "AveragedWeights": "averaged_weights",
    "ConstantPredictions": "constant_predictions",
    "CovariateShiftMonitor": "shift_monitor",
    "DeferredReweighting": "deferred",
    "ExactEvaluation": "exact_evaluation",
    "ExactResume": "exact_resume",
    "FitDoctor": "fit_doctor",
    "GracefulStop": "graceful_stop",
    "LastValidation": "last_validation",
    "LossEarlyStopping": "loss_early_stopping",
    "LostRank": "lost_rank",
    "NonFiniteStop": "non_finite",
    "ProximalL1": "proximal_l1",
    "SanityChecks": "sanity_checks",
    "SaveWithinEpoch": "save_within_epoch",
    "StagedRecipe": "staged_recipe",
    "StopRequested": "graceful_stop",
    "TimeBudget": "time_budget",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
