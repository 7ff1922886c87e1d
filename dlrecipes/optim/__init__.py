"""Optimizers, parameter groups and learning-rate schedules."""

from dlrecipes.optim.groups import parameter_groups
from dlrecipes.optim.lr_finder import LRSweep, find_lr
from dlrecipes.optim.lr_suggestion import LRSuggestion, suggest_lr
from dlrecipes.optim.menu import OPTIMIZERS, OptimizerChoice, default_lr, make_optimizer
from dlrecipes.optim.proximal import add_proximal_l1, soft_threshold_, zero_share
from dlrecipes.optim.schedules import (
    constant,
    cosine,
    flat_cosine,
    linear,
    one_cycle,
    piecewise,
    schedule_factor,
    step,
    step_at_two_thirds,
    warm_up,
    warmup_length,
)

__all__ = [
    "OPTIMIZERS",
    "LRSuggestion",
    "LRSweep",
    "OptimizerChoice",
    "add_proximal_l1",
    "constant",
    "cosine",
    "default_lr",
    "find_lr",
    "flat_cosine",
    "linear",
    "make_optimizer",
    "one_cycle",
    "parameter_groups",
    "piecewise",
    "schedule_factor",
    "soft_threshold_",
    "step",
    "step_at_two_thirds",
    "suggest_lr",
    "warm_up",
    "warmup_length",
    "zero_share",
]
