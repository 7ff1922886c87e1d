"""``dlrecipes report RUN``: the last block of a run again, from what its folder holds."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "what a run reached, where its files are, what was found out about it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("run", metavar="RUN", help="run folder, or one of its checkpoints")


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    from dlrecipes.cli.actions.report import report

    report(options.run)
    return 0
