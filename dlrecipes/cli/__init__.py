"""The command line of the recipes: options, run folder, exit codes.

A recipe calls :func:`train`; everything heavy is imported after ``-h`` has been answered.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from dlrecipes.cli.environment import flush_output, reader_is_gone, refuse_bytes
from dlrecipes.cli.options.arguments import preset_names, read_arguments
from dlrecipes.cli.options.help import short_help
from dlrecipes.cli.options.presets import Choose, Requirement
from dlrecipes.cli.options.remedies import remedy_table
from dlrecipes.cli.options.switches import SWITCHES, Switch
from dlrecipes.errors import DLRecipesError, NonFiniteError
from dlrecipes.functional.words import say, visible

__all__ = ["SWITCHES", "Option", "Recipe", "Switch", "TaskChoice", "train"]


@dataclass(frozen=True)
class Option:
    """A short flag of one recipe.

    Attributes:
        target: the full name that it stands for, as ``"--model.model.variant"``.
        help: one line for ``-h``.
        value: what its value is called there.
        also: further options that come with it, such as the task that has this argument; those that are typed win.
    """

    target: str
    help: str
    value: str = "X"
    also: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TaskChoice:
    """The task that a kind of data needs.

    Attributes:
        task: import path of the LightningModule.
        parts: its parts, as in ``Recipe``.
    """

    task: str
    parts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe combines.

    Attributes:
        task: import path of the default LightningModule.
        data: import path of the default LightningDataModule.
        parts: the task's parts, as argument of the task -> import path; each can be exchanged on the command line.
        links: option -> option that takes its value too, where both exist.
        pictures: import paths of callbacks that take the run folder and draw into it.
        callbacks: import paths of further callbacks, which take nothing.
        switches: name of an option -> the callback that it adds; those of every recipe by default.
        preset: YAML file with the default settings; those beside it that begin with the same word are the others.
        embedded_preset: the default where no ``--data`` is given; None: ``preset`` too.
        choose: takes other presets than the default one, or layers over the one that was named, and says why.
        requires: preset -> an option that it cannot do without.
        plain_data: options that switch off every augmentation, for ``--overfit``.
        by_data: kind of data (``DataInfo.task``) -> the task for it, where that is not the default one. Nobody who has
            numbers to predict instead of classes needs to say so; a task given on the command line is kept.
        name: of the run folders (``NAME-1``, ``NAME-2`` ...).
        description: one or two lines for ``-h``.
        data_help: what ``--data`` takes, for ``-h``.
        options: short flags of this recipe -> what they stand for.
        examples: lines of ``-h`` that show what can be exchanged, as (arguments, what they do).
    """

    task: str
    data: str
    parts: Mapping[str, str]
    links: Mapping[str, str]
    pictures: Sequence[str]
    preset: Path
    name: str
    description: str
    data_help: str
    callbacks: Sequence[str] = ()
    switches: Mapping[str, Switch] = field(default_factory=lambda: SWITCHES)
    embedded_preset: Path | None = None
    choose: Choose | None = None
    requires: Mapping[str, Requirement] = field(default_factory=dict)
    plain_data: Sequence[str] = ()
    by_data: Mapping[str, TaskChoice] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)
    examples: Sequence[tuple[str, str]] = ()


def train(recipe: Recipe, argv: Sequence[str] | None = None) -> int:
    """Train, test and report as the command line says.

    Args:
        recipe: the parts and their default settings.
        argv: options, without the program's name; default ``sys.argv[1:]``.

    Returns:
        The exit code: 0 done, 1 ``--overfit`` failed, 2 bad option or data, 3 loss became NaN or infinite, 130 Ctrl-C
        before training, 141 nobody reads the output any more.

    Raises:
        SystemExit: 143 or 130 after SIGTERM or Ctrl-C in training, when a checkpoint has been saved. Without it the
            process ends with 137 where another rank was killed: `dlrecipes.callbacks.LostRank`.
    """
    argv = sys.argv[1:] if argv is None else argv
    debug = "--debug" in argv
    try:
        refuse_bytes(argv)
        aliases = {flag: option.target for flag, option in recipe.options.items()}
        arguments = read_arguments(
            [*_brought_along(argv, recipe.options), *argv],
            recipe.preset,
            embedded=recipe.embedded_preset,
            aliases=aliases,
            choose=recipe.choose,
        )
        if arguments.help == "short":
            print(short_help(sys.argv[0], recipe, preset_names(recipe.preset)), end="")
            flush_output()
            return 0
        if "--imbalance" in recipe.options and ("--imbalance", "list") in pairwise(arguments.typed):
            print(remedy_table(), end="")
            return 0
        from dlrecipes.cli.recipe.folds import run_folds, split_off_folds
        from dlrecipes.cli.recipe.training import run

        arguments, folds = split_off_folds(arguments)
        return run(recipe, arguments) if folds is None else run_folds(recipe, arguments, folds)
    except DLRecipesError as error:
        if debug:
            raise
        if isinstance(error, NonFiniteError) and os.environ.get("LOCAL_RANK", "0") != "0":
            return 0  # every rank stops for it; rank 0 says so, and Lightning would kill it for another rank's code
        say(f"error: {visible(error)}", error=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        if debug:
            raise
        return reader_is_gone("a run that had made checkpoints goes on with --resume.")


def _brought_along(argv: Sequence[str], options: Mapping[str, Option]) -> list[str]:
    """Options that come with others; they stand first, so that what is typed wins."""
    typed = {word.partition("=")[0].replace("-", "_") for word in argv if word.startswith("--")}
    return [word for flag, option in options.items() if flag.replace("-", "_") in typed for word in option.also]
