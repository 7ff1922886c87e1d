"""A data loader that can be stopped after any batch and goes on with the next one, with any number of workers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from dlrecipes.data.loading.sampler import EpochSampler
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted

__all__ = ["ResumableDataLoader", "leaves_out_rest", "make_loader"]

_MANY = 20  # batches of an epoch of which one more or less makes no difference


class ResumableDataLoader(DataLoader[Any]):
    """``DataLoader`` with ``state_dict`` and ``load_state_dict``, which Lightning calls for its checkpoints.

    Needs an `EpochSampler` and a ``batch_size``; made by `make_loader`. Counted are the batches handed out, not those
    that workers have already prepared. ``len(loader)`` is always the whole epoch.
    """

    # Class attributes, because Lightning rebuilds loaders from the arguments of DataLoader.__init__.
    _epoch, _batches = 0, 0  # the pass that was last begun or loaded, and how many of its batches were handed out
    _loaded = False
    _refusal = ""  # why the rest of the loaded epoch cannot be handed out

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # the base promises its private iterator type
        # A generator begins only when its first batch is asked for. That is needed: Lightning makes the iterator
        # before it tells the sampler the epoch, and workers would prepare batches of the wrong epoch after a resume.
        sampler = self._sampler
        if not (self._loaded and self._epoch == sampler.epoch):
            self._epoch, self._batches = sampler.epoch, 0
        elif self._refusal:
            raise UserError(self._refusal)
        self._loaded, self._refusal = False, ""
        sampler.skip(self._batches * self._batch_size)
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Position, as primitives: ``epoch``, its ``batches`` that were handed out, ``batch_size``, ``world_size``."""
        epoch = self._sampler.epoch
        return {
            "epoch": epoch,
            "batches": self._batches if self._epoch == epoch else 0,
            "batch_size": self._batch_size,
            "world_size": self._sampler.world_size,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass go on after ``state["batches"]`` batches if it is one through epoch ``state["epoch"]``.

        If batch size or number of processes differ from the saved ones, that pass raises `UserError`; a pass through
        another epoch does not: a run goes on from an epoch's end with any of them.
        """
        now = {"batch_size": self._batch_size, "world_size": self._sampler.world_size}
        saved = {key: state[key] for key in now}
        self._refusal = ""
        if state["batches"] > 0 and saved != now:
            self._refusal = (
                f"The checkpoint was written in the middle of epoch {state['epoch']} with batch size "
                f"{saved['batch_size']} on {counted(saved['world_size'], 'process', 'processes')}, not "
                f"{now['batch_size']} on {now['world_size']}: resume with the same, or from a checkpoint "
                "of an epoch's end."
            )
        self._epoch, self._batches, self._loaded = state["epoch"], state["batches"], True
        self._sampler.set_epoch(self._epoch)

    @property
    def _sampler(self) -> EpochSampler:
        if not isinstance(self.sampler, EpochSampler):
            raise TypeError(f"ResumableDataLoader needs an EpochSampler, got {type(self.sampler).__name__}")
        return self.sampler

    @property
    def _batch_size(self) -> int:
        if self.batch_size is None:
            raise TypeError("ResumableDataLoader needs a batch_size, not a batch_sampler")
        return self.batch_size


def make_loader(
    dataset: Dataset[Any],
    sampler: EpochSampler,
    *,
    batch_size: int,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    pin_memory: bool | None = None,
    drop_last: bool = False,
) -> ResumableDataLoader:
    """A loader whose samples are asked for as ``dataset[epoch, index]``.

    Args:
        dataset: map-style; its items must be pure functions of (epoch, index).
        sampler: which samples, in which order.
        batch_size: samples a batch on this rank; the last batch of an epoch may be smaller.
        num_workers: processes that prepare batches; they stay alive between epochs.
        collate_fn: list of samples -> batch.
        pin_memory: None = where a CUDA device is found.
        drop_last: leave a smaller last batch out; see `leaves_out_rest`.

    Raises:
        ValueError: ``batch_size`` < 1 or ``num_workers`` < 0.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if num_workers < 0:
        raise ValueError(f"num_workers must not be negative, got {num_workers}")
    return ResumableDataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate_fn,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        drop_last=drop_last,
        persistent_workers=num_workers > 0,
        worker_init_fn=_set_up_worker if num_workers > 0 else None,
        # Its own generator: a pass draws a number for the workers' seeds, which would otherwise come from the global
        # stream that dropout uses, one draw more after each resume.
        generator=torch.Generator().manual_seed(sampler.seed),
    )


def leaves_out_rest(samples: int, batch_size: int) -> bool:
    """Whether training should leave out an epoch's last batch because it is smaller than the others.

    Yes after 20 full batches, where a step with a noisier gradient and another shape (recompiled, slower) brings
    nothing: other samples are left out in each epoch. Not before, where each sample matters; but one sample alone is
    left out even then, because batch norm has no variance of it. A batch size of 1 is the user's own choice.

    Args:
        samples: of one rank in an epoch.
        batch_size: of that rank.

    Example:
        >>> leaves_out_rest(20 * 64 + 30, 64), leaves_out_rest(2 * 64 + 30, 64), leaves_out_rest(2 * 64 + 1, 64)
        (True, False, True)
    """
    full, rest = divmod(samples, batch_size)
    return rest > 0 and (full >= _MANY or (rest == 1 and full > 0))


def _set_up_worker(worker: int) -> None:
    """Make a worker one quiet helper of its parent.

    Workers share the cores: OpenCV's own threads in each of them only get in each other's way. And Ctrl-C and a
    scheduler's SIGTERM reach the whole process group, though only the trainer is meant: it still needs its batches to
    end the step and save. A second SIGTERM is the trainer's own and ends the worker.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)


def _ignore_once(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_DFL)
