"""Evaluation on several ranks that counts each sample once and never waits for a rank that is done."""

from __future__ import annotations

import lightning.pytorch as pl
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

__all__ = ["ExactEvaluation"]


class ExactEvaluation(pl.Callback):
    """Lets the ranks of a DDP run evaluate unequal numbers of batches, all with rank 0's buffers.

    A sampler that repeats no sample gives one rank a batch more than another. Lightning evaluates through DDP's
    forward, which broadcasts the buffers (running statistics of batch norm) before each batch: the rank with the extra
    batch would hang, or its broadcast would meet another collective of the other ranks. Here the buffers are broadcast
    once, when an evaluation begins, and DDP's own broadcast rests until it ends. Without DDP nothing happens.

    Must come after ``WeightAveraging`` in ``Trainer(callbacks=...)``, which exchanges the weights at the same hook.

    Example:
        >>> trainer = pl.Trainer(callbacks=[ExactEvaluation()], accelerator="cpu", logger=False)
    """

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(trainer)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(trainer)

    @staticmethod
    def _begin(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(trainer.model, DistributedDataParallel):
            for buffer in pl_module.buffers():
                dist.broadcast(buffer, src=0)
            trainer.model.require_forward_param_sync = False

    @staticmethod
    def _end(trainer: pl.Trainer) -> None:
        if isinstance(trainer.model, DistributedDataParallel):
            trainer.model.require_forward_param_sync = True
