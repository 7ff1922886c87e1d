"""``dlrecipes expand-test RUN``: accuracy on corrupted test images, and whether the shift is seen."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "accuracy of a classifier under noise, blur, light, codecs ... in several severities"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("run", metavar="RUN", help="run folder of a classifier, or a checkpoint in one")
    parser.add_argument("--data", metavar="PATH", help="other data with the same classes (default: the run's own)")
    parser.add_argument("--corruptions", nargs="+", metavar="NAME", help="gaussian_noise, jpeg ... (default: all ten)")
    parser.add_argument(
        "--severities", nargs="+", type=int, default=[1, 3, 5], metavar="S", help="of 1 to 5 (default: 1 3 5)"
    )
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="test images to use (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of draws and corruptions (default: 0)")


def run(options: argparse.Namespace) -> int:
    """Print the table; write it and a picture into the run folder."""
    from dlrecipes.cli.actions.expand_test import expand_test

    expand_test(
        options.run,
        data=options.data,
        corruptions=options.corruptions,
        severities=options.severities,
        samples=options.samples,
        seed=options.seed,
    )
    return 0
