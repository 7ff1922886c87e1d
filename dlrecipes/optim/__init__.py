"""Parameter groups and learning-rate schedules."""

from dlrecipes.optim.groups import parameter_groups
from dlrecipes.optim.schedules import constant, cosine, flat_cosine, step_at_two_thirds, warm_up

__all__ = ["constant", "cosine", "flat_cosine", "parameter_groups", "step_at_two_thirds", "warm_up"]
