"""``dlrecipes list``: every part that can be plugged in, by import path."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "the parts that can be plugged in, by import path"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "room", metavar="ROOM", nargs="?", help="losses, models, callbacks, imbalance ...: only of this (default: all)"
    )


def run(options: argparse.Namespace) -> int:
    """Print the parts."""
    from dlrecipes.cli.actions.list_parts import list_parts

    list_parts(options.room)
    return 0
