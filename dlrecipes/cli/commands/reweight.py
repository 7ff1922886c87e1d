"""``dlrecipes reweight DATA NEW``: training images weighted so that they stand for new ones."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "weigh training images so that they stand for new, unlabelled ones"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("data", metavar="DATA", help="labelled image files: folders or a table")
    parser.add_argument("new", metavar="NEW", help="folder of new images, without labels")
    parser.add_argument(
        "--run",
        metavar="RUN",
        help="by features of this classifier, trained on other images (default: by brightness, contrast, colours ...)",
    )
    parser.add_argument(
        "--method", choices=("logistic", "ulsif", "kliep"), default="logistic", help="of the ratio (default: logistic)"
    )
    parser.add_argument(
        "--least", type=float, default=0.1, metavar="P", help="share of images that must carry the weight (default: .1)"
    )
    parser.add_argument("--output", default="weighted.csv", metavar="FILE", help="to write (default: weighted.csv)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of folds and splits (default: 0)")


def run(options: argparse.Namespace) -> int:
    """Write the table."""
    from dlrecipes.cli.actions.reweight import reweight

    reweight(
        options.data,
        options.new,
        run=options.run,
        method=options.method,
        least=options.least,
        output=options.output,
        seed=options.seed,
    )
    return 0
