"""Stop at the first NaN or infinity, and say where it came from."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dlrecipes.callbacks.agreement import RankAgreement
from dlrecipes.callbacks.ordering import move_to_front
from dlrecipes.errors import NonFiniteError

__all__ = ["NonFiniteStop"]

_NEVER = 2**62
_REMEMBERED_BATCHES = 256  # more than a host can run ahead of its device
_LISTED_IMAGES = 8


@dataclass(order=True)
class _Finding:
    """First non-finite tensor on one rank; the smallest of all ranks is the cause, the others are its consequences."""

    batch_number: int
    kind: int  # 0 loss, 1 gradient, 2 weight: in the order in which one spoils the next
    rank: int
    sentence: str = field(compare=False)


@dataclass
class _BatchNote:
    step: int
    epoch: int
    batch_idx: int
    paths: list[str]


class NonFiniteStop(pl.Callback):
    """Raise :class:`~dlrecipes.errors.NonFiniteError` when a loss, a gradient or a weight is NaN or infinite.

    The error is one sentence: step, epoch, the batch's images (``batch["paths"]``) and the first non-finite tensor.

    - On a CPU the batch itself is checked. On a GPU the step is not held up: the device notes the first bad batch in a
      tensor, which is copied to the host beside the training and looked at when it has arrived, a few batches later.
    - No checkpoint is written once something is not finite: each save first checks the notes and all parameters.
    - Several ranks stop together and say the same (a NaN loss of one rank makes the gradients of all ranks NaN).
    - With ``precision="16-mixed"`` gradients are not checked: its loss scaling meets infinite gradients by design.

    A loss term is named if ``training_step`` returns it beside ``"loss"`` (detached scalars), or logs it with "loss" in
    its name.

    Args:
        check_gradients: check the L2 norm of all gradients at each optimizer step; one pass over the gradients.

    Raises:
        NonFiniteError: in the training loop, on all ranks; exit code 3.

    Example:
        >>> NonFiniteStop().check_gradients
        True
    """

    def __init__(self, check_gradients: bool = True) -> None:
        self.check_gradients = check_gradients
        self._forget()

    def _forget(self) -> None:
        self._first_bad: Tensor | None = None  # int64 [2]: number of the first batch with a bad loss, a bad gradient
        self._terms: Tensor | None = None  # float [T]: losses of the first bad batch, or of the last one
        self._term_names: list[str] = []
        self._bad_gradient: str | None = None
        self._batch_number = -1
        self._notes: OrderedDict[int, _BatchNote] = OrderedDict()
        self._copies: deque[tuple[Tensor, torch.Event]] = deque()
        self._agreement: RankAgreement | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._forget()
        if stage == "fit":
            self._agreement = RankAgreement()
            move_to_front(trainer, self)  # so that no other callback works with what is not finite

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._first_bad = torch.full((2,), _NEVER, device=pl_module.device)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch_number += 1
        paths = batch.get("paths", []) if isinstance(batch, dict) else []
        note = _BatchNote(trainer.global_step, trainer.current_epoch, batch_idx, [str(path) for path in paths])
        self._notes[self._batch_number] = note
        if len(self._notes) > _REMEMBERED_BATCHES:
            self._notes.popitem(last=False)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if not self.check_gradients or str(trainer.precision) == "16-mixed":
            return
        # The optimizer's list, not a walk through the modules: that takes a good part of a millisecond in every step.
        stepped = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
        finite = _all_finite(stepped)
        self._note(1, finite)
        # Here and not in the report, since gradient clipping spreads one NaN over all gradients.
        if finite.device.type == "cpu" and self._bad_gradient is None and not finite:
            self._bad_gradient = _first_non_finite(_gradients(pl_module))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._agreement is None or self._first_bad is None:
            return
        self._note_losses(outputs)
        if self._agreement.exchange(-self._arrived()) > -_NEVER:
            self._stop(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check_now(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check_now(trainer, pl_module, weights=True)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._forget()

    def _note(self, kind: int, finite: Tensor) -> None:
        """Write down the number of this batch on the device, if it is the first bad one."""
        assert self._first_bad is not None
        number = torch.where(finite, _NEVER, self._batch_number)
        self._first_bad[kind] = torch.minimum(self._first_bad[kind], number)

    def _note_losses(self, outputs: Any) -> None:
        losses = outputs if isinstance(outputs, dict) else {"loss": outputs}
        scalars = {k: v.detach().float() for k, v in losses.items() if isinstance(v, Tensor) and v.numel() == 1}
        if "loss" not in scalars or self._first_bad is None:
            return  # training_step returned None: the batch was skipped
        terms = torch.stack([v.reshape(()).to(self._first_bad.device) for v in scalars.values()])
        if self._term_names != list(scalars) or self._terms is None:
            self._term_names, self._terms = list(scalars), terms
        else:
            self._terms = torch.where(self._first_bad[0] == _NEVER, terms, self._terms)
        self._note(0, torch.isfinite(scalars["loss"]).reshape(()))

    def _arrived(self) -> int:
        """Number of the first bad batch, as far as the host knows; ``_NEVER`` if none."""
        assert self._first_bad is not None
        if self._first_bad.device.type == "cpu":
            return int(self._first_bad.min())
        copy = torch.empty(2, dtype=torch.int64, pin_memory=True).copy_(self._first_bad, non_blocking=True)
        event = torch.Event(self._first_bad.device)
        event.record()
        self._copies.append((copy, event))
        first_bad = _NEVER
        while self._copies and self._copies[0][1].query():
            first_bad = min(first_bad, int(self._copies.popleft()[0].min()))
        return first_bad

    def _check_now(self, trainer: pl.Trainer, pl_module: pl.LightningModule, weights: bool = False) -> None:
        """Wait for the device and for all ranks, at the few places where that costs nothing."""
        if self._agreement is None or self._first_bad is None:
            return
        first_bad = int(self._first_bad.min())
        if weights and not _all_finite(pl_module.parameters()):
            first_bad = min(first_bad, self._batch_number)
        if self._agreement.settle(-first_bad) > -_NEVER:
            self._stop(trainer, pl_module)

    def _stop(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self._agreement is not None
        findings = self._agreement.gather(self._finding(trainer, pl_module))
        raise NonFiniteError(min(finding for finding in findings if finding is not None).sentence)

    def _finding(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> _Finding | None:
        assert self._first_bad is not None
        bad_loss, bad_gradient = (int(number) for number in self._first_bad)
        if bad_loss < _NEVER and bad_loss <= bad_gradient:
            number, kind, what = bad_loss, 0, self._name_loss(trainer)
        elif bad_gradient < _NEVER:
            name = self._bad_gradient or _first_non_finite(_gradients(pl_module))
            number, kind, what = bad_gradient, 1, f"the gradient of {name} is not finite"
        elif (name := _first_non_finite(dict(pl_module.named_parameters()))) != "":
            number, kind, what = self._batch_number, 2, f"the weight {name} is not finite"
        else:
            return None
        return _Finding(number, kind, trainer.global_rank, self._sentence(trainer, number, what))

    def _name_loss(self, trainer: pl.Trainer) -> str:
        values = dict(zip(self._term_names, self._terms.tolist() if self._terms is not None else [], strict=False))
        logged = {k: float(v) for k, v in trainer.callback_metrics.items() if "loss" in k and not k.startswith("val")}
        terms = {k: v for k, v in {**values, **logged}.items() if not math.isfinite(v)}
        total = values.get("loss", math.nan)
        name = next((k for k in terms if k.rsplit("/")[-1] not in ("loss", "loss_step", "loss_epoch")), None)
        return f"the loss is {total}" if name is None else f"the loss term {name} is {terms[name]}"

    def _sentence(self, trainer: pl.Trainer, number: int, what: str) -> str:
        note = self._notes.get(number, _BatchNote(trainer.global_step, trainer.current_epoch, number, []))
        rank = f", rank {trainer.global_rank}" if trainer.world_size > 1 else ""
        more = len(note.paths) - _LISTED_IMAGES
        images = ", ".join(note.paths[:_LISTED_IMAGES]) + (f" and {more} more" if more > 0 else "")
        return (
            f"Training stopped at step {note.step} (epoch {note.epoch}, batch {note.batch_idx}{rank}): {what}"
            + (f", with the images {images}" if images else "")
            + "; look at the batch's images and labels, or lower the learning rate."
        )


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def _all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """bool scalar on the tensors' device: their L2 norm is neither NaN nor infinite. One pass, no synchronisation."""
    dense = [t.detach() for t in tensors if t.is_floating_point() and not t.is_sparse]
    return torch.isfinite(torch.nn.utils.get_total_norm(dense))


def _first_non_finite(tensors: dict[str, Tensor]) -> str:
    """Name of the first tensor whose norm is not finite, "" if the norm of all together is finite; synchronises."""
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not _all_finite([t])]
    if 0 < len(bad) < len(tensors) or len(tensors) == 1:
        return bad[0] if bad else ""
    return "" if _all_finite(tensors.values()) else f"all {len(tensors)} parameters together"
