"""``dlrecipes describe MODEL``: what a network is made of, what it costs and what it sees."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "depth, width, cost and receptive field of a network, before or after training"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "model", metavar="MODEL", help="run folder or checkpoint, timm name (resnet50), or import path of a class"
    )
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side in pixels (default: the run's, timm's or 224)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="argument of the class: depth=[1,1,1,1]"
    )
    parser.add_argument(
        "--objects", type=float, nargs="+", metavar="PX", help="sides of objects in pixels, for advice on the field"
    )
    parser.add_argument("--picture", metavar="FILE", help="draw the field layer by layer, and what of it counts")


def run(options: argparse.Namespace) -> int:
    """Print it."""
    from dlrecipes.cli.actions.describe import describe_model

    describe_model(
        options.model, options.image_size, settings=options.set, objects=options.objects, picture=options.picture
    )
    return 0
