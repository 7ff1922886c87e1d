"""How many epochs of the user's images make the steps that a preset needs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from dlrecipes.functional.words import counted
from dlrecipes.trainer import uses_cuda

__all__ = ["Estimate", "estimate_epochs", "planned_devices", "steps_an_epoch"]

_MOST_VALIDATIONS = 30  # of a run whose number of epochs was chosen


class Estimate(NamedTuple):
    """What ``estimate_epochs`` found.

    Attributes:
        sentence: for people, without its full stop.
        max_epochs: to train; None: the user, or a preset, has said when the run ends.
        validate_every: epochs from one validation to the next, where ``max_epochs`` is chosen.
    """

    sentence: str
    max_epochs: int | None = None
    validate_every: int = 1


def estimate_epochs(steps_needed: int, images: int, each: int, trainer: Mapping[str, Any]) -> Estimate:
    """The epochs that a number of optimizer steps takes, and how often to validate in them: about 30 times.

    Args:
        steps_needed: the preset's estimate for learning from its own start.
        images: in the training split.
        each: steps of an epoch, see ``steps_an_epoch``.
        trainer: its settings; ``max_epochs``, ``max_steps`` and ``max_time`` say when a run ends.

    Example:
        >>> settings = {"max_epochs": None, "max_steps": -1, "max_time": None}
        >>> estimate_epochs(1000, 292, 37, settings)
        Estimate(sentence='about 1,000 steps are needed, which are 28 epochs of the 292 images', max_epochs=28, \
validate_every=1)
        >>> estimate_epochs(1000, 292, 37, settings | {"max_epochs": 10}).sentence
        'about 1,000 steps are needed, and 10 epochs of the 292 images will be 370'
    """
    epochs = max(1, math.ceil(steps_needed / each))
    need, of_images = f"about {steps_needed:,} steps are needed", f"of the {counted(images, 'image')}"
    if trainer["max_epochs"] is None and trainer["max_steps"] in (None, -1) and trainer["max_time"] is None:
        return Estimate(
            f"{need}, which are {counted(epochs, 'epoch')} {of_images}", epochs, max(1, epochs // _MOST_VALIDATIONS)
        )
    given = trainer["max_epochs"]
    if given is None or given < 0 or trainer["max_steps"] not in (None, -1):
        return Estimate(f"{need}, and an epoch {of_images} has {each:,}")
    return Estimate(f"{need}, and {counted(given, 'epoch')} {of_images} will be {given * each:,}")


def steps_an_epoch(samples: int, batch_size: int, trainer: Mapping[str, Any]) -> int:
    """Optimizer steps in an epoch, on all devices of the run together.

    Args:
        samples: of an epoch: the images of the training split, some perhaps repeated.
        batch_size: of one device.
        trainer: its settings.
    """
    together: int = batch_size * planned_devices(trainer) * trainer["accumulate_grad_batches"]
    return max(1, math.ceil(samples / together))


def planned_devices(trainer: Mapping[str, Any]) -> int:
    """How many devices the Trainer will use, before there is one, as it reads ``devices`` and ``num_nodes``.

    Example:
        >>> planned_devices({"devices": [0, 2], "num_nodes": 2, "accelerator": "gpu"})
        4
    """
    world = os.environ.get("WORLD_SIZE", "")
    if world.isdecimal():  # torchrun knows
        return max(1, int(world))
    devices = trainer["devices"]
    if isinstance(devices, str) and devices not in ("auto", "-1"):
        named = [word for word in devices.split(",") if word.strip()]
        devices = int(devices) if devices.isdecimal() else len(named)
    if isinstance(devices, list | tuple):
        devices = len(devices)
    if devices in ("auto", -1, "-1", None):
        devices = torch.cuda.device_count() if uses_cuda(str(trainer["accelerator"])) else 1
    return max(1, int(devices)) * int(trainer["num_nodes"])
