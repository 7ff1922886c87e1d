"""What a checkpoint says of its task, and the task made again from nothing but that."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

import dlrecipes
from dlrecipes.checkpoint_io import load_checkpoint_file
from dlrecipes.contracts import DataInfo
from dlrecipes.errors import CheckpointError
from dlrecipes.parts import build_part, construct, constructor_parameters, part_spec, unknown_args

if TYPE_CHECKING:
    from dlrecipes.tasks.base import BaseTask

__all__ = ["RECORD", "rebuild_task", "task_record"]

RECORD = "dlrecipes"  # its key in a checkpoint

Task = TypeVar("Task", bound="BaseTask")


def task_record(task: BaseTask) -> dict[str, Any]:
    """Classes, preprocessing, parts and versions, all primitives."""
    return {
        "version": dlrecipes.__version__,
        "torch": str(torch.__version__),
        "task": part_spec(task),
        "info": None if task.info is None else task.info.to_dict(),
    }


def rebuild_task(
    cls: type[Task], path: str | Path, parts: dict[str, Any], *, map_location: Any = None, strict: bool = True
) -> Task:
    """The task of a checkpoint with its weights. ``BaseTask.load_from_checkpoint`` says what the arguments are.

    Raises:
        CheckpointError: missing, damaged, not made by dlrecipes, or with a part that is not known here.
    """
    checkpoint = load_checkpoint_file(path, map_location=map_location or "cpu")
    if RECORD not in checkpoint:
        raise CheckpointError(f"{path} was not made by a dlrecipes task: use --model.init {path} to take its weights")
    record, weights = checkpoint[RECORD], checkpoint["state_dict"]
    task = construct(cls, _arguments(cls, record["task"], parts, path))
    if record["info"] is not None:
        task.info = DataInfo.from_dict(record["info"])
    task.configure_model()
    for name, value in weights.items():
        _make_room(task, name, value)
    try:
        task.load_state_dict(weights, strict=strict)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit {cls.__name__}: {' '.join(str(error).split())}") from error
    return task.to(map_location) if map_location is not None else task


def _arguments(cls: type[Task], spec: dict[str, Any], parts: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Of the constructor: the recorded ones, but for ``init``, whose weights are in the checkpoint, and ``parts``."""
    unknown = [key for key in unknown_args(cls, spec) if key not in parts]
    if unknown:
        raise CheckpointError(
            f"{path} does not know {', '.join(unknown)} of {cls.__name__}: give {unknown[0]}= to "
            f"load_from_checkpoint, or keep each argument as an attribute of the same name"
        )
    known = constructor_parameters(cls)
    args = {
        key: build_part(value) if isinstance(value, dict) and "class_path" in value else value
        for key, value in spec["init_args"].items()
        if key in known and key not in parts
    }
    return (args | {"init": None} if "init" in known else args) | parts


def _make_room(task: nn.Module, name: str, value: Tensor) -> None:
    """A buffer that was given as a tensor, such as class weights, is no primitive: only the weights know of it."""
    owner, _, leaf = name.rpartition(".")
    with suppress(AttributeError):  # no such part
        part = task.get_submodule(owner)
        if not name.startswith("model.") and getattr(part, leaf) is None:
            setattr(part, leaf, torch.empty_like(value))
