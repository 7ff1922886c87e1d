"""What datamodules have in common: ranks, data workers, and the range of an option."""

from __future__ import annotations

import os

import lightning as L

from dlrecipes.errors import UserError

__all__ = ["at_least", "choose_workers", "rank_of"]


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
        return 0, f"Batches are prepared between the steps: all {cores} core(s) compute."
    workers = max(1, min(most, spare))
    return workers, (
        f"{workers} worker process(es) a device prepare batches, for {cores} cores and {devices} device(s)."
    )
