"""``dlrecipes export RUN``: a trained run as one file for other programs."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "a trained run as one file for other programs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("run", metavar="RUN", help="run folder, or a checkpoint (best.ckpt of a folder is taken)")
    parser.add_argument("--format", choices=("onnx", "torch"), default="onnx", help="ONNX, or torch.export's .pt2")
    parser.add_argument("--output", metavar="FILE", help="where to write (default: RUN/best.onnx or RUN/best.pt2)")
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="of the images that the file takes (default: what most training images were scaled to); images of another "
        "shape are distorted, which a detector does not know",
    )


def run(options: argparse.Namespace) -> int:
    """Write the file."""
    from dlrecipes.cli.actions.export import export

    size = None if options.image_size is None else (options.image_size[0], options.image_size[1])
    export(options.run, format=options.format, output=options.output, image_size=size)
    return 0
