"""``dlrecipes``: what is done before and after training. To train, run a recipe: ``python recipes/train_detr.py``.

Each command is a module of this package: ``HELP``, one line; ``add_arguments(parser)``; ``run(options)`` → exit code.
What is heavy is imported in ``run``, so that every ``-h`` answers at once.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import dlrecipes
from dlrecipes.cli.environment import flush_output, reader_is_gone, refuse_bytes
from dlrecipes.cli.options.arguments import suggest
from dlrecipes.errors import DLRecipesError, UserError
from dlrecipes.functional.words import say, visible

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "check-data": "check_data",
    "predict": "predict",
    "export": "export",
    "second-stage": "second_stage",
    "describe": "describe",
    "report": "report",
    "doctor": "doctor",
    "expand-test": "expand_test",
    "fit-ood": "fit_ood",
    "reweight": "reweight",
    "shift": "shift",
    "list": "list_parts",
}
"""Name of a command -> its module in this package."""


def main(argv: Sequence[str] | None = None) -> int:
    """The ``dlrecipes`` command.

    Args:
        argv: the arguments, without the program's name; default ``sys.argv[1:]``.

    Returns:
        The exit code: 0 done, 2 bad option or input, 130 Ctrl-C, 141 nobody reads the output; others as the
        command's own help says.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        refuse_bytes(argv)
        options = _parser().parse_args(argv)
        code = int(options.run_command(options))
        flush_output()
        return code
    except DLRecipesError as error:
        if "--debug" in argv:
            raise
        say(f"error: {visible(error)}", error=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        if "--debug" in argv:
            raise
        return reader_is_gone()


class _Parser(argparse.ArgumentParser):
    """One sentence for a wrong option, with the nearest right one."""

    flags: tuple[str, ...] = ()  # of all commands: argparse finds a wrong one only when the command is done

    def error(self, message: str) -> NoReturn:
        words = re.findall(r"--[\w-]+|(?<=')[\w-]+(?=')", message)  # what the user typed, among argparse's own words
        known = [*COMMANDS, *self.flags]
        hints = (suggest(word, known) for word in words if word not in known)
        hint = next((hint for hint in hints if hint), "")
        raise UserError(f"{message}.{hint} See {self.prog} -h.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dlrecipes",
        description="Before and after training. To train: python recipes/train_detr.py, train_efficientnet.py ...",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=dlrecipes.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module_name in COMMANDS.items():
        module = import_module(f"{__name__}.{module_name}")
        command = commands.add_parser(name, help=module.HELP, description=module.HELP, allow_abbrev=False)
        module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="tracebacks instead of one-sentence errors")
        command.set_defaults(run_command=module.run)
        parser.flags += tuple(re.findall(r"--[\w-]+", command.format_help()))
    return parser


if __name__ == "__main__":
    sys.exit(main())
