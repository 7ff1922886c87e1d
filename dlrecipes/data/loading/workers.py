"""What datamodules have in common: ranks, data workers, the length of a run, and the range of an option."""

from __future__ import annotations

import math
import os
from collections.abc import Sized

import lightning as L

from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted

__all__ = ["at_least", "choose_workers", "planned_epochs", "rank_of"]


def at_least(name: str, value: float | None, least: float) -> None:
    """Refuse a smaller value; None is allowed.

    Raises:
        UserError: naming the option and its value.
    """
    if value is not None and value < least:
        raise UserError(f"{name} must be at least {least}, got {value}.")


def rank_of(trainer: L.Trainer | None) -> tuple[int, int]:
    """(this process, all processes); without a trainer there is one."""
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def choose_workers(trainer: L.Trainer | None, most: int) -> tuple[int, str]:
    """How many processes should prepare batches for each device, and a sentence that says why.

    Args:
        trainer: whose devices are to be fed; None: a CPU.
        most: more would bring nothing.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    devices = 1 if trainer is None else trainer.num_devices
    on_cpu = trainer is None or trainer.strategy.root_device.type == "cpu"
    spare = cores // devices - 1
    if on_cpu and spare <= 1:
        # measured on two cores: a worker interrupts the threads that compute, and 130 ms a step become 180
        return 0, f"Batches are prepared between the steps: {'all cores' if cores > 1 else 'the only core'} compute."
    workers = max(1, min(most, spare))
    who = counted(workers, "worker process", "worker processes")
    return workers, (
        f"{who} a device {'prepares' if workers == 1 else 'prepare'} batches, for {counted(cores, 'core')} "
        f"and {counted(devices, 'device')}."
    )


def planned_epochs(trainer: L.Trainer | None, loader: Sized) -> int | None:
    """Epochs that a trainer will run: its ``max_epochs``, or fewer if ``max_steps`` ends the run before.

    Where only ``max_time`` is set, or nothing, that cannot be told: None. A run that ``max_time`` cuts short is planned
    as if it was not.

    Args:
        trainer: None: unknown.
        loader: of the training batches.
    """
    if trainer is None:
        return None
    limit, batches = trainer.limit_train_batches, len(loader)
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * (1.0 if limit is None else limit))
    steps = math.ceil(max(1, batches) / trainer.accumulate_grad_batches)
    bounds = []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        bounds.append(trainer.max_epochs)
    if trainer.max_steps >= 0:
        bounds.append(math.ceil(trainer.max_steps / steps))
    return min(bounds, default=None)
