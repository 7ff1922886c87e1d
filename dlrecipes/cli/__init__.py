"""The command line of the recipes: options, run folder, exit codes.

A recipe calls :func:`train`; everything heavy is imported after ``-h`` has been answered.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlrecipes.cli.arguments import read_arguments
from dlrecipes.cli.help import short_help
from dlrecipes.errors import DLRecipesError, NonFiniteError

__all__ = ["Recipe", "train"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe combines.

    Attributes:
        task: import path of the default LightningModule.
        data: import path of the default LightningDataModule.
        parts: the task's parts, as argument of the task -> import path; each can be exchanged on the command line.
        links: option -> option that takes its value too, where both exist.
        pictures: import paths of callbacks that take the run folder and draw into it.
        preset: YAML file with the default settings; the files beside it are the other presets.
        monitor: metric, larger is better, by which the best checkpoint is chosen.
        name: of the run folders (``NAME-1``, ``NAME-2`` ...).
        description: one or two lines for ``-h``.
    """

    task: str
    data: str
    parts: Mapping[str, str]
    links: Mapping[str, str]
    pictures: Sequence[str]
    preset: Path
    monitor: str
    name: str
    description: str


def train(recipe: Recipe, argv: Sequence[str] | None = None) -> int:
    """Train, test and report as the command line says.

    Args:
        recipe: the parts and their default settings.
        argv: options, without the program's name; default ``sys.argv[1:]``.

    Returns:
        The exit code: 0 done, 2 bad option or data, 3 loss became NaN or infinite, 130 Ctrl-C before training.

    Raises:
        SystemExit: 143 or 130 after SIGTERM or Ctrl-C in training, when a checkpoint has been saved.
    """
    argv = sys.argv[1:] if argv is None else argv
    debug = "--debug" in argv
    try:
        arguments = read_arguments(argv, recipe.preset)
        if arguments.help == "short":
            presets = sorted(path.stem for path in recipe.preset.parent.glob("*.yaml"))
            print(short_help(sys.argv[0], recipe.description, recipe.preset.stem, presets), end="")
            return 0
        from dlrecipes.cli.training import run

        return run(recipe, arguments)
    except DLRecipesError as error:
        if debug:
            raise
        if isinstance(error, NonFiniteError) and os.environ.get("LOCAL_RANK", "0") != "0":
            return 0  # every rank stops for it; rank 0 says so, and Lightning would kill it for another rank's code
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
