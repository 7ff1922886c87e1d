"""The options of a run, once its data has said which task it needs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_only

from dlrecipes.cli.options.arguments import Arguments
from dlrecipes.cli.options.imbalance import (
    RemedyWords,
    add_callback,
    is_for,
    remedy_words,
    say,
    settle_remedy,
    typed_remedy,
)
from dlrecipes.cli.options.parser import OptionError, RecipeCLI
from dlrecipes.cli.options.rates import settle_rate
from dlrecipes.errors import UserError
from dlrecipes.parts import import_object

if TYPE_CHECKING:
    from dlrecipes.cli import Recipe

__all__ = ["common_base", "read_options"]

_DEFAULT_KIND = "classification"  # what a recipe's own task is for, where remedies are offered
_NO_MIXING = ("--data.mix", "none")


def read_options(recipe: Recipe, arguments: Arguments) -> RecipeCLI:
    """Task and datamodule as the options say, with the data read, checked and shown.

    Args:
        recipe: the parts and their defaults; ``recipe.by_data`` names other ones for other kinds of data.
        arguments: options, read.

    Raises:
        UserError: an option that does not exist, cannot take its value or is missing, data that cannot be used, or a
            remedy that is not for them.
    """
    arguments, rate = settle_rate(arguments, recipe.task)
    asked = typed_remedy(arguments)
    kind, remedy, cli = _parse_first(recipe, arguments, asked if asked != "auto" else "")
    _check_requirements(recipe, arguments, cli)
    _prepare_data(cli)
    info = getattr(cli.datamodule, "info", None)
    needed = info.task if info is not None and info.task in recipe.by_data else ""
    chosen = settle_remedy(cli, needed or _DEFAULT_KIND)
    words = remedy_words(chosen.name, needed or _DEFAULT_KIND, recipe, arguments, getattr(cli.model, "model", None))
    if needed != kind or (words != remedy and arguments.resume is None):
        cli = _parse_again(cli, recipe, arguments, needed, words)
    if chosen.name:
        cli.config["imbalance"] = chosen.name  # a resumed run need not ask the counts again
        add_callback(cli, chosen.name)
        if arguments.resume is None:
            say(chosen, words.kept, arguments.short)
    if rate and getattr(rank_zero_only, "rank", 0) == 0:
        print(rate, flush=True)
    return cli


def common_base(recipe: Recipe) -> type[LightningModule]:
    """What a task of the user's must derive from: the nearest class that all tasks of the recipe have in common."""
    first, *others = (import_object(path) for path in (recipe.task, *(c.task for c in recipe.by_data.values())))
    base: type[LightningModule] = next(cls for cls in first.__mro__ if all(issubclass(task, cls) for task in others))
    return base


def _parse_first(recipe: Recipe, arguments: Arguments, remedy: str) -> tuple[str, RemedyWords, RecipeCLI]:
    """Nobody knows the kind of data yet: the default task, or, if it has no such option, the first that has."""
    kinds = [kind for kind in ("", *recipe.by_data) if not remedy or is_for(remedy, kind or _DEFAULT_KIND)]
    first: OptionError | None = None
    for kind in kinds:
        words = remedy_words(remedy, kind or _DEFAULT_KIND, recipe, arguments)
        try:
            return kind, words, _parse(recipe, arguments, kind, words)
        except OptionError as error:
            first = first or error
    raise first or UserError(f"--imbalance {remedy} is for no kind of data that this recipe takes: leave it out.")


def _parse(recipe: Recipe, arguments: Arguments, kind: str, remedy: RemedyWords) -> RecipeCLI:
    """The options; without a remedy's ``--data.mix none`` where that is the one option that the data does not have."""
    try:
        return _parse_all(recipe, arguments, kind, remedy)
    except OptionError:
        pairs = zip(remedy.plain[::2], remedy.plain[1::2], strict=True)
        fewer = tuple(word for pair in pairs if pair != _NO_MIXING for word in pair)
        if fewer != remedy.plain:
            with contextlib.suppress(OptionError):
                return _parse_all(recipe, arguments, kind, replace(remedy, plain=fewer))
        raise


def _parse_all(recipe: Recipe, arguments: Arguments, kind: str, remedy: RemedyWords) -> RecipeCLI:
    """The options, where the default task and parts are those for this kind of data; ``""``: the recipe's."""
    argv = arguments.argv
    end, late = _end_of_presets(argv, recipe.preset.parent), _end_of_configs(argv)
    changed = _exchanged(recipe, kind) if kind else []
    early, later = (*changed, *remedy.plain), remedy.of_model
    if typed_remedy(arguments):  # goes before a config of the user's, as all that is typed does
        early, later = tuple(changed), (*remedy.plain, *remedy.of_model)
    argv = (*argv[:end], *early, *argv[end:late], *later, *argv[late:])
    task, data = import_object(recipe.task), import_object(recipe.data)
    return RecipeCLI(
        task,
        data,
        argv,
        recipe.parts,
        recipe.links,
        arguments.short,
        switches=recipe.switches,
        imbalance="--imbalance" in recipe.options,
        needs_subclass_of=common_base(recipe),
    )


def _parse_again(first: RecipeCLI, recipe: Recipe, arguments: Arguments, kind: str, remedy: RemedyWords) -> RecipeCLI:
    """With what the data wants; the data are not read again, even where they are to be drawn or mixed otherwise."""
    try:
        cli = _parse(recipe, arguments, kind, remedy)
    except OptionError as error:
        if not remedy.plain:
            raise
        raise UserError(f"--imbalance cannot be had with these parts: {error}") from error
    if cli.config["data"] == first.config["data"]:
        cli.datamodule = first.datamodule
        return cli
    if callable(reuse := getattr(cli.datamodule, "reuse", None)):
        reuse(first.datamodule)
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    return cli


def _check_requirements(recipe: Recipe, arguments: Arguments, cli: RecipeCLI) -> None:
    """A preset that cannot do without an option says so before the data are read."""
    presets = [
        Path(value).stem for name, value in pairwise(arguments.argv) if _is_preset(name, value, recipe.preset.parent)
    ]
    for requirement in (recipe.requires[name] for name in presets if name in recipe.requires):
        if cli.config.get(requirement.option) is None:
            raise UserError(requirement.remedy)


def _end_of_presets(argv: Sequence[str], folder: Path) -> int:
    """Where what the data needs goes: after presets, which are for the default task, and before what the user wrote."""
    places = [i for i, (name, value) in enumerate(pairwise(argv)) if _is_preset(name, value, folder)]
    return places[-1] + 2 if places else 0


def _end_of_configs(argv: Sequence[str]) -> int:
    return max((i + 2 for i, word in enumerate(argv) if word == "--config"), default=0)


def _is_preset(name: str, value: str, folder: Path) -> bool:
    return name == "--config" and Path(value).resolve().parent == folder.resolve()


def _exchanged(recipe: Recipe, kind: str) -> list[str]:
    """Options for the task and parts that this kind of data needs; the parser drops arguments that they do not take."""
    choice = recipe.by_data[kind]
    others = {name: path for name, path in choice.parts.items() if path != recipe.parts.get(name)}
    words = ["--model", choice.task] if choice.task != recipe.task else []
    return words + [word for name, path in others.items() for word in (f"--model.{name}", path)]


def _prepare_data(cli: RecipeCLI) -> None:
    """Read and check the data, and show it, before a folder is made or a device is used."""
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    report = getattr(cli.datamodule, "report", "")
    if report and getattr(rank_zero_only, "rank", 0) == 0:
        print(report, flush=True)
