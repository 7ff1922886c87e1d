"""``dlrecipes``: what is done before and after training. To train, run a recipe: ``python recipes/train_detr.py``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import dlrecipes
from dlrecipes.cli.arguments import suggest
from dlrecipes.errors import DLRecipesError, UserError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The ``dlrecipes`` command.

    Args:
        argv: the arguments, without the program's name; default ``sys.argv[1:]``.

    Returns:
        The exit code: 0 done, 2 bad option or input, 130 Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        options = _parser().parse_args(argv)
        if options.command == "check-data":
            from dlrecipes.data.check import check_data

            return check_data(
                options.path,
                kind=options.kind,
                target=options.target,
                target_kind=options.target_kind,
                image_column=options.image_column,
                max_queries=options.max_queries,
                skip_corrupt=options.skip_corrupt,
                json_file=options.json,
            )
        if options.command == "export":
            from dlrecipes.cli.export import export

            export(options.run, format=options.format, output=options.output)
            return 0
        from dlrecipes.cli.predict import predict

        predict(options.run, options.images, threshold=options.threshold, output=options.output)
        return 0
    except DLRecipesError as error:
        if "--debug" in argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """One sentence for a wrong option, with the nearest right one."""

    def error(self, message: str) -> NoReturn:
        words = re.findall(r"--[\w-]+|(?<=')[\w-]+(?=')", message)  # what the user typed, among argparse's own words
        known = ["check-data", "predict", "export", *_FLAGS]
        hints = (suggest(word, known) for word in words if word not in known)
        hint = next((hint for hint in hints if hint), "")
        raise UserError(f"{message}.{hint} See {self.prog} -h.")


_FLAGS = (
    *("--threshold", "--output", "--format", "--json", "--skip-corrupt", "--max-queries", "--kind"),
    *("--target", "--target-kind", "--image-column", "--debug"),
)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dlrecipes",
        description="Before and after training. To train: python recipes/train_detr.py, train_efficientnet.py ...",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=dlrecipes.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    check = commands.add_parser(
        "check-data", help="read a data set, count, find what would go wrong", allow_abbrev=False
    )
    check.add_argument(
        "path", metavar="PATH", help="boxes (COCO, Pascal VOC, YOLO, CSV) or labels (folders, CSV, Parquet)"
    )
    check.add_argument(
        "--kind", choices=("auto", "detection", "images"), default="auto", help="what to look for (default: both)"
    )
    check.add_argument("--target", metavar="COLUMN", help="column of a table that holds the label or the number")
    check.add_argument(
        "--target-kind", choices=("auto", "classification", "multilabel", "regression"), default="auto", help="of it"
    )
    check.add_argument("--image-column", metavar="COLUMN", help="column of a table that holds the images")
    check.add_argument("--max-queries", type=int, metavar="N", help="refuse images with more objects than N")
    check.add_argument("--skip-corrupt", action="store_true", help="count unreadable images instead of refusing them")
    check.add_argument("--json", metavar="FILE", help="write the report as JSON, too")

    predict = commands.add_parser("predict", help="what a trained run finds in images", allow_abbrev=False)
    predict.add_argument("run", metavar="RUN", help="run folder, or a checkpoint (best.ckpt of a folder is taken)")
    predict.add_argument("images", metavar="IMAGES", help="an image, or a folder of images")
    predict.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="lowest score of a box, or of one of several labels (default: 0.5)",
    )
    predict.add_argument("--output", metavar="DIR", help="where to write (default: RUN/predict-001, -002 ...)")

    export = commands.add_parser("export", help="a trained run as one file for other programs", allow_abbrev=False)
    export.add_argument("run", metavar="RUN", help="run folder, or a checkpoint (best.ckpt of a folder is taken)")
    export.add_argument("--format", choices=("onnx", "torch"), default="onnx", help="ONNX, or torch.export's .pt2")
    export.add_argument("--output", metavar="FILE", help="where to write (default: RUN/best.onnx or RUN/best.pt2)")
    for command in (check, predict, export):
        command.add_argument("--debug", action="store_true", help="tracebacks instead of one-sentence errors")
    return parser


if __name__ == "__main__":
    sys.exit(main())
