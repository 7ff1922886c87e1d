"""``--folds K``: a recipe's run for each fold, by the same command line."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dlrecipes.cli.actions.predict import find_checkpoint, load_task
from dlrecipes.cli.actions.run_data import run_config, run_data
from dlrecipes.cli.environment import import_from_here
from dlrecipes.cli.options.arguments import Arguments, read_arguments
from dlrecipes.cross_validation import CrossValidator, evaluate_fold
from dlrecipes.errors import UserError
from dlrecipes.parts import constructor_parameters, import_object
from dlrecipes.runs import RunFolder

if TYPE_CHECKING:
    from dlrecipes.cli import Recipe

__all__ = ["run_folds", "split_off_folds"]

_SETTINGS = "folds.json"


def split_off_folds(arguments: Arguments) -> tuple[Arguments, int | None]:
    """The options without ``--folds``, and its value; None where it was not given and no such run is resumed.

    Raises:
        UserError: a value that is no number of folds, or beside an option that chooses one.
    """
    if arguments.resume is not None and (arguments.resume / _SETTINGS).is_file():
        return arguments, int(json.loads((arguments.resume / _SETTINGS).read_text(encoding="utf-8"))["folds"])
    if "--folds" not in arguments.typed:
        return arguments, None
    value = _value(arguments.typed, "--folds")
    if not value.isdecimal() or int(value) < 2:
        raise UserError(f"--folds needs a number of folds, 2 or more, got {value}.")
    for other in ("--data.fold", "--overfit"):
        if other in arguments.typed:
            raise UserError(f"--folds and {other} cannot both be given: leave one out.")
    if arguments.resume is not None:
        raise UserError("--folds cannot be given to a run that goes on: resume the folder of all folds.")
    argv, typed = (_without(words, "--folds") for words in (arguments.argv, arguments.typed))
    return replace(arguments, argv=argv, typed=typed), int(value)


def run_folds(recipe: Recipe, arguments: Arguments, folds: int) -> int:
    """Train, test and report each fold as a run of its own, then what they say together.

    A fold that was cut off goes on from its checkpoint with the options of its ``config.yaml``.

    Args:
        recipe: the parts and their defaults.
        arguments: options, read, without ``--folds``; ``resume`` may be the folder of all folds.
        folds: how many.

    Returns:
        0, or the exit code of the first fold that did not end with 0.

    Raises:
        UserError: data that knows no folds, a run on several nodes, or folds that are to go on with other options.
    """
    from dlrecipes.cli.recipe.training import run

    _knows_folds(recipe, arguments)
    _one_device(arguments)
    new = arguments.resume is None
    if arguments.resume is None:
        output = _value(arguments.argv, "--output") if "--output" in arguments.argv else "runs"
        root = RunFolder.create(output, f"{recipe.name}-folds").path
        content = {"folds": folds, "argv": list(arguments.argv), "typed": list(arguments.typed)}
        (root / _SETTINGS).write_text(json.dumps(content, indent=1), encoding="utf-8")
    else:
        root = arguments.resume.expanduser().absolute()
        _no_other_options(arguments, root)
        content = json.loads((root / _SETTINGS).read_text(encoding="utf-8"))
        arguments = replace(arguments, argv=tuple(content["argv"]), typed=tuple(content["typed"]), resume=None)

    def train(fold: str, name: str) -> Path:
        own = ("--data.fold", fold, "--output", str(root), "--trainer.devices", "1")
        started = _begun(root, name)
        if started is None:
            fold_arguments = replace(arguments, argv=(*arguments.argv, *own), typed=(*arguments.typed, *own))
        else:
            fold_arguments = read_arguments(["--resume", str(started)], recipe.preset)
        code = run(replace(recipe, name=name), fold_arguments)
        if code:
            raise SystemExit(code)
        folder = _begun(root, name)
        if folder is None:
            raise UserError(f"{root} holds no run of {name}: it ended before its first checkpoint.")
        task, home = _trained(folder)
        evaluate_fold(task, run_data(run_config(home), task.info), home)
        return home

    try:
        found = CrossValidator(folds, output=root.parent, name=root.name).each(train)
    except UserError:
        if new and not any(root.glob("fold*-*")):
            RunFolder(root).discard()
        raise
    found.print(_trained(found.folds[0])[0].headline)
    return 0


def _trained(fold: Path) -> tuple[Any, Path]:
    """The task of a fold with its best weights, and its run folder."""
    checkpoint, home = find_checkpoint(fold)
    return load_task(checkpoint, torch.device("cpu")), home


def _knows_folds(recipe: Recipe, arguments: Arguments) -> None:
    import_from_here()
    flag = "--data.class_path"
    data = _value(arguments.typed, flag) if flag in arguments.typed else recipe.data
    if "fold" not in constructor_parameters(import_object(data)):
        raise UserError(f"--folds needs data that knows folds, and {data.rpartition('.')[2]} does not.")


def _no_other_options(arguments: Arguments, root: Path) -> None:
    """The folds are one experiment, and some may be finished."""
    flags = {full: flag for flag, full in arguments.short.items() if flag.startswith("--")}
    given = dict.fromkeys(flags.get(word, word) for word in arguments.argv if word.startswith("--"))
    if given:
        raise UserError(
            f"--resume {root}: all folds go on with the options that they began with: leave out {', '.join(given)}, or "
            "start a new run."
        )


def _one_device(arguments: Arguments) -> None:
    """Lightning starts its other processes with the whole command line, and they would train all folds, too."""
    devices = _value(arguments.typed, "--trainer.devices") if "--trainer.devices" in arguments.typed else "1"
    if devices not in ("1", "auto") or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "--folds trains one fold after another on one device: for several, start a run for each fold with "
            "--data.fold 1/5, --data.fold 2/5 ..."
        )


def _begun(root: Path, name: str) -> Path | None:
    """The run folder of a fold that has a checkpoint to go on from."""
    found = [path for path in sorted(root.glob(f"{name}-*")) if any(path.glob("checkpoints/*.ckpt"))]
    return found[-1] if found else None


def _value(words: tuple[str, ...], flag: str) -> str:
    """The last one counts."""
    places = [i for i, word in enumerate(words) if word == flag]
    return words[places[-1] + 1]


def _without(words: tuple[str, ...], flag: str) -> tuple[str, ...]:
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == flag:
            skip = True
        else:
            kept.append(word)
    return tuple(kept)
