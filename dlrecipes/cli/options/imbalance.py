"""``--imbalance``: a remedy for rare labels as options that the user need not type, or one that the counts suggest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from dlrecipes.cli.options.arguments import Arguments
from dlrecipes.cli.options.remedies import FEATURES, KINDS, REMEDIES, remedy_named
from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.imbalance import Advice, ClassInfo, advise, last_linear
from dlrecipes.parts import constructor_parameters, import_object

if TYPE_CHECKING:
    from dlrecipes.cli import Recipe
    from dlrecipes.cli.options.parser import RecipeCLI

__all__ = [
    "Chosen",
    "RemedyWords",
    "add_callback",
    "advise_for",
    "check_fits",
    "is_for",
    "remedy_words",
    "say",
    "settle_remedy",
    "typed_remedy",
]

_HEAD = "--model.model.head"
_PLAIN_LOSS = "--model.loss"


@dataclass(frozen=True)
class Chosen:
    """The remedy of a run.

    Attributes:
        name: of the remedy; "" if nobody asked for one.
        advice: why, where the counts decided.
    """

    name: str = ""
    advice: Advice | None = None


@dataclass(frozen=True)
class RemedyWords:
    """A remedy's options as words of a command line.

    Attributes:
        plain: what holds for any network.
        of_model: what follows from the network, and so goes before a config of the user's, too.
        kept: options that the user typed, which the remedy's give way to.
    """

    plain: tuple[str, ...] = ()
    of_model: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def typed_remedy(arguments: Arguments) -> str:
    """What the user gave for ``--imbalance``; "" if nothing.

    Raises:
        UserError: no such remedy, or a run that goes on and has its remedy already.
    """
    name = next((value for flag, value in pairwise(arguments.typed) if flag == "--imbalance"), "")
    if name and arguments.resume is not None:
        raise UserError(
            f"--imbalance {name}: a run goes on with the remedy that it began with: leave it out, or start a new run."
        )
    if name not in ("", "auto"):
        remedy_named(name)
    return name


def settle_remedy(cli: RecipeCLI, kind: str) -> Chosen:
    """The remedy that the parsed options ask for, once the data has been read.

    Args:
        cli: parsed; its datamodule has read the data.
        kind: of the data.

    Raises:
        UserError: a remedy that does not exist or is not for this data, or data that ``auto`` cannot judge.
    """
    name = str(cli.config.get("imbalance") or "")
    if not name:
        return Chosen()
    advice = advise_for(cli.datamodule) if name == "auto" else None
    name = name if advice is None else advice.name
    check_fits(name, kind, getattr(cli.datamodule, "info", None))
    return Chosen(name, advice)


def advise_for(datamodule: Any) -> Advice:
    """What the counts of a datamodule's training split suggest; of several numbers, the first that needs something.

    Raises:
        UserError: a datamodule that does not tell its counts, or its numbers.
    """
    info = getattr(datamodule, "info", None)
    if isinstance(info, DataInfo) and info.classes:
        return advise(ClassInfo.from_data_info(info))
    table, split = getattr(datamodule, "table", None), getattr(datamodule, "train_split", None)
    if not callable(table) or split is None:
        raise UserError(
            f"--imbalance auto looks at the training labels, and {type(datamodule).__name__} does not show them: name "
            "a remedy (--imbalance list)."
        )
    found = [advise(ClassInfo.from_targets(column)) for column in table(split).targets.T]
    return next((advice for advice in found if advice.name != "none"), found[0])


def is_for(name: str, kind: str) -> bool:
    """Whether a remedy is for a kind of data."""
    return kind in remedy_named(name).options


def check_fits(name: str, kind: str, info: DataInfo | None) -> None:
    """Refuse a remedy that is for other data.

    Raises:
        UserError: it is.
    """
    remedy = remedy_named(name)
    if not is_for(name, kind):
        for_it = ", ".join(other for other, found in REMEDIES.items() if kind in found.options)
        raise UserError(
            f"--imbalance {name} is for {' or '.join(KINDS[other] for other in remedy.options)}, and this data has "
            f"{KINDS.get(kind, kind)}: take auto or one of {for_it or 'none'}."
        )
    if name == "fds" and info is not None and len(info.target_names) > 1:
        raise UserError(
            f"--imbalance fds is for one number an image, and this data has {len(info.target_names)}: take lds."
        )


def remedy_words(
    name: str, kind: str, recipe: Recipe, arguments: Arguments, model: nn.Module | None = None
) -> RemedyWords:
    """A remedy's options, without those that the user typed.

    Args:
        name: of the remedy; "" for none.
        kind: of the data.
        recipe: for the plain loss.
        arguments: for what the user typed.
        model: the network, where it is known; without it, what depends on it is left out or stands for anything.

    Raises:
        UserError: a model that cannot have the classifier that the remedy needs.
    """
    if not name:
        return RemedyWords()
    parts = recipe.by_data[kind].parts if kind in recipe.by_data else recipe.parts
    options = {_PLAIN_LOSS: parts["loss"], **remedy_named(name).options[kind]} if "loss" in parts else {}
    typed = [word.replace(".init_args", "") for word in arguments.typed if word.startswith("--")]
    kept = [flag for flag in typed if flag in options]
    options = {
        option: value
        for option, value in options.items()
        if not any(option == flag or option.startswith(f"{flag}.") for flag in kept)
    }
    if _HEAD in options and not _takes_head(model, name):
        del options[_HEAD]
    of_model = {option: value for option, value in options.items() if option == _HEAD or value == FEATURES}
    if FEATURES in of_model.values():
        length = "1" if model is None else str(last_linear(model)[1].in_features)
        of_model = {option: value.replace(FEATURES, length) for option, value in of_model.items()}
    plain = {option: value for option, value in options.items() if option not in of_model}
    return RemedyWords(_words(plain), _words(of_model), tuple(kept))


def _words(options: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(word for option in options.items() for word in option)


def _takes_head(model: nn.Module | None, name: str) -> bool:
    if model is None:
        return False  # nobody knows yet
    if "head" not in constructor_parameters(type(model)):
        raise UserError(
            f"--imbalance {name} needs a classifier of cosines, and {type(model).__name__} takes no head: take drw, or "
            "a model of dlrecipes.models."
        )
    return True


def add_callback(cli: RecipeCLI, name: str) -> None:
    """Add what the remedy does during training, unless the config has such a callback with settings of its own."""
    path = REMEDIES[name].callback if name else ""
    if not path:
        return
    found = cli.config_init["trainer"]["callbacks"]
    given = list(found) if isinstance(found, list | tuple) else [] if found is None else [found]
    callback = import_object(path)
    if not any(isinstance(other, callback) for other in given):
        cli.config_init["trainer"]["callbacks"] = [*given, callback()]


def say(chosen: Chosen, kept: Sequence[str], short: Mapping[str, str]) -> None:
    """One sentence, once for all ranks: the remedy, why, and what the user's own options keep it from changing."""
    if not chosen.name or getattr(rank_zero_only, "rank", 0) != 0:
        return
    text = f"{chosen.name}, {REMEDIES[chosen.name].what}." if chosen.advice is None else chosen.advice.sentence
    flags = {full: flag for flag, full in short.items()}
    mine = f" Kept as you gave it: {', '.join(flags.get(flag, flag) for flag in kept)}." if kept else ""
    print(f"Imbalance: {text}{mine}", flush=True)
