"""How signal and gradient fare from layer to layer at the start of a training, and where they explode or die."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn

from dlrecipes.contracts import Verdict
from dlrecipes.errors import UserError
from dlrecipes.nn.init.gain import WEIGHTED
from dlrecipes.nn.init.probe import as_at_start, call_model
from dlrecipes.nn.nest import first_tensor

__all__ = ["AuditRow", "InitAudit", "init_audit"]

_SOURCE = "init audit"
_REMEDY = "Start it by init_weights(model) or lsuv_(model, batch), put norms between the layers, or add shortcuts."


class AuditRow(NamedTuple):
    """One layer; all but the first two are relative to 1 at the model's input, or for gradients at its last layer.

    Attributes:
        name, kind: of the layer.
        size: root mean square of its output, all numbers of it.
        incoming: standard deviation of its input from sample to sample: what the samples differ by.
        differs: the same of its output.
        gradient: norm of the loss's gradient with respect to its output; NaN: none comes here.
    """

    name: str
    kind: str
    size: float
    incoming: float
    differs: float
    gradient: float


class InitAudit(NamedTuple):
    """Forward and backward variance by layer; ``print(audit)`` says what is wrong, ``audit.table()`` shows each layer.

    Attributes:
        rows: layers in the order in which they are called.
        limit: factor up to which nothing is said.
        first: name of the first layer that explodes or dies; None: there is none.
        verdict: the same as a sentence, with evidence and advice.
    """

    rows: tuple[AuditRow, ...]
    limit: float
    first: str | None
    verdict: Verdict

    def table(self) -> Table:
        """For rich's ``print``: standard deviations, whose squares are the variances."""
        table = Table("layer", "kind", box=None, pad_edge=False)
        for title in ("size", "between samples", "gradient"):
            table.add_column(title, justify="right")
        for row in self.rows:
            style = "bold red" if row.name == self.first else None
            numbers = (f"{value:.2g}" for value in (row.size, row.differs, row.gradient))
            table.add_row(row.name, row.kind, *numbers, style=style)
        return table

    def __str__(self) -> str:
        return str(self.verdict)


def init_audit(
    model: nn.Module,
    batch: Any,
    loss: Callable[[Any], Tensor] | None = None,
    *,
    limit: float = 100.0,
) -> InitAudit:
    """Send a batch forward and a gradient backward through a model as it is, and name the first layer that explodes or
    dies.

    Forward, a layer explodes where the root mean square of its output is more than ``limit`` times the input's, and the
    signal dies where what the samples differ by is less than 1/``limit`` of that in the input, and stays so to the end:
    a network that answers the same to all cannot learn, however large the answer. Backward, the norm of the gradient is
    compared to that at the last layer in the same way, where a layer counts as dead if all before it are as well: a
    branch that starts as 0, beside a shortcut, is meant to have none.

    Batch norms use the batch and dropout is off; weights, gradients and running statistics stay as they were.

    Args:
        model: any.
        batch: its input: a tensor, a tuple of inputs, or a dict of them by name; 2 samples or more, better 32.
        loss: of the model's output → scalar; default: the sum of the last layer's output times fixed random numbers,
            so that every output gets a gradient of the same size.
        limit: above 1.

    Raises:
        ValueError: a limit of 1 or less.
        UserError: fewer than two samples, samples that are all the same, or no layer that is called.

    Example:
        >>> from dlrecipes.nn.init.weights import init_weights
        >>> net = nn.Sequential(*[layer for _ in range(20) for layer in (nn.Linear(64, 64), nn.ReLU())])
        >>> x = torch.randn(32, 64)
        >>> _ = init_weights(net)
        >>> init_audit(net, x).first is None
        True
        >>> _ = init_weights(net, "glorot")
        >>> init_audit(net, x).verdict.title
        'the signal dies'
    """
    if not limit > 1:
        raise ValueError(f"limit={limit}: must be above 1")
    source = first_tensor(batch)
    if source is None or source.ndim == 0 or len(source) < 2:
        raise UserError("an audit compares samples: give a batch of at least 2")
    probes, gradients, weights = _measure(model, batch, loss)
    if not probes:
        raise UserError(f"{type(model).__name__} calls no linear or convolution layer")
    size, differs = (_size(source), _differs(source)) if source.is_floating_point() else (probes[0][2], probes[0][4])
    if not differs > 0:
        raise UserError("the samples of the batch are all the same: give different ones")
    last = next((g for g in reversed(gradients) if g > 0), math.nan)
    rows = tuple(
        AuditRow(name, kind, rms / size, before / differs, after / differs, gradient / last)
        for (name, kind, rms, before, after), gradient in zip(probes, gradients, strict=True)
    )
    first, verdict = _judge(rows, limit, head_is_zero=not bool(weights[-1].any()))
    return InitAudit(rows, limit, first, verdict)


_Probe = tuple[str, str, float, float, float]


def _measure(
    model: nn.Module, batch: Any, loss: Callable[[Any], Tensor] | None
) -> tuple[list[_Probe], list[float], list[Tensor]]:
    """Sizes of each call's input and output, norms of gradients, and weights, in order of execution."""
    probes: list[_Probe] = []
    outputs: list[Tensor] = []
    weights: list[Tensor] = []

    def probe(name: str) -> Callable[..., Tensor]:
        def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            given = first_tensor(inputs)
            before = math.nan if given is None else _differs(given)
            probes.append((name, type(module).__name__, _size(output), before, _differs(output)))
            kept = output if output.requires_grad else output.detach().requires_grad_()
            outputs.append(kept)
            weights.append(module.weight.detach())  # type: ignore[operator]  # all of WEIGHTED have one
            return kept.clone()  # an activation that works in place must not change what the gradient is asked for

        return note

    handles = [m.register_forward_hook(probe(name)) for name, m in model.named_modules() if isinstance(m, WEIGHTED)]
    try:
        with torch.enable_grad(), as_at_start(model):
            answer = call_model(model, batch)
            if not outputs:
                return [], [], []
            target = _default_loss(outputs[-1]) if loss is None else loss(answer)
            found = torch.autograd.grad(target, outputs, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return probes, [math.nan if g is None else float(g.float().norm()) for g in found], weights


def _default_loss(output: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (output.float() * torch.randn(output.shape, generator=generator).to(output.device)).sum()


def _size(tensor: Tensor) -> float:
    return float(tensor.detach().float().square().mean().sqrt())


def _differs(tensor: Tensor) -> float:
    """Root of the mean over all places of the variance over samples."""
    return float(tensor.detach().float().var(dim=0, unbiased=False).mean().sqrt())


def _judge(rows: tuple[AuditRow, ...], limit: float, head_is_zero: bool) -> tuple[str | None, Verdict]:
    """The first layer in the order of the forward, then of the backward pass."""
    forward = _first_forward(rows, limit)
    if forward is not None:
        name, title, number = forward
        way = {"the signal explodes": "is %s times the input's", "the signal dies": "is %s of the input's"}[title]
        what = "the size of its output" if "explodes" in title else "what samples differ by behind it"
        evidence = f"{name!r} is the first layer where {what} {way % f'{number:.2g}'} ({_growth(rows, name)})."
        return name, Verdict(source=_SOURCE, title=title, level="warning", evidence=evidence, advice=_REMEDY)
    backward = None if head_is_zero else _first_backward(rows, limit)
    if backward is not None:
        name, title, number = backward
        evidence = f"from the end, {name!r} is the first layer where it is {number:.2g} of the last layer's."
        return name, Verdict(source=_SOURCE, title=title, level="warning", evidence=evidence, advice=_REMEDY)
    note = "; the last layer starts as 0, so that gradients come with the second step" if head_is_zero else ""
    evidence = f"{len(rows)} layers keep signal and gradient within a factor of {limit:g}{note}."
    return None, Verdict(source=_SOURCE, title="signal and gradient pass", level="ok", evidence=evidence)


def _first_forward(rows: tuple[AuditRow, ...], limit: float) -> tuple[str, str, float] | None:
    for index, row in enumerate(rows):
        if index and row.incoming < 1 / limit and _all_dead(rows[index:], limit):
            return rows[index - 1].name, "the signal dies", row.incoming  # behind the layer before: its activation
        if not row.size <= limit:  # NaN is no size either
            return row.name, "the signal explodes", row.size
        # The last layer may make its output small: many heads start near 0 on purpose.
        if row is not rows[-1] and row.differs < 1 / limit and _all_dead(rows[index:], limit):
            return row.name, "the signal dies", row.differs
    return None


def _all_dead(rows: tuple[AuditRow, ...], limit: float) -> bool:
    return all(row.differs < 1 / limit for row in rows)


def _first_backward(rows: tuple[AuditRow, ...], limit: float) -> tuple[str, str, float] | None:
    reached = [row for row in rows if not math.isnan(row.gradient)]
    for index in range(len(reached) - 1, -1, -1):
        row = reached[index]
        if not row.gradient <= limit:
            return row.name, "the gradient explodes", row.gradient
        if all(before.gradient < 1 / limit for before in reached[: index + 1]):
            return row.name, "the gradient dies", row.gradient
    return None


def _growth(rows: tuple[AuditRow, ...], name: str) -> str:
    """Mean factor of size from layer to layer, to the layer of that name."""
    upto = next(index for index, row in enumerate(rows) if row.name == name)
    sizes = [row.size for row in rows[: upto + 1]]
    if upto == 0 or not (sizes[0] > 0 and math.isfinite(sizes[-1])):
        return "at once"
    return f"x{(sizes[-1] / sizes[0]) ** (1 / upto):.2g} a layer"
