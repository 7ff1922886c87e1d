"""Start from another model's weights: what fits is taken, what does not is left, and both are said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dlrecipes.checkpoint_io import load_checkpoint_file
from dlrecipes.errors import CheckpointError

__all__ = ["InitReport", "initialise"]


class InitReport(NamedTuple):
    """What ``initialise`` did; ``str()`` is a table."""

    source: str
    taken: list[str]
    classes: list[str]
    other_shape: list[str]
    absent: list[str]
    unused: list[str]

    def __str__(self) -> str:
        rows = [
            ("taken as they are", self.taken),
            ("class rows copied by name", self.classes),
            ("other shape, left at their start", self.other_shape),
            ("not in the file, left at their start", self.absent),
            ("in the file, not used", self.unused),
        ]
        lines = [f"weights from {self.source}"]
        for title, names in rows:
            shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
            lines.append(f"  {title:<38}{len(names):>5}  {shown if title != rows[0][0] else ''}".rstrip())
        return "\n".join(lines)


def _coco_classes(rows: int) -> list[str] | None:
    """Names of the official head's rows: category ids 0..90, from torchvision's own list."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return names if rows == len(names) + 1 else None


def _weights(content: dict[str, Any]) -> tuple[dict[str, Tensor], list[str] | None]:
    """State dict without the task's prefix, and the class names it was trained on, if the file tells."""
    if "state_dict" in content:
        info = (content.get("dlrecipes") or {}).get("info") or {}
        state = {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}
        return state, info.get("classes")
    state = content.get("model", content)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise KeyError("state_dict")
    head = state.get("class_embed.weight")
    return state, None if head is None else _coco_classes(head.shape[0])


@torch.no_grad()
def _copy_rows(target: Tensor, source: Tensor, theirs: Sequence[str], ours: Sequence[str]) -> int:
    """Copy class rows by name, and no-object's (the last) where both have it."""
    if target.shape[1:] != source.shape[1:]:
        return 0
    copied = 0
    for row, name in enumerate(ours):
        if name in theirs:
            target[row].copy_(source[list(theirs).index(name)])
            copied += 1
    if target.shape[0] == len(ours) + 1 and source.shape[0] == len(theirs) + 1:
        target[-1].copy_(source[-1])
    return copied


def initialise(model: nn.Module, path: str | Path, *, classes: Sequence[str]) -> InitReport:
    """Copy every weight of a checkpoint that has a namesake of the same shape in ``model``.

    The rows of class heads (``classifiers()`` of the model, if it has that) are copied by class name where the file
    tells its classes; where it does not, and the head has another shape, the head is left as it is.

    Args:
        model: changed in place.
        path: a dlrecipes checkpoint, one of facebookresearch/detr, or the weights of a timm network for an
            ``ImageModel`` around that network, whose names begin with ``net.`` then.
        classes: names of the model's classes; none for regression, whose head fits by shape or not at all.

    Raises:
        CheckpointError: not a checkpoint, or nothing in it fits.
    """
    try:
        source, theirs = _weights(load_checkpoint_file(path))
    except (KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} holds no weights under 'state_dict' or 'model': give a checkpoint file"
        ) from error
    heads = {f"{name}.{leaf}" for name in getattr(model, "classifiers", dict)() for leaf in ("weight", "bias")}
    report = InitReport(str(path), [], [], [], [], [])
    own = model.state_dict()
    if not source.keys() & own.keys():
        source = {f"net.{name}": value for name, value in source.items()}
    with torch.no_grad():
        for name, target in own.items():
            value = source.get(name)
            if value is None:
                report.absent.append(name)
            elif name in heads and theirs is not None and list(theirs) != list(classes):
                copied = _copy_rows(target, value, theirs, classes)
                report.classes.append(f"{name} {copied} of {len(classes)}")
            elif value.shape == target.shape:
                target.copy_(value)
                report.taken.append(name)
            else:
                report.other_shape.append(f"{name} {tuple(value.shape)} → {tuple(target.shape)}")
    report.unused.extend(name for name in source if name not in own)
    if not report.taken and not report.classes:
        raise CheckpointError(f"no weight of {path} fits {type(model).__name__}: is it a checkpoint of another model?")
    return report
