"""Sample weights of a regression that raise the rare values of its targets."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np

from dlrecipes.data.formats.image_source import ImageSource, ImageTable
from dlrecipes.errors import UserError
from dlrecipes.functional.label_density import DensityWeighting, density_weights

__all__ = ["DENSITY_WEIGHTS", "with_density_weights"]

DENSITY_WEIGHTS = get_args(DensityWeighting)


def with_density_weights(source: ImageSource, table: ImageTable, scheme: str) -> ImageTable:
    """A training split whose weights fall with the smoothed density of its targets (label distribution smoothing).

    Of several targets, the mean of their weights is taken. Weights that the data has are multiplied by them.

    Args:
        source: which the split is of.
        table: the split; validation keeps its own weights.
        scheme: one of `DENSITY_WEIGHTS`, see `dlrecipes.functional.label_density.density_weights`.

    Raises:
        UserError: data that has no numbers to predict.
    """
    if source.task != "regression":
        raise UserError(
            f"density_weights are for numbers to predict, and {source.root} has classes: leave them out, or balance "
            "with --data.sampler."
        )
    kind = next(kind for kind in get_args(DensityWeighting) if kind == scheme)
    columns = [density_weights(column, scheme=kind).numpy() for column in table.targets.astype(np.float64).T]
    weights = np.stack(columns, axis=1).mean(axis=1)
    return replace(table, weights=weights if table.weights is None else table.weights * weights)
