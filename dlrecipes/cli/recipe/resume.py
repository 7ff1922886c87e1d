"""A run that goes on: options that it cannot take any more, and a folder that a failed attempt leaves as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from dlrecipes.checkpoint_io import load_checkpoint_file
from dlrecipes.cli.options.arguments import Arguments
from dlrecipes.contracts import DataInfo
from dlrecipes.errors import CheckpointError, DLRecipesError, UserError
from dlrecipes.functional.words import counted

__all__ = ["GoesOn", "compare_data", "refuse_options_of_the_optimizer", "restoring"]

# They are in the optimizer's state, which is restored: what is typed would be passed over without a word.
_OF_THE_OPTIMIZER = ("lr", "backbone_lr", "weight_decay", "decay_all", "layer_decay", "optimizer", "optimizer_args")


def refuse_options_of_the_optimizer(arguments: Arguments) -> None:
    """Raise for a rate, a weight decay or an optimizer beside ``--resume``.

    Raises:
        UserError: there is one.
    """
    if arguments.resume is None:
        return
    flags = {full: flag for flag, full in arguments.short.items() if flag.startswith("--")}
    for word in arguments.typed:
        name = word.removeprefix("--model.").removeprefix("init_args.")
        if word.startswith("--model.") and name.partition(".")[0] in _OF_THE_OPTIMIZER:
            raise UserError(
                f"{flags.get(word, word)} cannot be given with --resume {arguments.resume}: the run goes on with its "
                "optimizer and the rates in its state; leave it out, or start a new run from the weights with "
                "--model.init CHECKPOINT."
            )


def compare_data(checkpoint: Path, info: DataInfo) -> None:
    """Say that the data of a run that goes on is not what it was.

    Splits that are made by seed are others then: images that were trained on come into the test.

    Args:
        checkpoint: to go on from.
        info: of the data as it is now.

    Raises:
        UserError: other classes, another kind of data, or a checkpoint without a training to go on with.
        CheckpointError: the checkpoint cannot be read.
    """
    known = load_checkpoint_file(checkpoint).get("dlrecipes", {})
    if "second_stage" in known:
        raise UserError(
            f"'{checkpoint}' was made by dlrecipes second-stage, so there is no training to go on with: resume the run "
            "that it was made of, or start a new one from its weights with --model.init CHECKPOINT."
        )
    record = known.get("info")
    if record is None:  # a task of somebody else's
        return
    before = DataInfo.from_dict(record)
    if (before.task, before.classes, before.category_ids) != (info.task, info.classes, info.category_ids):
        raise UserError(
            f"the data is {_in_words(info)} now, and '{checkpoint}' was trained on {_in_words(before)}: go on with the "
            "data that the run began with, or start a new run."
        )
    if (change := _change(before, info)) and getattr(rank_zero_only, "rank", 0) == 0:
        print(
            f"warning: the data has changed since the run began ({change}); where splits are made by seed, images that "
            "were trained on may now be in val and test: trust no number of them.",
            flush=True,
        )


def _change(before: DataInfo, now: DataInfo) -> str:
    if before.num_train != now.num_train:
        return f"{counted(now.num_train, 'training image')}, were {before.num_train}"
    if before.class_counts != now.class_counts:
        return f"{list(now.class_counts)} of the classes in training, were {list(before.class_counts)}"
    for name in ("pixel_mean", "pixel_std", "target_mean", "target_std"):
        pair = getattr(before, name), getattr(now, name)
        close = [math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-6) for a, b in zip(*pair, strict=False)]
        if len(pair[0]) == len(pair[1]) and not all(close):  # another decoder moves the last digits
            return f"{name} of the training split is {_digits(pair[1])}, was {_digits(pair[0])}"
    return ""


def _digits(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _in_words(info: DataInfo) -> str:
    names = ", ".join(info.classes[:5]) + (" ..." if len(info.classes) > 5 else "")
    return f"{info.task} of {counted(len(info.classes), 'class', 'classes')} ({names})"


class GoesOn(Callback):
    """What a resumed run writes about itself, such as its settings, is written after its first step: an attempt that
    cannot go on leaves the folder as it was.

    Args:
        write: takes the trainer; called once, on rank 0.

    Attributes:
        restored: the checkpoint has been read, and training starts.
    """

    def __init__(self, write: Callable[[Trainer], None]) -> None:
        self.restored = False
        self._write: Callable[[Trainer], None] | None = write

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.restored = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        write, self._write = self._write, None
        if write is not None and trainer.is_global_zero:
            write(trainer)


@contextmanager
def restoring(checkpoint: Path | None, callback: GoesOn | None) -> Iterator[None]:
    """Make one sentence of what Lightning and torch raise while they restore ``checkpoint``.

    Raises:
        CheckpointError: the checkpoint is of another network, or of more epochs than are wanted.
    """
    try:
        yield
    except DLRecipesError:
        raise
    except (MisconfigurationException, KeyError, RuntimeError, TypeError, ValueError) as error:
        if checkpoint is None or callback is None or callback.restored:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        shown = reason if len(reason) <= 300 else f"{reason[:300]} ..."
        raise CheckpointError(
            f"the run cannot go on from '{checkpoint}' with these options ({shown}): give --resume the options of the "
            "run and its own checkpoint, or start a new run."
        ) from error
