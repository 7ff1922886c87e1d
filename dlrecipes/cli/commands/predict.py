"""``dlrecipes predict RUN IMAGES``: what a trained run finds in images."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "what a trained run finds in images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("run", metavar="RUN", help="run folder, or a checkpoint (best.ckpt of a folder is taken)")
    parser.add_argument("images", metavar="IMAGES", help="an image, or a folder of images")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="lowest score of a box, or of one of several labels (default: 0.5)",
    )
    parser.add_argument("--output", metavar="DIR", help="where to write (default: RUN/predict-001, -002 ...)")


def run(options: argparse.Namespace) -> int:
    """Write and print the predictions."""
    from dlrecipes.cli.actions.predict import predict

    predict(options.run, options.images, threshold=options.threshold, output=options.output)
    return 0
