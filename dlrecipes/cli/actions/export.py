"""``dlrecipes export RUN``: a trained run as one file for other programs."""

from __future__ import annotations

from pathlib import Path

import torch

from dlrecipes.cli.actions.predict import find_checkpoint, load_task
from dlrecipes.errors import UserError
from dlrecipes.runs.export import EXPORT_FORMATS, export_module

__all__ = ["export"]


def export(
    run: str | Path,
    *,
    format: str = "onnx",
    output: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
) -> Path:
    """Write the best checkpoint of a run as ONNX or as ``torch.export``'s .pt2, checked against the network.

    The file takes uint8 images of the run's size, RGB, in batches of any size, and has normalisation and the last
    function inside. Classes and preprocessing are written into it.

    Args:
        run: run folder, or a checkpoint.
        format: ``"onnx"`` or ``"torch"``.
        output: file; default ``RUN/best.onnx`` or ``RUN/best.pt2``.
        image_size: (height, width); default what most training images were scaled to: other shapes are distorted.

    Returns:
        The file.

    Raises:
        UserError: no such run, a package that is missing, or a network that cannot be exported.
    """
    checkpoint, home = find_checkpoint(Path(run))
    task = load_task(checkpoint, torch.device("cpu"))
    if task.info is None:
        raise UserError(f"{checkpoint} does not know its classes: it was saved before training began.")
    path = Path(output) if output is not None else home / f"{checkpoint.stem}{EXPORT_FORMATS[format]}"
    answer = None if task.info.task == "detection" else getattr(task, "predictions", None)
    try:
        exported = export_module(task.model, task.info, path, format=format, image_size=image_size, answer=answer)
    except ValueError as error:
        raise UserError(f"{path}: {error}.") from error
    print(
        f"{exported.path} ({exported.path.stat().st_size / 2**20:.1f} MB): its answers differ from the network's by "
        f"{exported.difference:.1e} of the largest at most ({checkpoint})\n  {exported.takes}"
    )
    return exported.path
