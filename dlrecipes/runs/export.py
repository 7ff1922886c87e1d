"""A trained network as a file for other programs: ONNX, or ``torch.export``'s .pt2."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import dlrecipes
from dlrecipes.contracts import DataInfo, evaluation_side
from dlrecipes.errors import UserError
from dlrecipes.models.deploy import DeployedDetector, DeployedModel, deploy

__all__ = ["EXPORT_FORMATS", "Exported", "describe_export", "export_module"]

#: file name ending of each format
EXPORT_FORMATS = {"onnx": ".onnx", "torch": ".pt2"}

_NEEDED = ("onnx", "onnxruntime", "onnxscript")
_TOLERANCE = 1e-2  # of the check; float32 arithmetic in another order differs by 1e-6
_EXTRA_FILE = "dlrecipes.json"  # inside a .pt2


class Exported(NamedTuple):
    """What was written.

    Attributes:
        path: the file.
        difference: largest difference between its answers and the network's for random images, relative to the
            largest answer.
        takes: what to give it, in words.
    """

    path: Path
    difference: float
    takes: str


def export_module(
    model: nn.Module,
    info: DataInfo,
    path: str | Path,
    *,
    format: str = "onnx",
    image_size: tuple[int, int] | None = None,
    answer: Callable[[Tensor], Tensor] | None = None,
) -> Exported:
    """Write a network with its normalisation and its last function, and check the file against the network.

    The file takes ``images``, uint8 [batch, 3, height, width], RGB, for any batch, and gives ``probabilities`` [batch,
    C], ``values`` [batch, T] in the data's own units, or ``scores``, ``labels`` and ``boxes`` of detections. Classes,
    preprocessing and outputs are described inside it: in ``metadata_props`` of ONNX, in the extra file
    ``dlrecipes.json`` of a .pt2.

    Args:
        model: the trained network, on the CPU; put into evaluation mode.
        info: of the data that it was trained on.
        path: of the file; its ending is the format's. An older file is replaced once the new one is whole.
        format: ``"onnx"``, which needs the extra ``dlrecipes[export]``, or ``"torch"``.
        image_size: (height, width); default ``info.image_shape``, that of most training images, or where nobody looked
            the square of ``info.image_size``.
        answer: a task's ``predictions``, outputs → answers; default that of ``DeployedModel``. Not for detection.

    Raises:
        ValueError: an unknown format or ending, or a model that is not on the CPU.
        UserError: a package is missing, the network cannot be exported, the file cannot be written, or its answers are
            not the network's.

    Example:
        >>> from tempfile import mkdtemp
        >>> info = DataInfo(task="classification", classes=("cat", "dog"), category_ids=(0, 1), class_counts=(1, 1),
        ...                 num_train=2, max_objects=0, image_size=8)
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        >>> export_module(network, info, Path(mkdtemp()) / "pets.pt2", format="torch").path.name
        'pets.pt2'
    """
    target = Path(path)
    size = image_size or _usual_size(info)
    _check(model, target, format, size)
    deployed = deploy(model, info, answer=answer).eval()
    describing = describe_export(deployed, size)
    with _quiet(), _replacing(target) as temporary, torch.no_grad():
        program = _trace(deployed, size)
        if format == "onnx":
            _save_onnx(program, deployed, size, describing, temporary)
        else:
            torch.export.save(program, temporary, extra_files={_EXTRA_FILE: json.dumps(describing)})
        difference = _compare(deployed, temporary, format, size)
        if not difference <= _TOLERANCE:
            raise UserError(
                f"{type(model).__name__} gives other answers as {format} (relative difference {difference:.2g}), so "
                f"{target} was not written: its forward may depend on something else than its input and weights"
            )
    return Exported(target, difference, describing["input"])


def _usual_size(info: DataInfo) -> tuple[int, int]:
    height, width = info.image_shape or (info.image_size, info.image_size)
    return height, width


def describe_export(deployed: DeployedDetector | DeployedModel, size: tuple[int, int]) -> dict[str, str]:
    """What a program needs to know to use the file, as strings: numbers and lists in JSON."""
    info = deployed.info
    resize = "without padding"
    if info.task != "detection":
        side = evaluation_side(min(size), info.crop_fraction)
        resize = (
            f"shorter side to image_size / {info.crop_fraction:g} rounded down, {side}, by Pillow's BICUBIC, longer "
            "side rounded down, then the central square"
        )
    return {
        "dlrecipes": dlrecipes.__version__,
        "task": info.task,
        "classes": json.dumps(info.classes, ensure_ascii=False),
        "target_names": json.dumps(info.target_names, ensure_ascii=False),
        "image_size": json.dumps(size),
        "input": f"images: uint8 [batch, 3, {size[0]}, {size[1]}], RGB, 0..255, resized ({resize}); normalised inside",
        "outputs": json.dumps(deployed.describe()),
    }


def _check(model: nn.Module, target: Path, format: str, size: tuple[int, int]) -> None:
    if format not in EXPORT_FORMATS:
        raise ValueError(f"format={format!r}: choose one of {', '.join(EXPORT_FORMATS)}")
    if target.suffix != EXPORT_FORMATS[format]:
        raise ValueError(f"{target}: a file of format {format} ends in {EXPORT_FORMATS[format]}")
    if any(tensor.device.type != "cpu" for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(f"{type(model).__name__} is on {next(model.parameters()).device}: move it to the CPU first")
    if min(size) < 1:
        raise UserError(f"the image size is not known ({size[0]} × {size[1]}): pass image_size=(height, width)")
    missing = [name for name in _NEEDED if format == "onnx" and find_spec(name) is None]
    if missing:
        raise UserError(
            f"format onnx needs {', '.join(missing)}: pip install 'dlrecipes[export]', or take format torch"
        )


def _images(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)


def _trace(deployed: nn.Module, size: tuple[int, int]) -> torch.export.ExportedProgram:
    # two images: torch takes a batch of one for a constant
    example, batch = (_images(2, size),), torch.export.Dim("batch")
    try:
        return torch.export.export(deployed, example, dynamic_shapes=({0: batch},))
    except Exception as error:  # whatever the network's own code raises when it is traced
        raise UserError(_cannot(deployed, "torch.export", error)) from error


def _save_onnx(
    program: torch.export.ExportedProgram,
    deployed: DeployedDetector | DeployedModel,
    size: tuple[int, int],
    describing: dict[str, str],
    path: Path,
) -> None:
    try:
        onnx_program: Any = torch.onnx.export(
            program,
            (_images(2, size),),
            input_names=list(deployed.input_names),
            output_names=list(deployed.output_names),
            dynamic_shapes=({0: "batch"},),
            dynamo=True,
            verbose=False,
        )
    except Exception as error:  # an operator without ONNX, in exceptions of several packages
        raise UserError(_cannot(deployed, "ONNX", error)) from error
    onnx_program.model.metadata_props.update(describing)
    onnx_program.save(path)


def _cannot(deployed: nn.Module, format: str, error: BaseException) -> str:
    while error.__cause__ is not None:  # the exporter's own message is a page long
        error = error.__cause__
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return f"{type(deployed.model).__name__} cannot be exported by {format}: {reason[:300]}"


def _compare(deployed: DeployedDetector | DeployedModel, path: Path, format: str, size: tuple[int, int]) -> float:
    """Largest relative difference of the file's answers to three images, another number than it was traced with."""
    images = _images(3, size, seed=1)
    expected = _as_tuple(deployed(images))
    if format == "onnx":
        onnxruntime: Any = import_module("onnxruntime")  # an extra, without types
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = tuple(map(torch.from_numpy, session.run(None, {deployed.input_names[0]: images.numpy()})))
    else:
        found = _as_tuple(torch.export.load(path).module()(images))
    if isinstance(deployed, DeployedDetector):
        return max(_detections_apart(*image) for image in zip(*expected, *found, strict=True))
    scale = expected[0].abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((expected[0] - found[0]).abs().max() / scale)


def _detections_apart(*image: Tensor) -> float:
    """How far each of the network's detections is from the nearest of the file's; equal scores may change places.

    What scores no more than the file's last detection may be missing there.
    """
    scores, labels, boxes, other_scores, other_labels, other_boxes = image
    apart = (scores[:, None] - other_scores).abs().maximum((boxes[:, None] - other_boxes).abs().amax(-1))
    nearest = apart.masked_fill(labels[:, None] != other_labels, 1.0).amin(1)
    return float(nearest[scores > other_scores.min() + 1e-4].max().nan_to_num()) if len(scores) else 0.0


def _as_tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on themselves: deprecations in torch's and ONNX's code, constants not folded."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings(
                    "ignore", category=category, module=r"(torch|onnx|onnxscript|onnx_ir|copyreg)\b"
                )
            warnings.filterwarnings("ignore", message="No complete tensor found in the group")  # of a copied weight
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that takes its place when the block ends well."""
    temporary = target.with_name(f".{target.stem}.tmp{target.suffix}")  # torch demands the ending
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error}): give another path") from error
