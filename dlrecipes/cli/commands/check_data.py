"""``dlrecipes check-data PATH``: the audit on its own."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "read a data set, count, find what would go wrong"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "path", metavar="PATH", help="boxes (COCO, Pascal VOC, YOLO, CSV ...) or labels (folders, CSV, Parquet)"
    )
    parser.add_argument(
        "--kind", choices=("auto", "detection", "images"), default="auto", help="what to look for (default: both)"
    )
    parser.add_argument("--target", metavar="COLUMN", help="column of a table that holds the label or the number")
    parser.add_argument(
        "--target-kind", choices=("auto", "classification", "multilabel", "regression"), default="auto", help="of it"
    )
    parser.add_argument("--image-column", metavar="COLUMN", help="column of a table that holds the images")
    parser.add_argument("--max-queries", type=int, metavar="N", help="refuse images with more objects than N")
    parser.add_argument("--skip-corrupt", action="store_true", help="count unreadable images instead of refusing them")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON, too")


def run(options: argparse.Namespace) -> int:
    """Print the audit; 0 where nothing is wrong."""
    from dlrecipes.data.audit.check import check_data

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
