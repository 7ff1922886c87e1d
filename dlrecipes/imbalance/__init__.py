"""Imbalanced labels: what is known about the classes, and how rare ones are seen more often."""

from dlrecipes.imbalance.advise import Advice, advise
from dlrecipes.imbalance.class_info import ClassInfo
from dlrecipes.imbalance.decoupling import (
    CosineLinear,
    LearnableWeightScaling,
    last_linear,
    reinit_classifier,
    tau_normalise,
)
from dlrecipes.imbalance.deferral import first_balanced_epoch
from dlrecipes.imbalance.double import double_balance
from dlrecipes.imbalance.feature_smoothing import FeatureDistributionSmoothing
from dlrecipes.imbalance.feature_smote import FeatureSMOTE
from dlrecipes.imbalance.long_tail import long_tail_counts, long_tail_indices
from dlrecipes.imbalance.prototypes import NearestClassMean
from dlrecipes.imbalance.samplers.balanced import (
    BalancedDistributedSampler,
    MPerClassSampler,
    SamplingMode,
    class_shares,
)
from dlrecipes.imbalance.samplers.repeat_factor import RepeatFactorSampler, repeat_factors
from dlrecipes.imbalance.samplers.sharding import ShardedSampler
from dlrecipes.imbalance.samplers.weighted import WeightedDistributedSampler
from dlrecipes.imbalance.synthetic.adasyn import ADASYN
from dlrecipes.imbalance.synthetic.noise import GaussianNoise, Interpolate
from dlrecipes.imbalance.synthetic.oversample import OverSampler, check_no_leakage
from dlrecipes.imbalance.synthetic.smote import SMOTE, BorderlineSMOTE
from dlrecipes.imbalance.synthetic.smotenc import SMOTENC

__all__ = [
    "ADASYN",
    "SMOTE",
    "SMOTENC",
    "Advice",
    "BalancedDistributedSampler",
    "BorderlineSMOTE",
    "ClassInfo",
    "CosineLinear",
    "FeatureDistributionSmoothing",
    "FeatureSMOTE",
    "GaussianNoise",
    "Interpolate",
    "LearnableWeightScaling",
    "MPerClassSampler",
    "NearestClassMean",
    "OverSampler",
    "RepeatFactorSampler",
    "SamplingMode",
    "ShardedSampler",
    "WeightedDistributedSampler",
    "advise",
    "check_no_leakage",
    "class_shares",
    "double_balance",
    "first_balanced_epoch",
    "last_linear",
    "long_tail_counts",
    "long_tail_indices",
    "reinit_classifier",
    "repeat_factors",
    "tau_normalise",
]
