"""``dlrecipes describe``: find the network, print its facts and fields, draw them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import nn

from dlrecipes.cli.actions.predict import find_checkpoint, load_task
from dlrecipes.cli.environment import import_from_here
from dlrecipes.errors import UserError
from dlrecipes.models.timm_classifier import create_timm
from dlrecipes.nn import Description, describe, effective_receptive_field
from dlrecipes.nn.meta import image_side
from dlrecipes.parts import import_object
from dlrecipes.runs.pictures.receptive_field_picture import draw_receptive_field

__all__ = ["describe_model", "find_model"]

_SIDE = 224


def describe_model(
    model: str,
    image_size: int | None = None,
    *,
    settings: Sequence[str] = (),
    objects: Sequence[float] | None = None,
    picture: str | Path | None = None,
    console: Console | None = None,
) -> Description:
    """Print depth, width by stage, cost and receptive fields of a network.

    Args:
        model: run folder, checkpoint, name of a timm network, or import path of a class or function that makes one.
        image_size: side in pixels; default: that of the run, of the timm network, or 224.
        settings: arguments ``NAME=VALUE`` for a network that is made anew; values as in YAML.
        objects: sides of objects in pixels, which the field is held against.
        picture: PNG to write: the fields, and how much the pixels count.
        console: where to print; standard output unless given.

    Raises:
        UserError: no such network or argument, an image that it does not take, a file that cannot be written.
    """
    if objects is not None and min(objects) <= 0:
        raise UserError(f"--objects {min(objects):g}: pixels above 0 are needed.")
    if image_size is not None and image_size < 1:
        raise UserError(f"--image-size {image_size}: at least 1 pixel is needed.")
    network, own_size = find_model(model, settings)
    size = image_size or own_size or image_side(network) or _SIDE
    facts = describe(network, size)
    out = console or Console(highlight=False, soft_wrap=True)
    out.print(str(facts), "", markup=False, sep="\n")
    out.print(facts.table())
    out.print("", str(facts.field), "", markup=False, sep="\n")
    out.print(facts.field.table())
    for verdict in facts.field.advice(objects) if objects else ():
        out.print(f"\n{verdict}", markup=False)
    if picture is not None:
        effective = effective_receptive_field(network, size) if facts.field.last.map_size is not None else None
        try:
            draw_receptive_field(
                facts.field, picture, effective=effective, object_sizes=objects or (), title=f"{model}, {size} pixels"
            )
        except OSError as error:
            raise UserError(f"{picture} cannot be written ({error.strerror}): give another --picture.") from error
        out.print(f"\n{effective or ''}\npicture     {picture}", markup=False)
    return facts


def find_model(model: str, settings: Sequence[str] = ()) -> tuple[nn.Module, int | None]:
    """A network by run folder, checkpoint, timm name or import path; and the side of its images, if a run tells.

    Raises:
        UserError: nothing of that name, or arguments that it does not take.
    """
    if Path(model).exists() or model.endswith(".ckpt") or "/" in model:
        if settings:
            raise UserError(f"--set {settings[0]}: {model} is trained, and made as it was.")
        checkpoint, _ = find_checkpoint(Path(model))
        task = load_task(checkpoint, torch.device("cpu"))
        return task.model, None if task.info is None else task.info.image_size
    arguments = dict(map(_setting, settings))
    if re.fullmatch(r"\w+(\.\w+)+", model) and not _is_timm(model):
        import_from_here()
        made = _make(import_object(model), model, arguments)
    else:
        made = create_timm(model, pretrained=False, num_outputs=arguments.pop("num_classes", 1000), args=arguments)
    return made, None


def _is_timm(name: str) -> bool:
    import timm

    return bool(timm.is_model(name.split(".")[0]))


def _make(maker: Any, path: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        made = maker(**arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError, LookupError) as error:  # torch's own assert, too
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be made with {arguments}: {reason}: give its arguments with --set.") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"{path} gives a {type(made).__name__}, not a network.")
    return made


def _setting(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise UserError(f"--set {text}: NAME=VALUE is needed.")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: {value!r} is not YAML, such as 3, true or [1,2].") from error
