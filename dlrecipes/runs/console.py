"""What a person sees while a run goes on: one line an epoch, and on a terminal a bar below them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from dlrecipes.runs.metric_names import DETECTION_HEADLINE, format_value, with_split

__all__ = ["EpochLines", "format_seconds", "make_progress"]

_LOSSES = ("train/loss", "val/loss")
_MOST_METRICS = 3
_MANY_EPOCHS, _SECONDS_BETWEEN = 100, 10.0


class EpochLines(Callback):
    """Prints one line after each epoch: metrics, learning rate, seconds, and the time left.

    ::

        epoch  3/40  train/loss 5.213  val/loss 4.870  val/map 0.112  val/map_50 0.304  lr 1.0e-04  6.1s  left 3m46s

    The epoch's time contains its validation. A metric that an epoch did not measure is left out, as in a run that
    validates every fifth epoch; of more than 100 epochs, those that do not validate
    have a line only where the last one is 10 s old.

    Args:
        metrics: names to print, in order; one that the run does not measure is left out.
        most: how many of them at most.

    Raises:
        ValueError: ``most`` is below 1.
    """

    def __init__(
        self, metrics: Sequence[str] = (*_LOSSES, *with_split("val", DETECTION_HEADLINE[:2])), most: int = 20
    ) -> None:
        if most < 1:
            raise ValueError(f"most must be at least 1, got {most}")
        self.metrics = tuple(metrics)
        self.most = most
        self._started_at = 0.0
        self._epoch_at = 0.0
        self._printed_at = 0.0
        self._first_epoch = 0
        self._validated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started_at = self._epoch_at = self._printed_at = (
            time.monotonic()
        )  # no epoch starts where a run resumes within one
        self._first_epoch = trainer.current_epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_at = time.monotonic()
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        few = (trainer.max_epochs or 0) <= _MANY_EPOCHS
        due = few or self._validated or time.monotonic() - self._printed_at >= _SECONDS_BETWEEN
        if trainer.is_global_zero and due:
            print(self._line(trainer), flush=True)
            self._printed_at = time.monotonic()

    def _line(self, trainer: Trainer) -> str:
        now, done = time.monotonic(), trainer.current_epoch + 1
        total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        words = [f"epoch {done:>{len(str(total))}}/{total}" if total else f"epoch {done}"]
        measured = trainer.callback_metrics
        known = [name for name in self.metrics if name in measured][: self.most]
        names = [name for name in known if self._validated or not name.startswith("val/")]
        words += [f"{name} {format_value(float(measured[name]))}" for name in names]
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if rates:
            words.append(f"lr {max(rates):.1e}")
        words.append(format_seconds(now - self._epoch_at))
        if total and done < total:
            each = (now - self._started_at) / (done - self._first_epoch)
            words.append(f"left {format_seconds(each * (total - done))}")
        return "  ".join(words)


def make_progress(terminal: bool, headline: Sequence[str] = DETECTION_HEADLINE[:2]) -> list[Callback]:
    """Callbacks that show progress: lines, and on a terminal Lightning's bar of the running epoch below them.

    Give the trainer ``enable_progress_bar=terminal``, or Lightning adds a bar of its own.

    Args:
        terminal: ``sys.stdout.isatty()``.
        headline: the task's metrics without their split, most important first; the first three that it measures are
            printed.
    """
    lines = EpochLines((*_LOSSES, *with_split("val", headline)), most=len(_LOSSES) + _MOST_METRICS)
    return [lines, RichProgressBar(leave=False)] if terminal else [lines]


def format_seconds(seconds: float) -> str:
    """A duration for people.

    >>> [format_seconds(s) for s in (6.14, 226, 7384)]
    ['6.1s', '3m46s', '2h03m']
    """
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
