"""``dlrecipes shift REFERENCE NEW``: has the data moved, what moved, what it costs, what to do."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "whether new images differ from reference images, what moved, what it costs, and what to do; exit code 1 if so"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "reference",
        metavar="REFERENCE",
        help="images as they should be: a folder, or a data set (its validation split)",
    )
    parser.add_argument("new", metavar="NEW", help="images in question: a folder, or a data set; labels are not needed")
    parser.add_argument(
        "--run",
        metavar="RUN",
        help="run folder: compare by its network too; of its own data as REFERENCE the validation split is taken",
    )
    parser.add_argument("--output", metavar="DIR", help="where to write (default: shift-001 ... in the run or here)")
    parser.add_argument("--alpha", type=float, default=0.05, metavar="A", help="level of the verdict (default: 0.05)")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="images of each side (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of their choice (default: 0)")


def run(options: argparse.Namespace) -> int:
    """Print and write the report; 0: no shift is seen, 1: shifted."""
    from dlrecipes.cli.actions.shift import shift

    report = shift(
        options.reference,
        options.new,
        run=options.run,
        output=options.output,
        alpha=options.alpha,
        limit=options.limit,
        seed=options.seed,
    )
    return int(report.shifted)
