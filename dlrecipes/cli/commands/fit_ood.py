"""``dlrecipes fit-ood RUN``: let ``dlrecipes predict`` say which images are unlike those that the run knows."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "let predict say, by a p-value, which images are unlike the run's validation images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("run", metavar="RUN", help="run folder of a classifier, or a checkpoint in one")
    parser.add_argument("--data", metavar="PATH", help="other data with the same classes (default: the run's own)")
    parser.add_argument(
        "--method", choices=("knn", "mahalanobis", "energy"), default="knn", help="what is strange (default: knn)"
    )
    parser.add_argument("--k", type=int, default=10, metavar="N", help="neighbour that counts, of knn (default: 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which images calibrate (default: 0)")


def run(options: argparse.Namespace) -> int:
    """Write RUN/ood.safetensors."""
    from dlrecipes.cli.actions.fit_ood import fit_ood

    fit_ood(options.run, data=options.data, method=options.method, k=options.k, seed=options.seed)
    return 0
