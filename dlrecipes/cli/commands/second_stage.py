"""``dlrecipes second-stage RUN --method crt``: the last layer of a trained run made anew, for a long tail."""

from __future__ import annotations

import argparse

from dlrecipes.errors import UserError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "make a trained classifier's last layer anew, for a long tail"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("run", metavar="RUN", help="run folder, or a checkpoint in it (best.ckpt is taken)")
    parser.add_argument(
        "--method",
        choices=("crt", "lws", "tau", "ncm", "logit-adjust"),
        required=True,
        help="crt: trained anew on equally frequent classes; lws: one factor a class; tau: weights of one length; "
        "ncm: nearest class mean; logit-adjust: minus the log frequencies",
    )
    parser.add_argument("--data", metavar="PATH", help="other images of the same classes (default: those of the run)")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="of crt and lws (default: 10)")
    parser.add_argument(
        "--tau", default="auto", metavar="X", help="of tau and logit-adjust; auto: the best on the validation split"
    )
    parser.add_argument(
        "--choose-by",
        choices=("balanced_accuracy", "balanced_nll"),
        help="what is best (default: balanced_accuracy for tau, balanced_nll for logit-adjust)",
    )
    parser.add_argument(
        "--augment",
        action="store_true",
        help="crt and lws see images augmented anew each epoch; otherwise features are computed once, without",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of crt and lws (default: 0)")
    parser.add_argument("--output", metavar="DIR", help="where to make RUN-METHOD-001 (default: beside RUN)")


def run(options: argparse.Namespace) -> int:
    """Make the new run folder, and print before and after."""
    try:
        tau = None if options.tau == "auto" else float(options.tau)
    except ValueError as error:
        raise UserError(f"--tau must be a number or auto, got {options.tau!r}.") from error
    if options.epochs < 1:
        raise UserError(f"--epochs must be at least 1, got {options.epochs}.")

    from dlrecipes.cli.actions.second_stage import second_stage_of_run

    second_stage_of_run(
        options.run,
        options.method,
        data=options.data,
        epochs=options.epochs,
        tau=tau,
        choose_by=options.choose_by,
        augment=options.augment,
        seed=options.seed,
        output=options.output,
    )
    return 0
