"""A run that goes on: options that it cannot take any more, and a folder that a failed attempt leaves as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer

from dlrecipes.cli.arguments import Arguments
from dlrecipes.errors import CheckpointError, DLRecipesError, UserError

__all__ = ["GoesOn", "refuse_options_of_the_optimizer", "restoring"]

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
