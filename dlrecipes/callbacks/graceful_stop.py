"""Stop on SIGTERM or Ctrl-C with a checkpoint, on all ranks at once."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_info

from dlrecipes.callbacks.agreement import RankAgreement
from dlrecipes.callbacks.ordering import list_callbacks, move_to_end

__all__ = ["GracefulStop", "StopRequested", "more_belongs_to_this_batch"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ENDLESS = 2**62  # batches of a validation set without a length


class StopRequested(SystemExit):
    """Ends the process after a signal: exit code 128 + signal, so 143 after SIGTERM and 130 after Ctrl-C."""


class GracefulStop(pl.Callback):
    """On SIGTERM or SIGINT: end the step, agree with the other ranks, save, leave with exit code 143 or 130.

    It does not matter which rank got the signal: after each batch the ranks exchange one number (see ``RankAgreement``,
    no waiting, no device synchronisation) and all stop after the same batch. The checkpoint resumes exactly:

    - with gradient accumulation the stop waits for the optimizer step, since half-accumulated gradients are not saved
      (it does not wait in a validation that was started between two optimizer steps: there they are lost);
    - after a batch that is followed by a validation, the stop is made in the validation instead, and the checkpoint is
      such that the resumed run does this validation again, in full. Averaged weights (``WeightAveraging``) that stand
      in the model during validation are put back first.

    A second signal ends the process at once. Lightning's own handlers, which this replaces from the sanity check to the
    end of training, exit with 0 or 1, and hang when only one of several ranks gets the signal
    (https://github.com/Lightning-AI/pytorch-lightning/issues/20806).

    The callback moves itself to the end of the trainer's list, since what other callbacks do after a batch belongs into
    the checkpoint. In a thread other than the main one, where Python gives no signals, it does nothing.

    Args:
        path: the checkpoint to write; overwritten.

    Raises:
        StopRequested: in the training loop, on all ranks, after the checkpoint was written.

    Example:
        >>> GracefulStop("runs/0/checkpoints/last.ckpt").path.name
        'last.ckpt'
    """

    def __init__(self, path: str | Path) -> None:
        if not str(path):
            raise ValueError(f"path must name a checkpoint file, got {path!r}")
        self.path = Path(path)
        self._received = 0  # signal that this rank got
        self._agreed = 0  # signal that all ranks know of
        self._agreement: RankAgreement | None = None
        self._trainer: pl.Trainer | None = None
        self._pid = 0
        self._waiting_for_batch = False
        self._global_step = 0
        self._validation_batches = 0
        self._validation_batches_of_all = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit" or threading.current_thread() is not threading.main_thread():
            return
        self._received = self._agreed = 0
        self._waiting_for_batch = False
        self._agreement = RankAgreement()
        self._trainer = trainer
        move_to_end(trainer, self)

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._install_handlers()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._global_step = trainer.global_step
        self._install_handlers()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._waiting_for_batch = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._agreement is None:
            return
        self._agreed = max(self._agreed, self._agreement.exchange(self._received))
        stepped = trainer.global_step != self._global_step
        self._global_step = trainer.global_step
        if self._agreed and stepped and not more_belongs_to_this_batch(trainer, batch_idx):
            self._stop(trainer)
        self._waiting_for_batch = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._waiting_for_batch = False
        if self._agreement is None:
            return
        self._agreed = max(self._agreed, self._agreement.settle(self._received))
        if self._agreed:
            self._stop(trainer)
        # Ranks may have unequal numbers of validation batches, but must exchange the same number of times.
        batches = sum(trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches)
        self._validation_batches = 0
        self._validation_batches_of_all = self._agreement.minimum(int(min(batches, _ENDLESS)))

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._waiting_for_batch = not trainer.sanity_checking

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._waiting_for_batch = False

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._validation_batches += 1
        if self._agreement is not None and self._validation_batches <= self._validation_batches_of_all:
            self._agreed = max(self._agreed, self._agreement.exchange(self._received))
            if self._agreed:
                _put_back_trained_weights(trainer, pl_module)
                self._stop(trainer)
        self._waiting_for_batch = not trainer.sanity_checking

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._waiting_for_batch = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._agreement is None:
            return
        self._agreed = max(self._agreed, self._agreement.settle(self._received))
        if self._agreed:
            self._stop(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # A signal to the whole process group ends the loader's workers too, so that the next batch never comes.
        # Several ranks would have to agree first, but may be waiting for one another's gradients.
        if self._agreement is None or self._agreement.distributed or not (self._received and self._waiting_for_batch):
            return
        self._agreed = self._received
        if trainer.validating:
            _put_back_trained_weights(trainer, pl_module)
        self._stop(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # Lightning has put back the handlers that it found, by now.
        self._agreement = self._trainer = None

    def _install_handlers(self) -> None:
        if self._agreement is None:
            return
        self._pid = os.getpid()
        for signum in _SIGNALS:
            if signal.getsignal(signum) != signal.SIG_IGN:  # a background job of a shell ignores Ctrl-C
                signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a loader's worker, forked from this process: it ends when this process is done with it
        if self._received:
            launcher = self._trainer.strategy.launcher if self._trainer is not None else None
            if launcher is not None:
                launcher.kill(signal.SIGKILL)
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        self._received = signum
        # If the loader's workers got the signal too, torch's SIGCHLD handler would raise in the middle of the step. A
        # worker that is missed still raises when its batch is fetched.
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _stop(self, trainer: pl.Trainer) -> None:
        self._waiting_for_batch = False  # on_exception follows
        name = signal.Signals(self._agreed).name
        if trainer.sanity_checking:
            rank_zero_info(f"{name}: stopped before the first step; nothing was saved.")
        else:
            if trainer.validating:
                _do_validation_again_on_resume(trainer)
            trainer.save_checkpoint(self.path, weights_only=False)
            rank_zero_info(f"{name}: stopped after step {trainer.global_step} and saved {self.path}.")
        raise StopRequested(0 if _launched_by_rank_zero(trainer) else 128 + self._agreed)


def more_belongs_to_this_batch(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a validation or the end of the epoch follows; a checkpoint taken before it would skip it on resume."""
    if trainer.is_last_batch or 0 <= trainer.max_steps <= trainer.global_step:
        return True
    interval = trainer.val_check_batch
    if not trainer.enable_validation or interval is None or interval == float("inf"):
        return False
    position = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return (position + 1) % interval == 0


def _put_back_trained_weights(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Let each ``WeightAveraging`` do what it would do at the end of this validation."""
    for callback in list_callbacks(trainer):
        if isinstance(callback, WeightAveraging):
            callback.on_validation_epoch_end(trainer, pl_module)


def _do_validation_again_on_resume(trainer: pl.Trainer) -> None:
    """Make the loop's progress say: the first batch of this validation was started and not finished."""
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    progress.reset()
    progress.increment_ready()
    progress.increment_started()


def _launched_by_rank_zero(trainer: pl.Trainer) -> bool:
    """Whether this process was started by Lightning's launcher in rank 0.

    Rank 0 is killed (exit code 137) when it sees such a child end with another code than 0 before itself.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return trainer.global_rank > 0 and isinstance(environment, LightningEnvironment)
