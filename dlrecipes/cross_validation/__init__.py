"""Cross validation: a fresh network, folder and tracked run for each fold, and what the folds say together."""

from __future__ import annotations

from dlrecipes.cross_validation.evaluate import evaluate_fold
from dlrecipes.cross_validation.results import CrossValidation, FoldMetric
from dlrecipes.cross_validation.validator import CrossValidator

__all__ = ["CrossValidation", "CrossValidator", "FoldMetric", "evaluate_fold"]
