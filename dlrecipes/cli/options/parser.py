"""LightningCLI with the recipes' options; a wrong option becomes one sentence."""

from __future__ import annotations

import contextlib
import json
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args, get_type_hints

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from dlrecipes.cli.options.arguments import ALIASES, OWN_FLAGS
from dlrecipes.cli.options.exchanged import without_leftovers
from dlrecipes.cli.options.explain import explain
from dlrecipes.cli.options.switches import Switch
from dlrecipes.errors import DLRecipesError, UserError
from dlrecipes.parts import import_object
from dlrecipes.trainer import TRAINER_DEFAULTS

__all__ = ["OptionError", "RecipeCLI"]


class OptionError(UserError):
    """An option that does not exist with the chosen classes, or does not take its value."""


class RecipeCLI(LightningCLI):
    """Parses a recipe's options and makes task and datamodule; ``instantiate_trainer`` makes the trainer, later.

    ``task`` and ``data`` are the defaults: both can be exchanged by import path (``--model my.Task``), ``data`` for a
    subclass.

    Args:
        task: default LightningModule class.
        data: default LightningDataModule class.
        argv: options as :func:`dlrecipes.cli.options.arguments.read_arguments` returns them.
        parts: class that an argument of the task stands for by default, as argument -> import path: its own arguments
            can then be set without naming it (``--model.model.num_queries 30``).
        links: option -> option that always has its value; where the target does not exist, nothing happens.
        aliases: short flags -> full names, for messages.
        switches: name of an option -> the callback that it adds.
        imbalance: there is an option for rare labels.
        needs_subclass_of: what a task must be to be exchanged for ``task``; default ``task`` itself.

    Attributes:
        config: everything that was set, as parsed.
        model, datamodule: the instances.

    Raises:
        OptionError: an option that does not exist or cannot take its value.
        UserError: a value that a class refuses.
    """

    def __init__(
        self,
        task: type[LightningModule],
        data: type[LightningDataModule],
        argv: Sequence[str],
        parts: Mapping[str, str] | None = None,
        links: Mapping[str, str] | None = None,
        aliases: Mapping[str, str] = ALIASES,
        *,
        switches: Mapping[str, Switch] | None = None,
        imbalance: bool = False,
        needs_subclass_of: type[LightningModule] | None = None,
    ) -> None:
        self._argv = list(argv)
        self._switches = dict(switches or {})
        self._imbalance = imbalance
        self._aliases = aliases
        self._links = dict(links or {})
        self._parts = tuple(parts or {})
        init_args = {name: {"class_path": path} for name, path in (parts or {}).items()}
        self._defaults = {
            "model": {"class_path": _path(task), "init_args": init_args},
            "data": {"class_path": _path(data)},
        }
        with warnings.catch_warnings():
            # LightningCLI 2.6.6 calls names that jsonargparse 4.49 deprecated; nobody here can act on that.
            warnings.simplefilter("ignore", DeprecationWarning)
            super().__init__(
                needs_subclass_of or task,
                data,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=None,  # the run folder keeps it
                trainer_defaults=dict(TRAINER_DEFAULTS),
                parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
                args=self._argv,
                run=False,
                auto_configure_optimizers=False,  # the task's own
            )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # LightningCLI's own also takes true, which would draw another seed on each rank.
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="Seed that every random choice follows from."
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The recipe's defaults, the options of a run beside the Trainer's, and the links."""
        parser.set_defaults(self._defaults)
        parser.add_argument("--output", type=str, default="runs", help="Parent folder of the numbered run folders.")
        parser.add_argument(
            "--wandb",
            type=Literal["auto", "online", "offline", "off"],
            default="auto",
            help="Weights & Biases; auto = online with a key and a network, else offline.",
        )
        parser.add_argument(
            "--ema", type=float | None, default=None, help="Decay of the moving average of the weights; null = none."
        )
        parser.add_argument(
            "--steps_needed",
            type=int | None,
            default=None,
            help="Steps that the preset needs; the number of epochs follows where none is given.",
        )
        parser.add_argument(
            "--overfit",
            type=int | None,
            default=None,
            help="Train and evaluate on the same N images, without augmentation: PASS if they are learnt, else FAIL.",
        )
        parser.add_argument(
            "--checkpoint_every_n_steps", type=int | None, default=None, help="Also save last.ckpt every N steps."
        )
        parser.add_argument(
            "--checkpoint_every_n_minutes", type=float | None, default=None, help="Also save last.ckpt every X minutes."
        )

        if self._imbalance:
            parser.add_argument("--imbalance", type=str | None, default=None, help="Remedy for rare labels, or auto.")
        for name, switch in self._switches.items():
            parser.add_argument(f"--{name}", type=switch.type, default=switch.default, help=switch.help)
        for source, target in self._links.items():
            parser.link_arguments(source, target)

    @classmethod
    def print_all_options(
        cls, task: type[LightningModule], data: type[LightningDataModule], parts: Mapping[str, str]
    ) -> None:
        """Print the full help: the Trainer's options, then those of task, data and parts."""
        for argv in (["--help"], [f"--model.help={_path(task)}"], [f"--data.help={_path(data)}"]):
            with contextlib.suppress(SystemExit):  # argparse's way to end after a help
                cls(task, data, argv, parts)
        for name, path in parts.items():
            with contextlib.suppress(SystemExit):
                cls(task, data, [f"--model.{name}.help={path}"], parts)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Read the options; a wrong one is one sentence.

        Raises:
            OptionError: an option that does not exist, or a value that it does not take.
        """
        try:
            words = _nulls_in_one_word(self._argv)
            self.config = parser.parse_args(without_leftovers(parser, words, self._parts))
        except ArgumentError as error:
            raise OptionError(explain(str(error), self._argv, self._known_flags(parser), self._aliases)) from error
        except UnicodeDecodeError as error:
            raise OptionError(explain(str(error), self._argv, (), self._aliases)) from error
        self._check_nulls()
        for name, least in (("steps_needed", 1), ("overfit", 2)):
            if self.config[name] is not None and self.config[name] < least:
                raise UserError(f"--{name.replace('_', '-')} must be at least {least}, got {self.config[name]}.")
        if not 0 <= self.config["seed_everything"] < 2**32:  # what NumPy takes
            raise UserError(f"--seed must be from 0 to {2**32 - 1}, got {self.config['seed_everything']}.")

    def _check_nulls(self) -> None:
        """jsonargparse lets a null within a part pass, whatever the argument's type."""
        for flag, name in _nulls_of_parts(self._argv).values():
            spec = self.config.as_dict()
            for key in flag.removeprefix("--").replace(".init_args", "").split("."):
                spec = (spec.get("init_args") or spec).get(key) or {}
            try:
                hint = get_type_hints(import_object(spec["class_path"]).__init__).get(name, Any)
            except (KeyError, NameError, TypeError, UserError):  # no class, or hints that nobody can read
                continue
            if hint is not Any and type(None) not in get_args(hint):
                raise OptionError(f"{flag}.{name} must be {getattr(hint, '__name__', hint)}, not null.")

    def instantiate_classes(self) -> None:
        """Makes task and datamodule; the trainer needs the run folder, which must not be made for a wrong option."""
        try:
            self.config_init = self.parser.instantiate_classes(self.config)
        except DLRecipesError:
            raise
        except ValueError as error:  # parts check their arguments in __init__ and name argument and value
            raise UserError(explain(str(error), self._argv, (), self._aliases)) from error
        self.model = self.config_init["model"]
        self.datamodule = self.config_init["data"]

    def dump(self) -> str:
        """The whole config as YAML; given to ``--config`` it makes the same run."""
        return str(self.parser.dump(self.config, skip_unset=False))

    def _known_flags(self, parser: LightningArgumentParser) -> list[str]:
        """Every option that exists with the chosen config, nested ones included."""
        last = max((i for i, token in enumerate(self._argv) if token == "--config"), default=-2)
        try:  # read_arguments puts them first, and what the kind of data changes follows at once
            config = parser.parse_args(self._argv[: last + 2])
        except (ArgumentError, UnicodeDecodeError):
            config = parser.parse_args([])
        return [*self._aliases, *OWN_FLAGS, *(f"--{name}" for name in _dotted(config.as_dict()))]


def _nulls_of_parts(argv: Sequence[str]) -> dict[int, tuple[str, str]]:
    """Position of each option that sets an argument of a part to null -> the part's option, and the argument."""
    found = {}
    for i, (flag, value) in enumerate(pairwise(argv)):
        part, _, name = flag.rpartition(".")
        part = part.removesuffix(".init_args")  # --model.init_args.lr is about no part
        if value == "null" and part.startswith(("--model.", "--data.")):
            found[i] = part, name
    return found


def _nulls_in_one_word(argv: Sequence[str]) -> list[str]:
    """``--model.loss.gamma null`` as ``--model.loss '{"gamma": null}'``: jsonargparse 4.49 hands a null behind the
    argument of a part on as the string "None".

    Example:
        >>> _nulls_in_one_word(["--model.lr", "null", "--model.loss.gamma", "null"])
        ['--model.lr', 'null', '--model.loss', '{"gamma": null}']
    """
    words = list(argv)
    for i, (part, name) in _nulls_of_parts(argv).items():
        words[i : i + 2] = [part, json.dumps({name: None})]
    return words


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if key == "init_args":
            yield from _dotted(value, prefix)
        elif key != "class_path":
            yield prefix + key
            if isinstance(value, Mapping):
                yield from _dotted(value, f"{prefix}{key}.")
