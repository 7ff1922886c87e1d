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


def run(options: argparse.Namespace) -> int:
    """Write the file."""
    from dlrecipes.cli.export import export

    export(options.run, format=options.format, output=options.output)
    return 0
