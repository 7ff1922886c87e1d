"""Where a run is in its schedule, also where a resume has changed how many steps an epoch has."""

from __future__ import annotations

import math

import lightning.pytorch as pl

__all__ = ["schedule_position"]


def schedule_position(trainer: pl.Trainer, step: int) -> int:
    r"""The step at which a run would be whose epochs had all been as long as the present one.

    .. math:: e \, n + \lceil b / a \rceil, \qquad n = \lceil N / a \rceil

    with the finished epochs e, the batches b of this epoch, which has N, and a of them a step. That is ``step`` unless
    a run that is resumed from an epoch's end has another batch size, number of devices or of images since: its share of
    the epochs goes on where it was, and is 1 at the end, while steps would be counted in two measures.

    Args:
        trainer: in a fit, after a step.
        step: the scheduler's own count, for a run that ends by ``max_steps``.
    """
    batches, each = trainer.num_training_batches, trainer.accumulate_grad_batches
    epochs = trainer.max_epochs
    if math.isinf(batches) or epochs is None or epochs < 0:
        return step
    steps = math.ceil(batches / each)
    if 0 <= trainer.max_steps < epochs * steps:
        return step
    return trainer.current_epoch * steps + math.ceil((trainer.fit_loop.batch_idx + 1) / each)
