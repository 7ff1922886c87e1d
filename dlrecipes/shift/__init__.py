"""Covariate shift: tests whose p-values can be believed, what moved, what it costs, and what to do about it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlrecipes.shift.adapt import Tent, adapt_bn, mean_entropy
    from dlrecipes.shift.chi2 import chi2_test
    from dlrecipes.shift.combined import shift_test
    from dlrecipes.shift.corruptions import CORRUPTIONS, corrupt
    from dlrecipes.shift.density_ratio import DensityRatio, importance_weights, kliep, logistic_ratio, ulsif
    from dlrecipes.shift.energy import energy_test
    from dlrecipes.shift.expanded_test import ExpandedTable, ExpandedTest
    from dlrecipes.shift.features import PCA, FeatureTap, ShiftFeatures, collect, penultimate
    from dlrecipes.shift.harm import Harm, estimate_harm, fit_temperature
    from dlrecipes.shift.ks import ks_test
    from dlrecipes.shift.label_shift import LabelShift, bbse, bbse_test
    from dlrecipes.shift.mmd import mmd_test, mmd_witness
    from dlrecipes.shift.online import OnlineMMD
    from dlrecipes.shift.ood import OODScorer, conformal_p_values
    from dlrecipes.shift.prior import adjust_predictions, em_prior, label_shift_weights
    from dlrecipes.shift.properties import PROPERTIES, image_properties
    from dlrecipes.shift.report import Culprit, ShiftReport, compare
    from dlrecipes.shift.two_sample import FeatureShift, TwoSampleResult
    from dlrecipes.shift.two_sample_classifier import c2st

__all__ = [
    "CORRUPTIONS",
    "PCA",
    "PROPERTIES",
    "Culprit",
    "DensityRatio",
    "ExpandedTable",
    "ExpandedTest",
    "FeatureShift",
    "FeatureTap",
    "Harm",
    "LabelShift",
    "OODScorer",
    "OnlineMMD",
    "ShiftFeatures",
    "ShiftReport",
    "Tent",
    "TwoSampleResult",
    "adapt_bn",
    "adjust_predictions",
    "bbse",
    "bbse_test",
    "c2st",
    "chi2_test",
    "collect",
    "compare",
    "conformal_p_values",
    "corrupt",
    "em_prior",
    "energy_test",
    "estimate_harm",
    "fit_temperature",
    "image_properties",
    "importance_weights",
    "kliep",
    "ks_test",
    "label_shift_weights",
    "logistic_ratio",
    "mean_entropy",
    "mmd_test",
    "mmd_witness",
    "penultimate",
    "shift_test",
    "ulsif",
]

# torch, scipy and scikit-learn take seconds to import, so a part is imported when it is first asked for.
_MODULES = {
    "CORRUPTIONS": "corruptions",
    "Culprit": "report",
    "DensityRatio": "density_ratio",
    "ExpandedTable": "expanded_test",
    "ExpandedTest": "expanded_test",
    "FeatureShift": "two_sample",
    "FeatureTap": "features",
    "Harm": "harm",
    "LabelShift": "label_shift",
    "OODScorer": "ood",
    "OnlineMMD": "online",
    "PCA": "features",
    "PROPERTIES": "properties",
    "ShiftFeatures": "features",
    "ShiftReport": "report",
    "Tent": "adapt",
    "TwoSampleResult": "two_sample",
    "adapt_bn": "adapt",
    "adjust_predictions": "prior",
    "bbse": "label_shift",
    "bbse_test": "label_shift",
    "c2st": "two_sample_classifier",
    "chi2_test": "chi2",
    "collect": "features",
    "compare": "report",
    "conformal_p_values": "ood",
    "corrupt": "corruptions",
    "em_prior": "prior",
    "energy_test": "energy",
    "estimate_harm": "harm",
    "fit_temperature": "harm",
    "image_properties": "properties",
    "importance_weights": "density_ratio",
    "kliep": "density_ratio",
    "ks_test": "ks",
    "label_shift_weights": "prior",
    "logistic_ratio": "density_ratio",
    "mean_entropy": "adapt",
    "mmd_test": "mmd",
    "mmd_witness": "mmd",
    "penultimate": "features",
    "shift_test": "combined",
    "ulsif": "density_ratio",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
