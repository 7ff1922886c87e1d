"""A moving average of the weights, which is what is validated, tested and kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["AveragedWeights"]


class AveragedWeights(WeightAveraging):
    r"""Lightning's ``WeightAveraging`` with an exponential average that is of use from the first steps on.

    .. math:: \bar w_t = d_t\, \bar w_{t-1} + (1 - d_t)\, w_t, \qquad d_t = \min\Big(d, \frac{1 + t}{10 + t}\Big)

    The ramp is that of TensorFlow's ``ExponentialMovingAverage(num_updates=t)``: with d = .998 from the start, a third
    of the average of step 500 would be random initial weights.

    All weights are averaged in a few kernels; Lightning's ``EMAWeightAveraging`` goes through them one by one, which
    took 20 ms a step on an H100. The host counts the updates: torch's ``AveragedModel`` asks the device for their
    number, and would wait for it twice a step.

    ``Trainer.test(ckpt_path=...)`` measures the average, as validation does: Lightning 2.6 puts the weights that are
    trained back in its place there.

    Args:
        decay: d, between 0 and 1.
        device: of the average; None: where the model is when it is copied.

    Raises:
        ValueError: a decay outside 0..1.

    Example:
        >>> AveragedWeights(0.998).decay_at(0), AveragedWeights(0.998).decay_at(10**6)
        (0.1, 0.998)
    """

    def __init__(self, decay: float, device: torch.device | str | None = None) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay={decay}: must be between 0 and 1")
        super().__init__(device=device, multi_avg_fn=self._average)
        self.decay = decay
        self._step = 0
        self._updates: int | None = None  # so far; None: not read from the average yet

    def decay_at(self, step: int) -> float:
        """d of step t, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        for made in vars(self).values():  # Lightning has no public name for what it averages in
            if isinstance(made, AveragedModel):
                made.update_parameters = partial(self._update, made)  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._updates = None  # a checkpoint may have brought another average

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._step = max(0, trainer.global_step - 1)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # test and predict have loaded the average already, which is what a checkpoint calls its state_dict
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    @torch.no_grad()
    def _update(self, average: AveragedModel, model: nn.Module) -> None:
        """What torch's ``average.update_parameters(model)`` does, without waiting for the device."""
        if self._updates is None:
            self._updates = int(average.n_averaged)  # the one wait
        groups: dict[tuple[torch.dtype, torch.device], list[tuple[Tensor, Tensor]]] = {}
        for own, new in zip(_tensors(average.module), _tensors(model), strict=True):
            groups.setdefault((own.dtype, own.device), []).append((own.detach(), new.detach().to(own.device)))
        for pairs in groups.values():
            if self._updates == 0:
                for own, new in pairs:
                    own.copy_(new)
            else:
                self._average([own for own, _ in pairs], [new for _, new in pairs], average.n_averaged)
        average.n_averaged += 1
        self._updates += 1

    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], _count: Any) -> None:
        get_ema_multi_avg_fn(self.decay_at(self._step))(averaged, current, _count)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())
