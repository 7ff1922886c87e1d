"""``dlrecipes doctor RUN``: what the curves of a run say about its training."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "what a run's curves say about its training: over-fitting, learning rate, label noise ..."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("run", metavar="RUN", help="run folder, or any metrics.csv with train/loss and val/loss")
    parser.add_argument("--monitor", metavar="NAME", help="metric that counts (default: val/map, val/f1 ...)")
    parser.add_argument("--mode", choices=("max", "min"), help="which value of it is best (default: by its name)")
    parser.add_argument("--all", action="store_true", help="every rule that applies, not only the first")


def run(options: argparse.Namespace) -> int:
    """Print the diagnosis."""
    from dlrecipes.cli.actions.doctor import examine

    examine(options.run, monitor=options.monitor, mode=options.mode, everything=options.all)
    return 0
