"""Networks that a student learns from: the checkpoint of a run, or the average of the student's own weights."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dlrecipes.checkpoint_io import load_checkpoint_file
from dlrecipes.contracts import DataInfo
from dlrecipes.errors import CheckpointError, UserError
from dlrecipes.parts import import_object, model_of_run
from dlrecipes.tasks.classification import ClassificationTask

__all__ = ["EMATeacher", "RunTeacher", "SharedClasses", "load_teacher", "shared_classes"]


class EMATeacher(nn.Module):
    r"""The exponential average of a student's weights, which is steadier than the student (mean teacher: Tarvainen and
    Valpola, 2017, arXiv:1703.01780).

    .. math:: \bar w_t = d_t\, \bar w_{t-1} + (1 - d_t)\, w_t, \qquad d_t = \min\Big(d, \frac{1 + t}{10 + t}\Big)

    It answers in evaluation mode and is never trained; buffers, such as the statistics of batch norms, are the
    student's. Its weights are part of the state, so that a resumed run goes on exactly.

    Args:
        model: the student; it is copied.
        decay: d, between 0 and 1. The time that it looks back is 1 / (1 − d) steps.

    Raises:
        ValueError: a decay outside 0..1.

    Example:
        >>> student = nn.Linear(1, 1, bias=False)
        >>> teacher = EMATeacher(student, decay=0.9)
        >>> _ = teacher.average.weight.data.fill_(0.0), student.weight.data.fill_(1.0)
        >>> teacher.update(student, step=0)  # the ramp: d = 1/10
        >>> round(teacher.average.weight.item(), 6)
        0.9
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 < decay < 1:
            raise ValueError(f"decay={decay}: must be between 0 and 1")
        self.decay = decay
        self.average = copy.deepcopy(model).requires_grad_(False)

    def decay_at(self, step: int) -> float:
        """d of step t, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the student, after its optimizer step ``step``; does not wait for the device."""
        average: Any = get_ema_multi_avg_fn(self.decay_at(step))
        average(list(self.average.parameters()), list(model.parameters()), None)
        for own, new in zip(self.average.buffers(), model.buffers(), strict=True):
            own.copy_(new)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """float [B, 3, S, S], normalised → outputs [B, C] such as the student's: cosines where its loss scales."""
        if self.average.training:  # only now: Lightning warns of parts that are in evaluation mode when a fit begins
            self.average.eval()
        outputs: Tensor = self.average(images)
        return outputs


class RunTeacher:
    """A frozen task, whose weights are nobody's else: no part of the student's checkpoint, optimizer or copies.

    It is no ``nn.Module`` for that reason.

    Args:
        task: a classifier that knows its data (``task.info``).

    Raises:
        UserError: a task that does not know its data.
    """

    def __init__(self, task: ClassificationTask) -> None:
        if task.info is None:
            raise UserError(f"the teacher {type(task).__name__} does not know its classes: it was never trained")
        self.task = task.eval().requires_grad_(False)
        self.info: DataInfo = task.info

    def __deepcopy__(self, memo: dict[int, Any]) -> RunTeacher:
        return self  # an average of the student's weights copies the student, and needs no second teacher

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 images [B, 3, S, S], or float ones in 0..255, of any size → logits [B, its classes].

        They are scaled to the size that the teacher was trained for, and normalised as it wants.
        """
        side = self.info.image_size
        if images.shape[-1] != side:
            images = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
        return self.task.logits(self.task(images))


class SharedClasses(NamedTuple):
    """Classes that teacher and student both know, in the student's order.

    Attributes:
        names: K of them.
        student, teacher: int64 [K], their labels in each.
        position: int64 [C], place among the K of each class of the student; −1: the teacher does not know it.
    """

    names: tuple[str, ...]
    student: Tensor
    teacher: Tensor
    position: Tensor

    def to(self, device: torch.device) -> SharedClasses:
        """With the tensors on a device."""
        return SharedClasses(self.names, *(tensor.to(device) for tensor in self[1:]))


def shared_classes(student: Sequence[str], teacher: Sequence[str]) -> SharedClasses:
    """Match classes by name.

    Args:
        student, teacher: class names; position = label.

    Raises:
        UserError: fewer than two are shared, and a softmax over one class says nothing.

    Example:
        >>> found = shared_classes(("ant", "bee", "cow"), ("cow", "dog", "ant"))
        >>> found.names, found.teacher.tolist(), found.position.tolist()
        (('ant', 'cow'), [2, 0], [0, -1, 1])
    """
    place = {name: label for label, name in enumerate(teacher)}
    own = [label for label, name in enumerate(student) if name in place]
    if len(own) < 2:
        raise UserError(
            f"the teacher knows {len(own)} of the data's classes ({_listed(student)}), and two are needed; it knows "
            f"{_listed(teacher)}: take a teacher of this data, or name the classes alike"
        )
    position = torch.full((len(student),), -1)
    position[own] = torch.arange(len(own))
    names = tuple(student[label] for label in own)
    return SharedClasses(names, torch.tensor(own), torch.tensor([place[name] for name in names]), position)


def load_teacher(path: str | Path) -> RunTeacher:
    """The classifier of a run, to learn from.

    Args:
        path: run folder (its best checkpoint, else the last), or a checkpoint.

    Raises:
        UserError: no such run, a checkpoint that cannot be used, or one of another kind of task.
    """
    given = Path(path).expanduser()
    checkpoint = _checkpoint_of(given)
    if (given / "config.yaml").is_file():
        model_of_run(given / "config.yaml")  # for the user's own classes
    record = load_checkpoint_file(checkpoint).get("dlrecipes")
    if record is None:
        raise CheckpointError(f"{checkpoint} was not made by a dlrecipes task, so it cannot teach: give a run's folder")
    module, _, name = str(record["task"]["class_path"]).rpartition(".")
    if module.split(".")[0] != "dlrecipes" and module not in sys.modules:
        raise CheckpointError(f"{checkpoint} names the task {module}.{name}: give the folder of its run, or import it")
    task = import_object(f"{module}.{name}")
    kind = (record["info"] or {}).get("task")
    if not (isinstance(task, type) and issubclass(task, ClassificationTask)) or kind != "classification":
        raise UserError(
            f"{checkpoint} is a {name} of {kind} data: a teacher must be a classifier of one label an image"
        )
    return RunTeacher(task.load_from_checkpoint(checkpoint))


def _checkpoint_of(path: Path) -> Path:
    if not path.is_dir():
        return path  # reading it says what is wrong
    for name in ("best.ckpt", "last.ckpt"):
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    raise UserError(f"teacher '{path}' holds no checkpoint (checkpoints/best.ckpt): give the folder of a finished run.")


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")
