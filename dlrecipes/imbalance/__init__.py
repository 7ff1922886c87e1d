"""Imbalanced labels: what is known about the classes, and how rare ones are seen more often."""

from dlrecipes.imbalance.balanced import BalancedDistributedSampler, MPerClassSampler, SamplingMode, class_shares
from dlrecipes.imbalance.class_info import ClassInfo
from dlrecipes.imbalance.double import double_balance
from dlrecipes.imbalance.repeat_factor import RepeatFactorSampler, repeat_factors
from dlrecipes.imbalance.sharding import ShardedSampler

__all__ = [
    "BalancedDistributedSampler",
    "ClassInfo",
    "MPerClassSampler",
    "RepeatFactorSampler",
    "SamplingMode",
    "ShardedSampler",
    "class_shares",
    "double_balance",
    "repeat_factors",
]
