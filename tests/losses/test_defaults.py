"""Who names no number gets the published one, by function and by module: formulas are tested with other numbers."""

import inspect
from typing import Any

import pytest

import dlrecipes.functional.losses as functional
import dlrecipes.losses as modules

# what the papers that the docstrings cite used, or what torch has; without a paper, our own choice
DEFAULTS: dict[str, dict[str, Any]] = {
    "asymmetric_loss": {"gamma_pos": 0.0, "gamma_neg": 4.0, "clip": 0.05},
    "balanced_contrastive_loss": {"temperature": 0.1},
    "balanced_mse_loss": {"noise": 1.0},
    "bi_tempered_loss": {"t1": 0.8, "t2": 1.2},
    "distillation_loss": {"temperature": 4.0},
    "distribution_balanced_loss": {
        "alpha": 0.1,
        "beta": 10.0,
        "mu": 0.2,
        "kappa": 0.05,
        "negative_scale": 2.0,
        "gamma": 2.0,
    },
    "focal_loss": {"gamma": 2.0},
    "gai_loss": {"noise": 1.0},
    "gaussian_nll_loss": {"beta": 0.0, "log_variance_range": (-14.0, 14.0)},
    "generalized_cross_entropy": {"q": 0.7},
    "head_to_tail_distillation_loss": {"temperature": 4.0, "tau": 1.0, "power": 1.0, "trust": 0.0},
    "huber_loss": {"delta": 1.0},
    "ia_bce_loss": {"alpha": 0.25, "gamma": 2.0},
    "label_aware_smoothing": {"head": 0.3, "tail": 0.0, "shape": "concave"},
    "laplace_nll_loss": {"log_scale_range": (-7.0, 7.0)},
    "ldam_loss": {"max_margin": 0.5, "scale": 30.0},
    "ldam_margins": {"max_margin": 0.5},
    "logit_adjusted_cross_entropy": {"tau": 1.0},
    "mal_loss": {"gamma": 1.5},
    "poly1_loss": {"epsilon": 1.0},
    "post_hoc_logit_adjustment": {"tau": 1.0},
    "quantile_loss": {"quantiles": (0.1, 0.5, 0.9)},
    "rebalanced_weights": {"alpha": 0.1, "beta": 10.0, "mu": 0.2},
    "seesaw_loss": {"p": 0.8, "q": 2.0, "eps": 0.01},
    "sigmoid_focal_loss": {"alpha": 0.25, "gamma": 2.0},
    "smooth_l1_loss": {"beta": 1.0},
    "supervised_contrastive_loss": {"temperature": 0.1},
    "symmetric_cross_entropy": {"alpha": 0.1, "beta": 1.0, "log_zero": -4.0},
    "tukey_loss": {"c": 4.685},
    "varifocal_loss": {"alpha": 0.75, "gamma": 2.0},
    "vector_scaling_loss": {"gamma": 0.15, "tau": 1.0},
}
MODULES = {
    "AsymmetricLoss": "asymmetric_loss",
    "BalancedContrastiveLoss": "balanced_contrastive_loss",
    "BalancedMSELoss": "balanced_mse_loss",
    "BiTemperedLoss": "bi_tempered_loss",
    "DistributionBalancedLoss": "distribution_balanced_loss",
    "FocalLoss": "focal_loss",
    "GAILoss": "gai_loss",
    "GaussianNLLLoss": "gaussian_nll_loss",
    "GeneralizedCrossEntropyLoss": "generalized_cross_entropy",
    "HeadToTailDistillLoss": "head_to_tail_distillation_loss",
    "HuberLoss": "huber_loss",
    "KDLoss": "distillation_loss",
    "LDAMLoss": "ldam_loss",
    "LabelAwareSmoothingLoss": "label_aware_smoothing",
    "LaplaceNLLLoss": "laplace_nll_loss",
    "LogitAdjustedLoss": "logit_adjusted_cross_entropy",
    "Poly1Loss": "poly1_loss",
    "QuantileLoss": "quantile_loss",
    "SeesawLoss": "seesaw_loss",
    "SigmoidFocalLoss": "sigmoid_focal_loss",
    "SmoothL1Loss": "smooth_l1_loss",
    "SupConLoss": "supervised_contrastive_loss",
    "SymmetricCrossEntropyLoss": "symmetric_cross_entropy",
    "TukeyLoss": "tukey_loss",
    "VSLoss": "vector_scaling_loss",
}
EVERYWHERE = {"ignore_index": -100, "label_smoothing": 0.0, "reduction": "mean"}
OF_THE_DATA = {"class_weights", "effective_beta", "learn_noise", "accumulate"}  # bound later, or only a module has it


def defaults_of(part: Any) -> dict[str, Any]:
    """Name -> default of each argument that has one other than None."""
    parameters = inspect.signature(part).parameters.items()
    return {name: p.default for name, p in parameters if p.default is not p.empty and p.default is not None}


def own(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in EVERYWHERE}


@pytest.mark.parametrize("name", functional.__all__)
def test_a_functions_defaults_are_the_published_ones(name: str) -> None:
    found = defaults_of(getattr(functional, name))
    assert own(found) == DEFAULTS.get(name, {})
    assert {key: value for key, value in found.items() if key in EVERYWHERE}.items() <= EVERYWHERE.items()


@pytest.mark.parametrize("name", modules.__all__)
def test_a_modules_defaults_are_its_functions(name: str) -> None:
    found = defaults_of(getattr(modules, name))
    numbers = {key: value for key, value in own(found).items() if key not in OF_THE_DATA and value is not False}
    expected = DEFAULTS[MODULES[name]] if name in MODULES else {}
    assert numbers.items() <= (expected | ({"dim": 128} if name == "BalancedContrastiveLoss" else {})).items()
    assert {key: value for key, value in found.items() if key in EVERYWHERE}.items() <= EVERYWHERE.items()
