"""What can be asked of a network and its loss in seconds, each on a copy: the questions of `SanityChecks`."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from dlrecipes.errors import UserError

__all__ = [
    "Learnt",
    "batch_mixing",
    "equal_scores_loss",
    "first_loss",
    "inputs_place",
    "learn",
    "make_twin",
    "with_inputs",
]

_INPUTS = ("images", "image", "x", "inputs", "input", "pixel_values")
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_HALF = 0.5
_FEWEST = 4  # steps: behind a layer that begins at zero, a gradient comes one step later

Agree = Callable[[bool], bool]


def make_twin(trainer: pl.Trainer, pl_module: pl.LightningModule) -> pl.LightningModule:
    """A copy that can take training steps and leaves nothing behind: it logs nowhere.

    Raises:
        UserError: a module that cannot be copied.
    """
    try:
        twin = copy.deepcopy(pl_module)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{type(pl_module).__name__} cannot be copied ({error})") from error
    twin.trainer = trainer
    twin.log = twin.log_dict = lambda *args, **options: None  # type: ignore[method-assign,assignment]  # no log of a copy
    return twin.train()


def first_loss(trainer: pl.Trainer, twin: pl.LightningModule, batch: Any) -> Tensor:
    """The loss of a training step, with its graph.

    Raises:
        UserError: a step that gives none.
    """
    fresh = apply_to_collection(batch, Tensor, Tensor.clone)  # a step may change its batch
    with trainer.precision_plugin.train_step_context():
        result = twin.training_step(fresh, 0)
    loss = result.get("loss") if isinstance(result, Mapping) else result
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise UserError("training_step returns no loss")
    return loss.reshape(())


def equal_scores_loss(trainer: pl.Trainer, twin: pl.LightningModule, head: nn.Module, batch: Any) -> float:
    """The loss if ``head`` gave each class the same score: log K for a cross entropy over K classes.

    Raises:
        UserError: a head that gives something else than one tensor.
    """

    def level(_module: nn.Module, _inputs: Any, outputs: Any) -> Tensor:
        if not isinstance(outputs, Tensor):
            raise UserError(f"{type(head).__name__} gives no single tensor of scores")
        return torch.zeros_like(outputs)

    handle = head.register_forward_hook(level)
    try:
        with torch.no_grad():
            return float(first_loss(trainer, twin, batch))
    finally:
        handle.remove()


@dataclass
class Learnt:
    """How a few steps on one batch went.

    Attributes:
        first, last: loss of the first step, and the least since.
        goal: half of the first loss, or of that of equal scores if it is known and lower.
        steps: that were taken.
        untouched: trainable parameters whose gradient was none or zero in all of them.
        in_time: the steps were not cut off by the clock.
    """

    first: float
    last: float
    goal: float
    steps: int
    untouched: list[str] = field(default_factory=list)
    in_time: bool = True

    @property
    def passed(self) -> bool:
        """Whether the loss fell to the goal."""
        return self.last <= self.goal


def learn(
    trainer: pl.Trainer,
    twin: pl.LightningModule,
    batch: Any,
    *,
    lr: float,
    steps: int,
    until_goal: bool,
    level: float,
    deadline: float,
    agree: Agree,
) -> Learnt:
    """Train the twin on one batch with AdamW and gradients clipped to a norm of 1.

    Args:
        trainer, twin, batch: see `first_loss`.
        lr: learning rate.
        steps: at most.
        until_goal: stop when the loss is half of what it was.
        level: loss of equal scores; infinite where that is not known.
        deadline: of ``time.monotonic()``.
        agree: True where it is True on all ranks: a step may wait for the others'.
    """
    trained = {name: p for name, p in twin.named_parameters() if p.requires_grad}
    if not trained:
        raise UserError("no parameter is trainable")
    reached = dict.fromkeys(trained, False)
    optimizer = torch.optim.AdamW(trained.values(), lr=lr, weight_decay=0.0)
    losses: list[float] = []
    for _ in range(steps):
        loss = first_loss(trainer, twin, batch)
        losses.append(float(loss.detach()))
        result = Learnt(losses[0], min(losses), _HALF * min(losses[0], level), len(losses))
        late = not agree(time.monotonic() <= deadline)
        if late or (until_goal and len(losses) > _FEWEST and agree(result.passed)):
            result.in_time = not late
            break
        optimizer.zero_grad()
        loss.backward()
        for name, p in trained.items():
            reached[name] = reached[name] or (p.grad is not None and bool(p.grad.ne(0).any()))
        nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
    result.untouched = [name for name, seen in reached.items() if not seen]
    return result


def inputs_place(batch: Any) -> Any:
    """Where a batch keeps what the network sees: a key of a dict, a position in a sequence, None for the batch itself.

    Raises:
        UserError: no tensor is found.

    Example:
        >>> inputs_place({"y": torch.zeros(2), "x": torch.zeros(2, 3)}), inputs_place([torch.zeros(2, 3), "names"])
        ('x', 0)
    """
    if isinstance(batch, Tensor):
        return None
    if isinstance(batch, Mapping):
        names = [name for name in (*_INPUTS, *batch) if isinstance(batch.get(name), Tensor)]
        if names:
            return names[0]
    elif isinstance(batch, Sequence) and len(batch) and isinstance(batch[0], Tensor):
        return 0
    raise UserError("the batch has no tensor that could be the network's input")


def with_inputs(batch: Any, inputs: Tensor) -> Any:
    """The batch with other inputs."""
    place = inputs_place(batch)
    if place is None:
        return inputs
    if isinstance(batch, Mapping):
        return {**batch, place: inputs}
    return [inputs, *batch[1:]]


def batch_mixing(twin: pl.LightningModule, batch: Any) -> tuple[bool, bool | None, int]:
    """Whether a sample's outputs depend on other samples of the batch, by the gradients of the first and the last one.

    Both are asked: what runs over the samples as over time, a recurrent layer or a cumulative sum, leaves the first one
    alone.

    Returns:
        In evaluation; in training with batch norm as in evaluation (None: it could not be run); layers of batch norm.

    Raises:
        UserError: inputs that have no gradient, a batch of one, outputs without a dimension for the samples, such as a
            list with an entry for each.
    """
    place = inputs_place(batch)
    inputs = batch if place is None else batch[place]
    mask = batch.get("mask") if isinstance(batch, Mapping) else None
    if len(inputs) < 2:
        raise UserError("a batch of one sample has nothing to mix")
    norms = [module for module in twin.modules() if isinstance(module, _NORMS)]
    twin.eval()
    in_evaluation = _depends(twin, inputs, mask)
    in_training: bool | None = None
    twin.train()
    for norm in norms:
        norm.eval()
    try:
        in_training = _depends(twin, inputs, mask)
    except (RuntimeError, TypeError, ValueError, UserError):  # a network may want its targets in training
        in_training = None
    return in_evaluation, in_training, len(norms)


def _depends(twin: pl.LightningModule, inputs: Tensor, mask: Tensor | None) -> bool:
    def run(x: Tensor, count: int) -> list[Tensor]:
        return list(_floats(twin(x[:count], *(() if mask is None else (mask[:count],)))))

    x = inputs.detach().clone().float().requires_grad_()
    with torch.enable_grad():
        try:
            outputs = run(x, len(x))
            with torch.no_grad():
                fewer = run(x, len(x) - 1)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"the network does not take the batch's inputs as floating point ({error})") from error
        if len(outputs) != len(fewer):
            raise UserError("the network gives other tensors for other numbers of samples, so none holds all of them")
        dims = [_changed(a, b) for a, b in zip(outputs, fewer, strict=True)]
        own = [(out.float(), dim) for out, dim in zip(outputs, dims, strict=True) if dim is not None]
        own = [(out, dim) for out, dim in own if out.requires_grad]
        if not own:
            raise UserError("no output of the network has a dimension for the samples")
        for sample, others in ((0, slice(1, None)), (-1, slice(None, -1))):
            total = torch.stack([out.select(dim, sample).sum() for out, dim in own]).sum()
            (gradient,) = torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)
            if gradient is not None and bool(gradient[others].ne(0).any()):
                return True
    return False


def _changed(a: Tensor, b: Tensor) -> int | None:
    """The dimension that grew by one sample."""
    if a.dim() != b.dim():
        return None
    return next((d for d in range(a.dim()) if a.shape[d] == b.shape[d] + 1), None)


def _floats(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from _floats(value)
    elif isinstance(outputs, Sequence) and not isinstance(outputs, str):
        for value in outputs:
            yield from _floats(value)
